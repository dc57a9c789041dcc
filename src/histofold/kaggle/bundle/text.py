"""A module's text in the joined file: whole lines are taken out or shortened, and every other line stays as it is.

That is enough because sources are formatted: a statement begins its line, and nothing else ends on it (`rules` checks
it).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable

from histofold.kaggle.bundle.modules import Module
from histofold.kaggle.bundle.syntax import blocks, is_text

CACHED = re.compile(r"(\bn?jit\(.*), cache=True\)")
"""A call of numba's compiler on one line, whose last option is to cache: numba cannot cache what has no file."""
_WIDTH = 120
_SENTENCES = re.compile(r".*[.](?= |$)")


def summary(module: Module) -> str:
    """The first line of a module's docstring, as a comment can hold it."""
    line = (ast.get_docstring(module.tree) or "").partition("\n")[0]
    # A docstring may hold any character through escapes; a comment must stay on its line.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def bundled_body(module: Module, gone: Collection[ast.stmt]) -> str:
    """The module's text without its docstring and some statements, every other docstring by its first line."""
    return "\n".join(_closed_up(_Editor(module, gone).lines[1:])).strip("\n")


class _Editor:
    """The lines of a module, None where one is taken out."""

    def __init__(self, module: Module, gone: Collection[ast.stmt]) -> None:
        self.lines: list[str | None] = ["", *module.lines]  # numbered from 1, as ast does
        self._gone = gone
        self._edit(module.tree)
        self.lines = [line and CACHED.sub(r"\1)", line) for line in self.lines]

    def _edit(self, node: ast.AST) -> None:
        for block in blocks(node):
            end = getattr(node, "lineno", 0)
            for statement in block:
                if statement in self._gone:
                    self._take_out(statement, end)
                elif not is_text(statement):
                    self._edit(statement)
                elif statement is block[0]:
                    self._shorten(statement)
                else:
                    self._put_beside(statement, end)
                end = getattr(statement, "end_lineno", end)
            if not isinstance(node, ast.Module) and all(statement in self._gone for statement in block):
                self.lines[block[0].lineno] = " " * block[0].col_offset + "pass"  # formatted: no tabs

    def _take_out(self, statement: ast.stmt, end: int) -> None:
        """Take out a statement with its decorators and the comment directly above, down to `end` of the one before."""
        decorators = getattr(statement, "decorator_list", [])
        start = min(part.lineno for part in (statement, *decorators))
        while start - 1 > end and (self.lines[start - 1] or "").lstrip().startswith("#"):
            start -= 1
        self._cut(start, statement.end_lineno or start)

    def _shorten(self, statement: ast.stmt) -> None:
        """Keep the first line of a docstring."""
        end = statement.end_lineno or statement.lineno
        if end > statement.lineno:
            quotes = (self.lines[end] or "").rstrip()[-3:]
            self.lines[statement.lineno] = (self.lines[statement.lineno] or "").rstrip() + quotes
            self._cut(statement.lineno + 1, end)

    def _put_beside(self, statement: ast.stmt, end: int) -> None:
        """Make the words below a field or constant a comment beside it: as many whole sentences as fit, or none."""
        paragraph = ast.literal_eval(statement.value).partition("\n\n")[0]  # type: ignore[attr-defined]
        code = self.lines[end] or "#"
        fitting = _SENTENCES.match(" ".join(paragraph.split())[: _WIDTH - len(f"{code}  # ")])
        if fitting and "#" not in code and fitting[0].isprintable():
            self.lines[end] = f"{code}  # {fitting[0]}"
        self._cut(end + 1, statement.end_lineno or end)

    def _cut(self, start: int, end: int) -> None:
        self.lines[start : end + 1] = [None] * (end + 1 - start)


def _closed_up(lines: Iterable[str | None]) -> list[str]:
    """The lines that are left; around a cut as many blank lines as the longer run had, none after a colon."""
    kept: list[str] = []
    before = after = 0
    cut = False
    for line in lines:
        if line is None:
            before, after, cut = max(before, after), 0, True
        elif line == "":
            before, after = (before, after + 1) if cut else (before + 1, 0)
        else:
            opens = cut and kept and kept[-1].partition("#")[0].rstrip().endswith(":")
            kept += [""] * (0 if opens else max(before, after)) + [line]
            before, after, cut = 0, 0, False
    return kept
