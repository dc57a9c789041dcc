"""Surgery on the text of a module, which keeps every line and comment that stays, and the banners between modules."""

from __future__ import annotations

import ast
import bisect
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple

from histofold.kaggle.bundle.modules import Module
from histofold.kaggle.bundle.syntax import blocks, is_jit

_BANNER = re.compile(r"# =+ ([\w.]+) =+")
_JOINED = re.compile(r"(?:[ \t\f]|\\\n)*;(?:[ \t\f]|\\\n)*")


def module_banner(name: str) -> str:
    """The line above a module in the joined file."""
    return f"# ======== {name} ".ljust(100, "=")


def banner_lines(source: str) -> list[tuple[int, str]]:
    """Line indices (from 0) and module names of the banners; text in strings does not count."""
    if not any(map(_BANNER.fullmatch, source.split("\n"))):
        return []
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        banner = _BANNER.fullmatch(token.string) if token.type == tokenize.COMMENT and token.start[1] == 0 else None
        if banner:
            found.append((token.start[0] - 1, banner[1]))
    return found


def bundled_body(module: Module) -> str:
    """The module's text without what moves elsewhere, its docstring as a comment above."""
    text = SourceText(module.source)
    edits = list(_cache_edits(text, module.tree))
    for node in ast.walk(module.tree):
        for _, block in blocks(node):
            edits += _block_edits(text, block, module.dropped, may_be_empty=isinstance(node, ast.Module))
    body = _edited(text.source, edits).strip("\n")
    return "\n\n".join(part for part in (_docstring_comment(module), body) if part)


def leading_comment(body: str) -> tuple[str, str]:
    """Undo what `bundled_body` did to a docstring: the comment that an empty line ends, as text, and what follows."""
    lines = body.strip("\n").split("\n")
    count = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    if count == 0 or (count < len(lines) and lines[count]):
        return "", body
    return "\n".join(line[1:].removeprefix(" ") for line in lines[:count]), "\n".join(lines[count:])


class _Edit(NamedTuple):
    """Replace source[start:end] by text."""

    start: int
    end: int
    text: str = ""


