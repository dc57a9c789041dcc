"""The kernel bundler: what one entry module reaches of its import closure, joined into one readable file.

Of each module those definitions and methods stay that the entry reaches, line by line as they were written, comments
included; of docstrings the first line stays, and imports move to the head. That is sound only while a module means the
same alone and joined, so the rules are checked first, over the whole closure, and every violation is reported at once:
sources formatted by ruff, internal imports as `from histofold.x import name`, top-level names unique, no cycles, no
look at `__name__` or `__file__`, no names made at run time, threads instead of processes, none of the packages that a
kernel shall do without.

One difference stays: `from __future__ import annotations` then holds for all modules, also for one that lacks it.
"""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from histofold.core.faults import Fault, InputError
from histofold.kaggle.bundle.modules import Library, Module, Ordered, Sections
from histofold.kaggle.bundle.reach import Reach
from histofold.kaggle.bundle.rules import code_faults, import_faults, init_faults, name_faults
from histofold.kaggle.bundle.syntax import OutsideName
from histofold.kaggle.bundle.text import bundled_body, is_only_comment, module_banner

FORBIDDEN = frozenset({"albumentations", "sklearn", "tyro", "accelerate", "matplotlib", "jinja2"})
LIMIT_BYTES = 1_000_000  # Kaggle takes a script or notebook of at most 1 MB

CONTENTS_LINE = "Contents, by line:"
_FUTURE_LINE = "from __future__ import annotations"
_WIDTH = 120
_COLUMNS = 3  # of the table of contents


class BundleError(InputError):
    """The closure breaks rules of the bundler; names file, line, rule and remedy of each."""


def bundle(
    entry: str,
    package_root: Path,
    package: str = "histofold",
    forbidden: Iterable[str] = FORBIDDEN,
    limit: int = LIMIT_BYTES,
    *,
    sections: Sections = (),
) -> str:
    """Join what an entry module reaches into the text of one Python file.

    Args:
        entry: Dotted name of the entry, e.g. "histofold.kernels.hubmap_2022". Only it may have a `__main__` guard.
        package_root: The package's own folder, e.g. src/histofold.
        package: The package's name.
        forbidden: Outside packages that may not be imported anywhere in the closure.
        limit: Largest size of the result in bytes.
        sections: The order of the modules as far as their imports allow, and the titles in the table of contents.

    Returns:
        The file's text: the same for the same sources, whatever the machine and the folder.

    Raises:
        BundleError: With every violated rule.
    """
    ordered = _ordered_closure(entry, package_root, package, forbidden, sections)
    reach = Reach(module for module, _ in ordered)
    bodies = [(module, title, bundled_body(module, reach.unreached(module))) for module, title in ordered]
    bodies = [(module, title, body) for module, title, body in bodies if not is_only_comment(body)]
    imports = _import_block({binding for module, _, _ in bodies for binding in reach.outside(module)})
    head = "\n\n".join(part for part in (_FUTURE_LINE, imports) if part)
    blocks = [f"{module_banner(module.name)}\n{body}" for module, _, body in bodies]
    header = _header(entry, [(module, title) for module, title, _ in bodies], head, blocks)
    text = "\n\n\n".join([f"{header}\n\n{head}", *blocks]) + "\n"
    _check_result(text, entry, package_root, limit)
    return text


def closure(
    entry: str, package_root: Path, package: str = "histofold", forbidden: Iterable[str] = FORBIDDEN
) -> list[Module]:
    """The modules that an entry imports, each after all that it imports, the entry last.

    Args:
        entry: Dotted name of the entry.
        package_root: The package's own folder.
        package: The package's name.
        forbidden: Outside packages that may not be imported.

    Raises:
        BundleError: With every violated rule of the modules and of their names together.
    """
    return [module for module, _ in _ordered_closure(entry, package_root, package, forbidden, ())]


def _ordered_closure(
    entry: str, package_root: Path, package: str, forbidden: Iterable[str], sections: Sections
) -> list[tuple[Module, str]]:
    """The modules with the titles of their sections, in order."""
    library = Library(Path(package_root), package)
    faults = library.load(entry)
    modules = library.reached
    for module in modules.values():
        faults += import_faults(module, library, frozenset(forbidden))
        faults += code_faults(module, is_entry=module.name == entry)
    ordered = Ordered(modules, entry, sections)
    faults += [*name_faults(modules.values()), *ordered.faults, *init_faults(library)]
    if faults:
        raise BundleError(sorted(set(faults), key=_by_place))
    return [(modules[name], title) for name, title in ordered.titles.items()]


def source_digest(modules: Iterable[Module]) -> str:
    """SHA-256 over the names and sources of modules, as it stands in a kernel's header."""
    digest = hashlib.sha256()
    for module in modules:
        for text in (module.name, module.source):
            digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _by_place(fault: Fault) -> tuple[str, int, str]:
    file, _, line = fault.file.rpartition(":")
    return file or fault.file, int(line) if line.isdigit() else 0, fault.rule


def _header(entry: str, modules: list[tuple[Module, str]], head: str, blocks: list[str]) -> str:
    """What the file is, and its table of contents by line.

    Args:
        entry: Dotted name of the entry.
        modules: The modules with the titles of their sections.
        head: What stands between the header and the first module.
        blocks: The modules' texts.
    """
    name = entry.rpartition(".")[2]
    titles = list(dict.fromkeys(title for _, title in modules))
    lines = [
        f"Inference kernel {name}: one self-contained file.",
        f"GENERATED by `histofold kernel {name}` from the package's modules: change those, never this file.",
        "It holds what the kernel reaches of them; the modules say more, in longer docstrings.",
        "",
        f"Sources (sha256): {source_digest(module for module, _ in modules)}",
        "",
        CONTENTS_LINE,
    ]
    of_titles = [[place for place, (_, of) in enumerate(modules) if of == title] for title in titles]
    line = len(lines) + sum(1 - -len(places) // _COLUMNS for places in of_titles) + head.count("\n") + 5
    for title, places in zip(titles, of_titles, strict=True):
        lines.append(f"  {title}")
        cells = []
        for place in places:
            cells.append(f"{line:6d}  {modules[place][0].name.partition('.')[2]:<30}")
            line += blocks[place].count("\n") + 3
        lines += ["  " + "".join(cells[first : first + _COLUMNS]) for first in range(0, len(cells), _COLUMNS)]
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
