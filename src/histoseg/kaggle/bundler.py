"""The kernel bundler: the import closure of one entry module, joined into one readable file.

The text of every module stays as it was written, comments included; only its imports and its docstring move. That is
sound only while a module means the same alone and joined, so the rules below are checked first and every violation is
reported at once: internal imports as `from histoseg.x import name`, top-level names unique over the closure, no cycles,
no look at `__name__` or `__file__`, threads instead of processes, none of the packages a kernel shall do without.

One difference stays: `from __future__ import annotations` then holds for all modules, also for one that lacks it.
"""

from __future__ import annotations

import ast
import bisect
import builtins
import graphlib
import hashlib
import heapq
import io
import json
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from histoseg.core.faults import Fault, InputError

FORBIDDEN = frozenset({"albumentations", "sklearn", "tyro", "accelerate", "matplotlib", "jinja2"})
LIMIT_BYTES = 1_000_000  # Kaggle takes a script or notebook of at most 1 MB

_PROCESS_MODULES = frozenset({"multiprocessing", "torch.multiprocessing", "concurrent.futures.process", "joblib"})
_PROCESS_NAMES = frozenset({"ProcessPoolExecutor", "multiprocessing"})
# What these names hold differs between a module of the package and the one file of a kernel.
_MODULE_NAMES = frozenset({"__name__", "__file__", "__doc__", "__spec__", "__package__", "__loader__", "__path__"})
_BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_"))
_JIT_NAMES = frozenset({"njit", "jit"})
_FUTURE_LINE = "from __future__ import annotations"
_WIDTH = 120
_BANNER = re.compile(r"# =+ ([\w.]+) =+")
_JOINED = re.compile(r"(?:[ \t\f]|\\\n)*;(?:[ \t\f]|\\\n)*")

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Import = ast.Import | ast.ImportFrom
_Identity = tuple[str, str]  # what an outside import stands for: module and name in it


class BundleError(InputError):
    """The closure breaks rules of the bundler; names file, line, rule and remedy of each."""


# ---------------------------------------------------------------------------------------------------------------------
# Public functions
# ---------------------------------------------------------------------------------------------------------------------


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
    bodies = [f"{_banner(module.name)}\n{_bundled_body(module)}".rstrip("\n") for module in modules]
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
    library = _Library(Path(package_root), package)
    faults = library.load(entry)
    modules = library.reached
    for module in modules.values():
        faults += _import_faults(module, library, frozenset(forbidden))
        faults += _code_faults(module, is_entry=module.name == entry)
    faults += _name_faults(modules.values())
    order, cycle_faults = _ordered(modules)
    faults += [*cycle_faults, *_init_faults(library)]
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
    banners = _banner_lines(source)
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


# ---------------------------------------------------------------------------------------------------------------------
# Modules and what they import and bind
# ---------------------------------------------------------------------------------------------------------------------


class _Outside(NamedTuple):
    """One name bound by an import from outside: `import module [as alias]` or `from module import name [as alias]`."""

    module: str
    name: str
    alias: str

    @property
    def bound(self) -> str:
        return self.alias or self.name or self.module.partition(".")[0]

    @property
    def identity(self) -> _Identity:
        """What the name stands for: `import a.b` and `import a.c` both bind the package a."""
        return (self.module if self.alias or self.name else self.bound, self.name)


@dataclass(frozen=True)
class _Place:
    """Where a statement stands."""

    functions: tuple[_Function, ...] = ()  # the enclosing function scopes, outermost first
    in_class: bool = False  # the innermost scope is a class body
    checking: bool = False  # under `if TYPE_CHECKING:`, never run
    guarded: bool = False  # in a `try:` whose handlers catch a failed import
    depth: int = 0  # 0 = directly in the module's body


class _Site(NamedTuple):
    """One import statement and its place."""

    node: _Import
    place: _Place


