"""A bundled kernel as a notebook: what it is in words, its configuration, a cell a module, and the run in its own."""

from __future__ import annotations

import ast
import hashlib
import json
from typing import Any

from histofold.core.faults import Fault, InputError
from histofold.kaggle.bundle.bundler import CONTENTS_LINE
from histofold.kaggle.bundle.syntax import is_main_guard
from histofold.kaggle.bundle.text import banner_lines

NOTEBOOK_LIMIT_BYTES = 1_000_000  # as for a script: Kaggle takes no larger source
_Cell = tuple[str, str]  # kind and text


def to_notebook(source: str, introduction: str = "") -> str:
    """Turn a bundled file into a notebook (nbformat 4.5).

    Its code cells run in order as the file does: in a notebook, which keeps what the first cell takes from __future__,
    or joined with newlines. The modules' summaries become text; what the file runs as a program is the last cells, one
    a statement. Cell ids come from the content, so that the same file gives the same bytes.

    Args:
        source: What `bundle` returned.
        introduction: Markdown for people, before all else.

    Raises:
        ValueError: If the text has no banner of a module, hence is no bundle.
        InputError: If the notebook is larger than Kaggle takes.
    """
    banners = banner_lines(source)
    if not banners:
        raise ValueError("no module banner in this text: give to_notebook what `histofold kernel` wrote")
    lines = source.split("\n")
    cells = _head_cells(lines[: banners[0][0]], introduction)
    ends = [line for line, _ in banners[1:]] + [len(lines)]
    for (start, name), end in zip(banners, ends, strict=True):
        cells += _module_cells(name, "\n".join(lines[start + 1 : end]))
    text = _notebook_json(cells)
    if len(text.encode()) > NOTEBOOK_LIMIT_BYTES:
        rule = f"the notebook has {len(text.encode())} bytes, more than the {NOTEBOOK_LIMIT_BYTES} that Kaggle takes"
        raise InputError([Fault(banners[-1][1], "kernel.ipynb", rule, "write a script, or shorten the closure")])
    return text


def _head_cells(head: list[str], introduction: str) -> list[_Cell]:
    """The introduction with what the header says, and the imports."""
    words = [line.removeprefix("#").removeprefix(" ") for line in head if line.startswith("#")]
    words = words[: words.index(CONTENTS_LINE)]  # a notebook has no such lines
    facts = "```text\n" + "\n".join(words).strip("\n") + "\n```"
    return [
        ("markdown", "\n\n".join(part for part in (introduction.strip("\n"), facts) if part)),
        ("code", "\n".join(line for line in head if not line.startswith("#"))),
    ]


def _module_cells(name: str, module: str) -> list[_Cell]:
    """A heading with the module's summary, its code, and what it runs as a program."""
    first, _, rest = module.partition("\n")
    has_summary = first.startswith("# ") and rest.startswith("\n")
    code = rest if has_summary else module
    cells = [("markdown", f"## {name}\n\n{first.removeprefix('# ') if has_summary else ''}"), ("code", code)]
    guard = ast.parse(code).body[-1]
    if not isinstance(guard, ast.If) or not is_main_guard(guard):
        return cells
    lines = code.split("\n")
    cells[1] = ("code", "\n".join(lines[: guard.lineno - 1]))
    starts = [statement.lineno - 1 for statement in guard.body]
    program = [_dedented(lines[start:stop]) for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True)]
    return [*cells, ("markdown", "## Run"), *(("code", statement) for statement in program)]


def _dedented(lines: list[str]) -> str:
    """Statements without the indentation of their first line; the lines of a string in them may have less."""
    indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    return "\n".join(line.removeprefix(indent) for line in lines)


def _notebook_json(cells: list[_Cell]) -> str:
    made = []
    for index, (kind, text) in enumerate((kind, text.strip("\n")) for kind, text in cells):
        cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
        cell |= {"execution_count": None, "outputs": []} if kind == "code" else {}
        made.append(cell | {"id": hashlib.sha256(f"{index}\0{kind}\0{text}".encode()).hexdigest()[:16]})
    kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernelspec, "language_info": {"name": "python"}}
    notebook = {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
