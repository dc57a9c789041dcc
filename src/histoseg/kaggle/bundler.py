"""The kernel bundler: the import closure of one entry module, joined into one readable file.

The text of every module stays as it was written, comments included; only its imports and its docstring move. That is
sound only while a module means the same alone and joined, so the rules below are checked first and every violation is
reported at once: internal imports as `from histoseg.x import name`, top-level names unique over the closure, no cycles,
no look at `__name__` or `__file__`, threads instead of processes, none of the packages a kernel shall do without.

One difference stays: `from __future__ import annotations` then holds for all modules, also for one that lacks it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from histoseg.core.faults import Fault, InputError
from histoseg.kaggle.bundle_modules import Library, Module
from histoseg.kaggle.bundle_order import import_order
from histoseg.kaggle.bundle_rules import code_faults, import_faults, init_faults, name_faults
from histoseg.kaggle.bundle_syntax import OutsideName
from histoseg.kaggle.bundle_text import banner_lines, bundled_body, module_banner

FORBIDDEN = frozenset({"albumentations", "sklearn", "tyro", "accelerate", "matplotlib", "jinja2"})
LIMIT_BYTES = 1_000_000  # Kaggle takes a script or notebook of at most 1 MB

_FUTURE_LINE = "from __future__ import annotations"
_WIDTH = 120


class BundleError(InputError):
    """The closure breaks rules of the bundler; names file, line, rule and remedy of each."""


def bundle(
    entry: str,
    package_root: Path,
    package: str = "histoseg",
    forbidden: Iterable[str] = FORBIDDEN,
    limit: int = LIMIT_BYTES,
) -> str:
    """Join the import closure of an entry module into the text of one Python file.

    Args:
        entry: Dotted name of the entry, e.g. "histoseg.kernels.hubmap_2022". Only it may have a `__main__` guard.
        package_root: The package's own folder, e.g. src/histoseg.
        package: The package's name.
        forbidden: Outside packages that may not be imported anywhere in the closure.
        limit: Largest size of the result in bytes.

    Returns:
        The file's text: the same for the same sources, whatever the machine and the folder.

    Raises:
        BundleError: With every violated rule.
    """
    modules = closure(entry, package_root, package, forbidden)
    outside = {binding for module in modules for binding in module.hoisted}
    head = "\n\n".join(part for part in (_header(entry, modules), _FUTURE_LINE, _import_block(outside)) if part)
    bodies = [f"{module_banner(module.name)}\n{bundled_body(module)}".rstrip("\n") for module in modules]
    text = "\n\n\n".join([head, *bodies]) + "\n"
    _check_result(text, entry, package_root, limit)
    return text


def closure(
    entry: str, package_root: Path, package: str = "histoseg", forbidden: Iterable[str] = FORBIDDEN
) -> list[Module]:
    """The modules that an entry needs, each after all that it imports, the entry last; ties go by name.

    Args:
        entry: Dotted name of the entry.
        package_root: The package's own folder.
        package: The package's name.
        forbidden: Outside packages that may not be imported.

    Raises:
        BundleError: With every violated rule of the modules and of their names together.
    """
    library = Library(Path(package_root), package)
    faults = library.load(entry)
    modules = library.reached
    for module in modules.values():
        faults += import_faults(module, library, frozenset(forbidden))
        faults += code_faults(module, is_entry=module.name == entry)
    faults += name_faults(modules.values())
    order, cycle_faults = import_order(modules)
    faults += [*cycle_faults, *init_faults(library)]
    if faults:
        raise BundleError(sorted(set(faults), key=_by_place))
    return [modules[name] for name in order]


def source_digest(modules: Iterable[Module]) -> str:
    """SHA-256 over the names and sources of modules, as it stands in a kernel's header."""
    digest = hashlib.sha256()
    for module in modules:
        for text in (module.name, module.source):
            digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def to_notebook(source: str) -> str:
    """Turn a bundled file into a notebook (nbformat 4.5): a heading and a code cell for each module.

    The code cells joined with newlines run as the file does. Cell ids come from the content, so that the same file
    gives the same bytes.

    Args:
        source: What `bundle` returned.

    Raises:
        ValueError: If the text has no banner of a module, hence is no bundle.
    """
    banners = banner_lines(source)
    if not banners:
        raise ValueError("no module banner in this text: give to_notebook what `histoseg kernel` wrote")
    lines = source.split("\n")
    head = lines[: banners[0][0]]
    comments = [line for line in head if line.startswith("#")]
    cells = [
        _cell("markdown", "\n".join(line.removeprefix("#").removeprefix(" ") for line in comments)),
        _cell("code", "\n".join(line for line in head if not line.startswith("#"))),
    ]
    ends = [line for line, _ in banners[1:]] + [len(lines)]
    for (start, name), end in zip(banners, ends, strict=True):
        cells += [_cell("markdown", f"## {name}"), _cell("code", "\n".join(lines[start + 1 : end]))]
    for index, cell in enumerate(cells):
        content = f"{index}\0{cell['cell_type']}\0{''.join(cell['source'])}"
        cell["id"] = hashlib.sha256(content.encode()).hexdigest()[:16]
    kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernelspec, "language_info": {"name": "python"}}
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _cell(kind: str, text: str) -> dict[str, Any]:
    """A cell without its id; code cells carry the two fields that the format demands."""
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": text.strip("\n").splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def _by_place(fault: Fault) -> tuple[str, int, str]:
    file, _, line = fault.file.rpartition(":")
    return file or fault.file, int(line) if line.isdigit() else 0, fault.rule