@dataclass(frozen=True)
class Module:
    """One module of the closure.

    Attributes:
        name: Dotted name.
        file: Path as the user would look for it, from the package's folder on.
        source: Its text with "\\n" as line end.
        package: Name of the package that counts as internal.
        tree: Its syntax tree.
    """

    name: str
    file: str
    source: str
    package: str
    tree: ast.Module = field(repr=False, compare=False)

    def fault(self, node: ast.AST | int, rule: str, remedy: str) -> Fault:
        """A fault at a node or a line of this module."""
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return Fault(self.name, f"{self.file}:{line}", rule, remedy)

    def is_internal(self, node: ast.AST) -> bool:
        """Whether a statement is an import from the package itself, in whatever form."""
        if isinstance(node, ast.ImportFrom):
            return bool(node.level) or _within(node.module or "", self.package)
        return isinstance(node, ast.Import) and any(_within(alias.name, self.package) for alias in node.names)

    @cached_property
    def sites(self) -> list[_Site]:
        """All import statements, with their places."""
        return [site for statement in self.tree.body for site in _import_sites(statement, _Place())]

    @cached_property
    def needs(self) -> dict[str, int]:
        """Internal modules that this one imports when it runs, with the line of the first import of each."""
        found: dict[str, int] = {}
        for node, place in self.sites:
            if isinstance(node, ast.ImportFrom) and self.is_internal(node) and not node.level and not place.checking:
                found.setdefault(node.module or "", node.lineno)
        return found

    @cached_property
    def hoisted(self) -> list[_Outside]:
        """Names of the plain outside imports at the top level, which move to the head of the file."""
        return [binding for node, place in self.sites if self._moves(node, place) for binding in _outside(node)]

    @cached_property
    def dropped(self) -> frozenset[ast.AST]:
        """Statements that the joined file does not repeat: moved or internal imports, docstring, `__all__`."""
        gone: set[ast.AST] = {node for node, place in self.sites if self.is_internal(node) or self._moves(node, place)}
        gone.update(node for node, _ in self.sites if isinstance(node, ast.ImportFrom) and node.module == "__future__")
        gone.update(statement for statement in self.tree.body if _sets_all(statement))
        if ast.get_docstring(self.tree, clean=False) is not None:
            gone.add(self.tree.body[0])
        return frozenset(gone)

    @cached_property
    def bound(self) -> list[tuple[str, ast.AST, _Identity | None]]:
        """Every binding of a top-level name: name, node, and for an outside import what it stands for."""
        names = _Bindings(self.tree.body)
        found: list[tuple[str, ast.AST, _Identity | None]] = [(name, node, None) for name, node in names.defined]
        found += [(name, node, None) for name, node in self.rebound.items()]
        for node in names.imports:
            if not self.is_internal(node) and not _is_future(node):
                found += [(binding.bound, node, binding.identity) for binding in _outside(node)]
        return found

    @cached_property
    def definitions(self) -> frozenset[str]:
        """Top-level names that other modules may import."""
        return frozenset(name for name, _, identity in self.bound if identity is None)

    @cached_property
    def rebound(self) -> dict[str, ast.AST]:
        """Top-level names that some function binds anew through `global`."""
        nodes = (node for node in ast.walk(self.tree) if isinstance(node, ast.Global))
        return {name: node for node in nodes for name in node.names}

    def _moves(self, node: _Import, place: _Place) -> bool:
        return place.depth == 0 and not self.is_internal(node) and not _is_future(node)


