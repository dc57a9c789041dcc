"""A bundled kernel as a notebook: what it is in words, its configuration, a cell a module, and the run in its own."""

from __future__ import annotations

import ast
import builtins
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from histofold.core.faults import Fault, InputError
from histofold.kaggle.bundle.syntax import FunctionNode, ScopeBindings, is_main_guard, outside_names
from histofold.kaggle.bundle.text import SourceText, banner_lines, leading_comment

NOTEBOOK_LIMIT_BYTES = 1_000_000  # as for a script: Kaggle takes no larger source
_Cell = tuple[str, str]  # kind and text


def to_notebook(source: str, introduction: str = "") -> str:
    """Turn a bundled file into a notebook (nbformat 4.5).

    Its code cells run in order as the file does: in a notebook, joined with newlines, or each given to `exec`. Module
    docstrings become text; what the file runs as a program is the last cells, one a statement. Cell ids come from the
    content, so that the same file gives the same bytes.

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
    known = _bound_names("\n".join(lines[: banners[0][0]])) | set(dir(builtins))
    ends = [line for line, _ in banners[1:]] + [len(lines)]
    for (start, name), end in zip(banners, ends, strict=True):
        module = "\n".join(lines[start + 1 : end])
        cells += _module_cells(name, _quoted_ahead(module, known))
        known |= _bound_names(module)
    text = _notebook_json(cells)
    if len(text.encode()) > NOTEBOOK_LIMIT_BYTES:
        rule = f"the notebook has {len(text.encode())} bytes, more than the {NOTEBOOK_LIMIT_BYTES} that Kaggle takes"
        raise InputError([Fault(banners[-1][1], "kernel.ipynb", rule, "write a script, or shorten the closure")])
    return text


def _head_cells(head: list[str], introduction: str) -> list[_Cell]:
    """The introduction with what the header says, and the imports."""
    words = [line.removeprefix("#").removeprefix(" ") for line in head if line.startswith("#")]
    facts = "```text\n" + "\n".join(words).strip("\n") + "\n```"
    return [
        ("markdown", "\n\n".join(part for part in (introduction.strip("\n"), facts) if part)),
        ("code", "\n".join(line for line in head if not line.startswith("#"))),
    ]


def _module_cells(name: str, module: str) -> list[_Cell]:
    """A heading with the module's docstring, its code, and what it runs as a program."""
    docstring, code = leading_comment(module)
    heading = f"## {name}" + f"\n\n{docstring}" * bool(docstring)
    tree = ast.parse(code)
    if not (tree.body and is_main_guard(tree.body[-1])):
        return [("markdown", heading), ("code", code)]
    guard = tree.body[-1]
    text = SourceText(code)
    cells = [("markdown", heading), ("code", code[: text.start(guard)])]
    starts = [text.line_of(text.start(statement))[0] for statement in guard.body]  # type: ignore[attr-defined]
    if len({*starts, text.start(guard)}) <= len(starts):  # the statements share lines: kept as they are
        return [*cells, ("markdown", "## Run"), ("code", code[text.start(guard) :])]
    stops = [*starts[1:], len(code)]
    program = [_dedented(code[start:stop]) for start, stop in zip(starts, stops, strict=True)]
    return [*cells, ("markdown", "## Run"), *(("code", statement) for statement in program)]


def _dedented(statement: str) -> str:
    """A statement without the indentation of its first line; the lines of a string in it may have less."""
    indent = statement[: len(statement) - len(statement.lstrip())]
    return "\n".join(line.removeprefix(indent) for line in statement.split("\n"))


def _quoted_ahead(module: str, known: set[str]) -> str:
    """The module with annotations in quotes that name what is only defined later.

    In the file they are never evaluated (`from __future__ import annotations`), but that holds for the file alone: a
    cell that is given to `exec` by itself evaluates them.
    """
    text, edits, before = SourceText(module), [], set(known)
    for statement in ast.parse(module).body:
        for annotation in _evaluated_annotations(statement):
            names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
            if not names <= before:
                edits.append((text.start(annotation), text.end(annotation)))
        before |= _bound_by([statement])
    for start, end in sorted(edits, reverse=True):
        module = f"{module[:start]}{json.dumps(module[start:end], ensure_ascii=False)}{module[end:]}"
    return module


def _evaluated_annotations(node: ast.AST) -> Iterator[ast.expr]:
    """The annotations that are evaluated when a top-level statement runs: none of those in a function's body."""
    if isinstance(node, FunctionNode):
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        yield from (each.annotation for each in every if each is not None and each.annotation is not None)
        if node.returns is not None:
            yield node.returns
        return
    if isinstance(node, ast.AnnAssign):
        yield node.annotation
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler):
            yield from _evaluated_annotations(child)


def _bound_names(source: str) -> set[str]:
    return _bound_by(ast.parse(source).body)


def _bound_by(body: list[ast.stmt]) -> set[str]:
    """Names that statements bind in their own scope."""
    scope = ScopeBindings(body)
    return {name for name, _ in scope.defined} | {b.bound for node in scope.imports for b in outside_names(node)}


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