def _header(entry: str, modules: list[Module]) -> str:
    name = entry.rpartition(".")[2]
    lines = [
        f"Inference kernel {name}: one self-contained file.",
        f"GENERATED by `histoseg kernel {name}` from the package's modules: change those, never this file.",
        "",
        f"Sources (sha256): {source_digest(modules)}",
        "Modules, in the order in which they follow:",
        *(f"  {module.name}" for module in modules),
    ]
    return "\n".join(f"# {line}".rstrip() for line in lines)


def _import_block(outside: set[OutsideName]) -> str:
    """The moved imports: the standard library's first, then all others; `import` before `from`, by name."""
    ours = {binding for binding in outside if binding.module.partition(".")[0] in sys.stdlib_module_names}
    return "\n\n".join(block for block in map(_import_lines, (ours, outside - ours)) if block)


def _import_lines(outside: set[OutsideName]) -> str:
    lines, grouped = [], defaultdict[str, list[str]](list)
    for module, name, alias in sorted(outside):
        called = f"{name or module} as {alias}" if alias else name or module
        if name:
            grouped[module].append(called)
        else:
            lines.append(f"import {called}")
    for module, names in sorted(grouped.items()):
        line = f"from {module} import {', '.join(names)}"
        if len(line) > _WIDTH:
            line = "\n".join([f"from {module} import (", *(f"    {name}," for name in names), ")"])
        lines.append(line)
    return "\n".join(lines)


def _check_result(text: str, entry: str, package_root: Path, limit: int) -> None:
    """Last looks at the file itself.

    Raises:
        BundleError: If it is too large, holds this machine's path, or is no Python.
    """
    faults = []
    size = len(text.encode())
    if size > limit:
        rule = f"the kernel has {size} bytes, more than the {limit} that Kaggle takes"
        faults.append(Fault(entry, "kernel.py", rule, "shorten the closure"))
    folder = str(Path(package_root).resolve())
    if folder in text:
        line = text[: text.index(folder)].count("\n") + 1
        faults.append(Fault(entry, f"kernel.py:{line}", "a path of this machine", "take it out of the source"))
    try:
        compile(text, "kernel.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        faults.append(Fault(entry, f"kernel.py:{line}", f"not Python ({error})", "report this as the bundler's fault"))
    if faults:
        raise BundleError(faults)