class _Library:
    """Reads modules of one package, each once."""

    def __init__(self, root: Path, package: str) -> None:
        self.root = root
        self.package = package
        self.reached: dict[str, Module] = {}
        self._read: dict[str, Module | Fault] = {}

    def load(self, entry: str) -> list[Fault]:
        """Read the entry and all that it reaches into `reached`; give the faults of files that cannot be read."""
        if not self.has(entry):
            remedy = f"give a module of {self.package}, such as {self.package}.kernels.hubmap_2022"
            return [Fault(entry, self._display(entry), "no such entry module", remedy)]
        faults, pending = [], [entry]
        while pending:
            name = pending.pop()
            if name in self.reached:
                continue
            module = self.read(name)
            if isinstance(module, Fault):
                faults.append(module)
                continue
            self.reached[name] = module
            pending += [target for target in module.needs if self.has(target)]
        return faults

    def has(self, name: str) -> bool:
        """Whether a dotted name is a module of the package that has a file (a package's folder does not count)."""
        return name.startswith(self.package + ".") and self._path(name).is_file()

    def is_folder(self, name: str) -> bool:
        """Whether a dotted name is the package or a package in it."""
        return _within(name, self.package) and self._path(name).with_suffix("").is_dir()

    def read(self, name: str) -> Module | Fault:
        """The parsed module, or why it cannot be parsed."""
        if name not in self._read:
            self._read[name] = self._parse(name, self._path(name), self._display(name))
        return self._read[name]

    def initialisers(self) -> Iterator[Module | Fault]:
        """The `__init__` modules that Python runs before the reached ones, which the kernel leaves out."""
        parents = {name.rsplit(".", depth)[0] for name in self.reached for depth in range(1, name.count(".") + 1)}
        for parent in sorted(parents):
            path = self._path(parent).with_suffix("") / "__init__.py"
            if path.is_file():
                yield self._parse(parent, path, parent.replace(".", "/") + "/__init__.py")

    def _path(self, name: str) -> Path:
        return self.root.joinpath(*name.split(".")[1:]).with_suffix(".py") if "." in name else self.root

    def _display(self, name: str) -> str:
        return name.replace(".", "/") + ".py"

    def _parse(self, name: str, path: Path, file: str) -> Module | Fault:
        try:
            # Python itself reads "\r\n" and "\r" as line ends; the digest must not depend on them.
            source = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
            return Module(name, file, source, self.package, ast.parse(source))
        except SyntaxError as error:
            return Fault(name, f"{file}:{error.lineno or 1}", f"not Python ({error.msg})", "mend that line")
        except ValueError as error:
            return Fault(name, f"{file}:1", f"not UTF-8 text ({error})", "save the file as UTF-8")


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _is_future(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__" and not node.level


def _outside(node: _Import) -> list[_Outside]:
    """The names that an outside import binds, with `import a as a` read as `import a`."""
    if isinstance(node, ast.Import):
        return [_Outside(a.name, "", "" if a.asname in (None, a.name) else a.asname or "") for a in node.names]
    return [
        _Outside(node.module or "", a.name, "" if a.asname in (None, a.name) else a.asname or "") for a in node.names
    ]


def _last_name(node: ast.AST) -> str:
    """`c` of the expressions `c` and `a.b.c`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING"


def _is_main_guard(node: ast.AST) -> bool:
    if not (isinstance(node, ast.If) and isinstance(node.test, ast.Compare) and len(node.test.ops) == 1):
        return False
    sides = (node.test.left, *node.test.comparators)
    constants = {side.value for side in sides if isinstance(side, ast.Constant)}
    return isinstance(node.test.ops[0], ast.Eq) and constants == {"__main__"} and "__name__" in map(_last_name, sides)


def _sets_all(node: ast.AST) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    is_assignment = isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)
    return is_assignment and [_last_name(t) for t in targets if t is not None] == ["__all__"]


def _catches_import_error(node: ast.Try | ast.TryStar) -> bool:
    wide = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
    kinds = [handler.type for handler in node.handlers]
    return any(kind is None or any(_last_name(part) in wide for part in ast.walk(kind)) for kind in kinds)


def _import_sites(node: ast.AST, place: _Place) -> Iterator[_Site]:
    """All import statements in a statement, with their places."""
    if isinstance(node, _Import):
        yield _Site(node, place)
        return
    inner = replace(place, depth=place.depth + 1)
    if isinstance(node, _Function):
        inner = replace(inner, functions=(*place.functions, node), in_class=False)
    elif isinstance(node, ast.ClassDef):
        inner = replace(inner, in_class=True)
    for name, block in _blocks(node):
        here = inner
        if name == "body" and _is_type_checking(node):
            here = replace(inner, checking=True)
        if name == "body" and isinstance(node, ast.Try | ast.TryStar) and _catches_import_error(node):
            here = replace(inner, guarded=True)
        for child in block:
            yield from _import_sites(child, here)


def _blocks(node: ast.AST) -> Iterator[tuple[str, list[Any]]]:
    """The lists of statements (or handlers, or cases) that a node holds."""
    for name in ("body", "handlers", "orelse", "finalbody", "cases"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            yield name, block


class _Bindings:
    """The names that one scope binds, without those of the scopes inside it.

    Attributes:
        defined: Names bound by anything but an import, each with its node.
        imports: The import statements.
    """

    def __init__(self, body: Iterable[ast.AST]) -> None:
        self.defined: list[tuple[str, ast.AST]] = []
        self.imports: list[_Import] = []
        for statement in body:
            self._add(statement)

    def _add(self, node: ast.AST) -> None:
        if isinstance(node, _Import):
            self.imports.append(node)
            return
        name = _own_name(node)
        if name:
            self.defined.append((name, node))
        for part in self._parts(node):
            self._add(part)

    def _parts(self, node: ast.AST) -> Iterable[ast.AST]:
        """The children that belong to the same scope as the node."""
        if isinstance(node, _Function):
            return (*node.decorator_list, node.args)
        if isinstance(node, ast.ClassDef):
            return (*node.decorator_list, *node.bases, *node.keywords)
        if isinstance(node, ast.Lambda):
            return (node.args,)
        if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            # A comprehension keeps its own variables; only a walrus in it reaches out.
            return [part.target for part in ast.walk(node) if isinstance(part, ast.NamedExpr)]
        return ast.iter_child_nodes(node)


def _own_name(node: ast.AST) -> str | None:
    """The name that a node binds (or deletes) by itself."""
    if isinstance(node, ast.Name):
        return None if isinstance(node.ctx, ast.Load) or node.id == "__all__" else node.id
    if isinstance(node, ast.MatchMapping):
        return node.rest
    if isinstance(node, _Function | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return node.name
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Rules
# ---------------------------------------------------------------------------------------------------------------------


def _import_faults(module: Module, library: _Library, forbidden: frozenset[str]) -> Iterator[Fault]:
    """Violations in the import statements of one module."""
    for site in module.sites:
        if _is_future(site.node):
            for alias in site.node.names:
                if alias.name != "annotations":
                    rule = f"`from __future__ import {alias.name}`"
                    yield module.fault(site.node, rule, "only annotations may come from __future__")
        elif module.is_internal(site.node):
            yield from _internal_form_faults(module, site)
            yield from _target_faults(module, site, library)
            yield from _local_faults(module, site)
        else:
            yield from _outside_faults(module, site, forbidden)
    yield from _late_import_faults(module)


def _internal_form_faults(module: Module, site: _Site) -> Iterator[Fault]:
    """Internal imports that have not the one form allowed, or stand where dropping them changes what runs."""
    node = site.node
    form = f"write `from {module.package}.x import name`"
    if isinstance(node, ast.Import):
        yield module.fault(node, f"`{ast.unparse(node)}` imports a module, not a name", form)
        return
    if node.level:
        yield module.fault(node, f"relative import `{ast.unparse(node)}`", form)
        return
    for alias in node.names:
        if alias.name == "*":
            yield module.fault(node, f"star import from {node.module}", "import each name that is used")
        elif alias.asname is not None:
            yield module.fault(node, f"`{alias.name} as {alias.asname}`: an internal import with an alias", form)
    if site.place.in_class:
        yield module.fault(node, "internal import in a class body, where it makes an attribute", "move it to the top")
    if site.place.guarded:
        rule = "internal import in a `try:` that catches its failure; in the kernel it cannot fail"
        yield module.fault(node, rule, "put the try around the outside import, in the module that needs it")


def _target_faults(module: Module, site: _Site, library: _Library) -> Iterator[Fault]:
    """Internal imports of modules or names that do not exist, or that the module keeps changing."""
    node = site.node
    if not isinstance(node, ast.ImportFrom) or node.level:
        return
    target = node.module or ""
    if not library.has(target):
        if library.is_folder(target):
            remedy = "import the name from the module that defines it"
            yield module.fault(node, f"{target} is a package, not a module", remedy)
        else:
            yield module.fault(node, f"there is no module {target}", "mend the name or add the module")
        return
    source = library.read(target)
    if isinstance(source, Fault):
        return
    for alias in node.names:
        if alias.name != "*" and alias.name not in source.definitions:
            rule = f"{target} defines no top-level name `{alias.name}`"
            yield module.fault(node, rule, "import it from the module that defines it")
        elif alias.name in source.rebound:
            rule = f"`{alias.name}` is rebound by a function of {target} through `global`"
            yield module.fault(node, rule, "import a function that returns it, or hold it in an object")


def _local_faults(module: Module, site: _Site) -> Iterator[Fault]:
    """Internal imports in functions whose name means something else there once the import is gone."""
    names = {alias.asname or alias.name for alias in site.node.names}
    for function in site.place.functions:
        shadowed = _local_names(module, function) & names
        for name in sorted(shadowed):
            rule = f"`{name}` is imported in a function and also bound in {function.name}()"
            yield module.fault(site.node, rule, "rename the parameter or variable, or import at the top")


def _local_names(module: Module, function: _Function) -> set[str]:
    """Parameters and local names of a function, without its internal imports."""
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    scope = _Bindings(function.body)
    names = {parameter.arg for parameter in parameters if parameter is not None}
    names |= {name for name, _ in scope.defined}
    names |= {getattr(parameter, "name", "") for parameter in getattr(function, "type_params", ())}
    imports = (node for node in scope.imports if not module.is_internal(node))
    return names | {binding.bound for node in imports for binding in _outside(node)}


def _outside_faults(module: Module, site: _Site, forbidden: frozenset[str]) -> Iterator[Fault]:
    """Outside imports that a kernel must not have."""
    for binding in _outside(site.node):
        full = f"{binding.module}.{binding.name}" if binding.name else binding.module
        if binding.name == "*":
            yield module.fault(site.node, f"star import from {binding.module}", "import each name that is used")
        for package in sorted(forbidden):
            if _within(full, package):
                rule = f"{package} may not be imported in a kernel"
                yield module.fault(site.node, rule, "do without it, or move this code out of the kernel's closure")
        if any(_within(full, name) for name in _PROCESS_MODULES) or binding.name in _PROCESS_NAMES:
            yield module.fault(site.node, f"{full} starts processes", "use threads (ThreadPoolExecutor)")


def _late_import_faults(module: Module) -> Iterator[Fault]:
    """Top-level imports after code that runs: in the kernel they come before it."""
    running = False
    for statement in module.tree.body:
        if running and statement in module.dropped and isinstance(statement, _Import):
            rule = "import after code that runs, which would come after it in the kernel"
            yield module.fault(statement, rule, "put the imports first")
        running = running or _does_work(statement)


def _does_work(node: ast.AST) -> bool:
    """Whether running a statement may change something other than the module's own names."""
    if isinstance(node, _Function | ast.Lambda | ast.ClassDef) or _is_type_checking(node):
        return False
    changes = isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load)
    return isinstance(node, ast.Call) or changes or any(map(_does_work, ast.iter_child_nodes(node)))