class SourceText:
    """Positions in a source as offsets in its string; ast counts the UTF-8 bytes of a line, tokenize its characters."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines = source.split("\n")  # never splitlines(): Python ends a line at "\n" alone
        self.starts = list(accumulate((len(line) + 1 for line in self.lines), initial=0))

    def start(self, node: ast.AST) -> int:
        """Where a node begins."""
        return self._offset(node.lineno, node.col_offset)  # type: ignore[attr-defined]

    def end(self, node: ast.AST) -> int:
        """Where a node ends."""
        return self._offset(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def _offset(self, line: int, column_bytes: int) -> int:
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column_bytes].decode())

    def line_of(self, offset: int) -> tuple[int, int]:
        """Start of the line that holds an offset, and of the next one."""
        index = bisect.bisect_right(self.starts, offset) - 1
        return self.starts[index], min(self.starts[index + 1], len(self.source))

    @cached_property
    def tokens(self) -> list[tuple[int, int, str]]:
        """(start, end, string) of the tokens that mean something."""
        skipped = {tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT}
        found = []
        for token in tokenize.generate_tokens(io.StringIO(self.source).readline):
            if token.type not in skipped:
                (row, column), (end_row, end_column) = token.start, token.end
                found.append((self.starts[row - 1] + column, self.starts[end_row - 1] + end_column, token.string))
        return found


def _docstring_comment(module: Module) -> str:
    docstring = ast.get_docstring(module.tree) or ""
    # A docstring may hold any character through escapes; a comment must stay on its line.
    lines = ["".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in docstring.split("\n")]
    return "\n".join(f"# {line}".rstrip() for line in lines) if docstring else ""


def _block_edits(
    text: SourceText, block: list[ast.stmt], dropped: frozenset[ast.AST], *, may_be_empty: bool
) -> Iterator[_Edit]:
    """Edits that take the dropped statements out of one block, with `pass` where nothing would be left."""
    gone = [statement for statement in block if statement in dropped]
    if gone and len(gone) == len(block) and not may_be_empty:
        yield _Edit(text.start(gone[0]), text.end(gone[0]), "pass")
        gone = gone[1:]
    if gone:
        for line in _logical_lines(text, block):
            yield from _line_edits(text, line, set(gone))


def _logical_lines(text: SourceText, block: list[ast.stmt]) -> list[list[ast.stmt]]:
    """The statements of a block, those joined by semicolons together."""
    lines = [[block[0]]]
    for before, after in pairwise(block):
        joined = _JOINED.fullmatch(text.source, text.end(before), text.start(after))
        if joined:
            lines[-1].append(after)
        else:
            lines.append([after])
    return lines


def _line_edits(text: SourceText, line: list[ast.stmt], gone: set[ast.stmt]) -> Iterator[_Edit]:
    """Edits that take statements out of one logical line; the line goes with its comment if nothing is left of it."""
    kept = [statement for statement in line if statement not in gone]
    if not kept:
        yield _Edit(text.line_of(text.start(line[0]))[0], text.line_of(text.end(line[-1]))[1])
        return
    last_kept = text.start(kept[-1])
    for statement, after in pairwise(line):
        if statement in gone and text.start(statement) < last_kept:
            yield _Edit(text.start(statement), text.start(after))
    if line[-1] in gone:
        yield _Edit(text.end(kept[-1]), text.end(line[-1]))


def _cache_edits(text: SourceText, tree: ast.Module) -> Iterator[_Edit]:
    """Edits that take `cache=True` out of the calls of njit: numba cannot cache what has no file of its own."""
    for call in filter(is_jit, ast.walk(tree)):
        for keyword in call.keywords:  # type: ignore[attr-defined]
            if keyword.arg == "cache" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True:
                yield from _argument_edits(text, text.start(keyword), text.end(keyword))


def _argument_edits(text: SourceText, start: int, end: int) -> Iterator[_Edit]:
    """Edits that take one argument out of a call, with the comma that it makes superfluous."""
    starts = [token[0] for token in text.tokens]
    before = text.tokens[bisect.bisect_left(starts, start) - 1]
    after = text.tokens[bisect.bisect_left(starts, end)]
    if after[2] == ",":
        line_start, next_line = text.line_of(start)
        stop = after[1] + len(re.match(r"[ \t]*", text.source[after[1] :]).group())  # type: ignore[union-attr]
        alone = not text.source[line_start:start].strip() and stop == next_line - 1
        yield _Edit(line_start, next_line) if alone else _Edit(start, stop)
    elif before[2] == "," and "#" not in text.source[before[1] : start]:
        yield _Edit(before[0], end)
    elif before[2] == ",":
        yield from (_Edit(before[0], before[1]), _Edit(start, end))
    else:
        yield _Edit(start, end)


def _edited(source: str, edits: Iterable[_Edit]) -> str:
    """Apply edits; the blank lines around a removed line become as many as the longer run had, none after a colon."""
    merged: list[_Edit] = []
    for edit in sorted(edits):
        assert not merged or edit.start >= merged[-1].end, "the bundler's edits overlap"
        if merged and not edit.text and not merged[-1].text and merged[-1].end == edit.start:
            merged[-1] = _Edit(merged[-1].start, edit.end)
        else:
            merged.append(edit)
    pieces, position = [], 0
    for start, end, text in merged:
        stop = end
        if not text and source[start:end].endswith("\n"):
            before = len(source[:start]) - len(source[:start].rstrip("\n")) - 1
            after = len(source[end:]) - len(source[end:].lstrip("\n"))
            stop += after if source[:start].endswith(":\n") else min(max(before, 0), after)
        pieces += [source[position:start], text]
        position = stop
    return "".join([*pieces, source[position:]])