def _code_faults(module: Module, *, is_entry: bool) -> Iterator[Fault]:
    """Violations in the code of one module."""
    guards = [statement for statement in module.tree.body if _is_main_guard(statement)]
    exempt = {part for guard in guards for part in ast.walk(guard)}
    if not is_entry:
        for guard in guards:
            rule = "`__main__` guard outside the entry: it would run in the kernel"
            yield module.fault(guard, rule, "move it to the entry")
    for statement in module.tree.body:
        if isinstance(statement, _Function) and statement.name in ("__getattr__", "__dir__"):
            yield module.fault(statement, f"module-level {statement.name}()", "define the names themselves")
    settings = {part for statement in module.tree.body if _sets_all(statement) for part in ast.walk(statement)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and node not in exempt:
            yield from _dunder_faults(module, node, settings)
        if _last_name(node) in _PROCESS_NAMES:
            yield module.fault(node, f"{_last_name(node)} starts processes", "use threads (ThreadPoolExecutor)")
        if isinstance(node, ast.Call):
            yield from _call_faults(module, node)
    for line, _ in _banner_lines(module.source):
        yield module.fault(line + 1, "a comment that looks like the bundler's banner", "write it without = signs")


def _dunder_faults(module: Module, node: ast.Name, settings: set[ast.AST]) -> Iterator[Fault]:
    if node.id in _MODULE_NAMES:
        rule = f"`{node.id}` differs between package and kernel"
        yield module.fault(node, rule, "write the value out, or pass it as an argument")
    elif node.id == "__all__" and node not in settings:
        yield module.fault(node, "`__all__` is used, but the kernel has none", "only assign it")


def _call_faults(module: Module, node: ast.Call) -> Iterator[Fault]:
    name = _last_name(node.func)
    if isinstance(node.func, ast.Name) and name == "globals":
        yield module.fault(node, "globals() shows the names of all modules in a kernel", "name what is meant")
    if name in ("import_module", "__import__"):
        target = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        if not isinstance(target, str) or _within(target, module.package):
            yield module.fault(node, "an import by a string that the bundler cannot follow", "use an import statement")
    if not _is_jit(node):
        return
    for keyword in node.keywords:
        if keyword.arg is None:
            yield module.fault(node, "`**` in a call of njit may hide `cache=True`", "write the options out")
        elif keyword.arg == "cache" and not isinstance(keyword.value, ast.Constant):
            yield module.fault(node, "`cache=` of njit is not a literal", "write cache=True or cache=False")


def _is_jit(node: ast.AST) -> bool:
    """Whether a call is `njit(...)`, `numba.njit(...)`, `jit(...)` or a functools.partial of one."""
    if not isinstance(node, ast.Call):
        return False
    name = _last_name(node.func)
    return name in _JIT_NAMES or (
        name == "partial" and any(_last_name(argument) in _JIT_NAMES for argument in node.args)
    )


def _name_faults(modules: Iterable[Module]) -> Iterator[Fault]:
    """Top-level names that mean two things in one file."""
    homes: dict[str, list[tuple[Module, ast.AST, _Identity | None]]] = defaultdict(list)
    for module in sorted(modules, key=lambda module: module.name):
        yield from _own_name_faults(module)
        for name, node, identity in module.bound:
            homes[name].append((module, node, identity))
    for name, found in homes.items():
        first, first_node, first_identity = found[0]
        if first_identity is not None and all(identity == first_identity for _, _, identity in found):
            continue  # one and the same outside import
        others = {module.name: (module, node) for module, node, _ in found if module is not first}
        for module, node in others.values():
            rule = f"top-level name `{name}` is also bound in {first.file}:{getattr(first_node, 'lineno', 1)}"
            yield module.fault(node, rule, "rename one of the two, or write both imports alike")


def _own_name_faults(module: Module) -> Iterator[Fault]:
    """Top-level names of one module that would not stand in the joined file."""
    for name, node, identity in module.bound:
        if name in _BUILTINS and identity != ("builtins", name):
            yield module.fault(node, f"top-level name `{name}` hides the builtin from every module", "rename it")
    for name in sorted({binding.bound for binding in module.hoisted}):
        found = [(node, identity) for other, node, identity in module.bound if other == name]
        differing = [node for node, identity in found if identity != found[-1][1]]
        if differing:
            rule = f"`{name}` is imported from outside and also bound otherwise in the same module"
            yield module.fault(differing[0], rule, "rename one of the two, or put both into one `try:`")


def _init_faults(library: _Library) -> Iterator[Fault]:
    """`__init__` modules that do more than a kernel, which has none, could do without."""
    for module in library.initialisers():
        if isinstance(module, Fault):
            yield module
            continue
        for statement in module.tree.body:
            if not isinstance(statement, _Import) and _does_work(statement):
                rule = "an __init__ that does work, which the kernel leaves out"
                yield module.fault(statement, rule, "move it into a function of a module")


def _ordered(modules: Mapping[str, Module]) -> tuple[list[str], list[Fault]]:
    """Names in an order in which each stands after all that it needs, the smallest first among the ready ones."""
    graph = {name: {target for target in module.needs if target in modules} for name, module in modules.items()}
    sorter = graphlib.TopologicalSorter(dict(sorted(graph.items())))
    try:
        sorter.prepare()
    except graphlib.CycleError:
        return [], list(_cycle_faults(modules, graph))
    order, ready = [], list[str]()
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(ready, name)
        order.append(heapq.heappop(ready))
        sorter.done(order[-1])
    return order, []


def _cycle_faults(modules: Mapping[str, Module], graph: Mapping[str, set[str]]) -> Iterator[Fault]:
    """One fault for each import that closes a circle, found by walking the graph in the order of names."""
    state: dict[str, bool] = {}  # False = on the path from the root, True = done
    path: list[str] = []

    def walk(name: str) -> Iterator[Fault]:
        state[name] = False
        path.append(name)
        for target in sorted(graph[name]):
            if state.get(target) is False:
                circle = " -> ".join([*path[path.index(target) :], target])
                remedy = "move what both need into a third module"
                yield modules[name].fault(modules[name].needs[target], f"circular import {circle}", remedy)
            elif target not in state:
                yield from walk(target)
        state[path.pop()] = True

    for name in sorted(graph):
        if name not in state:
            yield from walk(name)


def _by_place(fault: Fault) -> tuple[str, int, str]:
    file, _, line = fault.file.rpartition(":")
    return file or fault.file, int(line) if line.isdigit() else 0, fault.rule


# ---------------------------------------------------------------------------------------------------------------------
# Text surgery
# ---------------------------------------------------------------------------------------------------------------------


class _Edit(NamedTuple):
    """Replace source[start:end] by text."""

    start: int
    end: int
    text: str = ""


class _Text:
    """Positions in a source as offsets in its string; ast counts the UTF-8 bytes of a line, tokenize its characters."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines = source.split("\n")  # never splitlines(): Python ends a line at "\n" alone
        self.starts = list(accumulate((len(line) + 1 for line in self.lines), initial=0))

    def start(self, node: ast.AST) -> int:
        return self._offset(node.lineno, node.col_offset)  # type: ignore[attr-defined]

    def end(self, node: ast.AST) -> int:
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


def _bundled_body(module: Module) -> str:
    """The module's text without what moves elsewhere, its docstring as a comment above."""
    text = _Text(module.source)
    edits = list(_cache_edits(text, module.tree))
    for node in ast.walk(module.tree):
        for _, block in _blocks(node):
            edits += _block_edits(text, block, module.dropped, may_be_empty=isinstance(node, ast.Module))
    body = _edited(text.source, edits).strip("\n")
    return "\n\n".join(part for part in (_docstring_comment(module), body) if part)


def _docstring_comment(module: Module) -> str:
    docstring = ast.get_docstring(module.tree) or ""
    # A docstring may hold any character through escapes; a comment must stay on its line.
    lines = ["".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in docstring.split("\n")]
    return "\n".join(f"# {line}".rstrip() for line in lines) if docstring else ""


def _block_edits(
    text: _Text, block: list[ast.stmt], dropped: frozenset[ast.AST], *, may_be_empty: bool
) -> Iterator[_Edit]:
    """Edits that take the dropped statements out of one block, with `pass` where nothing would be left."""
    gone = [statement for statement in block if statement in dropped]
    if gone and len(gone) == len(block) and not may_be_empty:
        yield _Edit(text.start(gone[0]), text.end(gone[0]), "pass")
        gone = gone[1:]
    if gone:
        for line in _logical_lines(text, block):
            yield from _line_edits(text, line, set(gone))


def _logical_lines(text: _Text, block: list[ast.stmt]) -> list[list[ast.stmt]]:
    """The statements of a block, those joined by semicolons together."""
    lines = [[block[0]]]
    for before, after in pairwise(block):
        joined = _JOINED.fullmatch(text.source, text.end(before), text.start(after))
        if joined:
            lines[-1].append(after)
        else:
            lines.append([after])
    return lines


def _line_edits(text: _Text, line: list[ast.stmt], gone: set[ast.stmt]) -> Iterator[_Edit]:
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


def _cache_edits(text: _Text, tree: ast.Module) -> Iterator[_Edit]:
    """Edits that take `cache=True` out of the calls of njit: numba cannot cache what has no file of its own."""
    for call in filter(_is_jit, ast.walk(tree)):
        for keyword in call.keywords:  # type: ignore[attr-defined]
            if keyword.arg == "cache" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True:
                yield from _argument_edits(text, text.start(keyword), text.end(keyword))


def _argument_edits(text: _Text, start: int, end: int) -> Iterator[_Edit]:
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


# ---------------------------------------------------------------------------------------------------------------------
# The parts of the file
# ---------------------------------------------------------------------------------------------------------------------


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


def _banner(name: str) -> str:
    return f"# ======== {name} ".ljust(100, "=")


def _banner_lines(source: str) -> list[tuple[int, str]]:
    """Line indices (from 0) and module names of the banners; text in strings does not count."""
    if not any(map(_BANNER.fullmatch, source.split("\n"))):
        return []
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        banner = _BANNER.fullmatch(token.string) if token.type == tokenize.COMMENT and token.start[1] == 0 else None
        if banner:
            found.append((token.start[0] - 1, banner[1]))
    return found


def _import_block(outside: set[_Outside]) -> str:
    """The moved imports: the standard library's first, then all others; `import` before `from`, by name."""
    ours = {binding for binding in outside if binding.module.partition(".")[0] in sys.stdlib_module_names}
    return "\n\n".join(block for block in map(_import_lines, (ours, outside - ours)) if block)


def _import_lines(outside: set[_Outside]) -> str:
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
