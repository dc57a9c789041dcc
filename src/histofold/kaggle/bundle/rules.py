"""The rules that make a module mean the same alone and joined, each with the remedy for what breaks it."""

from __future__ import annotations

import ast
import builtins
from collections import defaultdict
from collections.abc import Iterable, Iterator

from histofold.core.faults import Fault
from histofold.kaggle.bundle.modules import Library, Module
from histofold.kaggle.bundle.syntax import (
    FunctionNode,
    Identity,
    ImportNode,
    does_work,
    is_future,
    is_main_guard,
    last_name,
    outside_names,
    within,
)
from histofold.kaggle.bundle.text import CACHED

_PROCESS_MODULES = frozenset({"multiprocessing", "torch.multiprocessing", "concurrent.futures.process", "joblib"})
_PROCESS_NAMES = frozenset({"ProcessPoolExecutor", "multiprocessing"})
# What these names hold differs between a module of the package and the one file of a kernel.
_MODULE_NAMES = frozenset({"__name__", "__file__", "__doc__", "__spec__", "__package__", "__path__", "__all__"})
_BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_"))


def import_faults(module: Module, library: Library, forbidden: frozenset[str]) -> Iterator[Fault]:
    """Violations in the import statements of one module."""
    for node in module.imports:
        if module.is_internal(node):
            yield from _internal_faults(module, node, library)
        elif not is_future(node):
            yield from _outside_faults(module, node, forbidden)


def _internal_faults(module: Module, node: ImportNode, library: Library) -> Iterator[Fault]:
    """Internal imports that have not the one form allowed, or of what does not exist."""
    form = f"write `from {module.package}.x import name`"
    if isinstance(node, ast.Import):
        yield module.fault(node, f"`{ast.unparse(node)}` imports a module, not a name", form)
        return
    if node.level:
        yield module.fault(node, f"relative import `{ast.unparse(node)}`", form)
        return
    if node not in module.tree.body:
        yield module.fault(node, "internal import in a function, class or block", "move it to the top")
    target = node.module or ""
    if not library.has(target):
        remedy = "import the name from the module that defines it"
        yield module.fault(node, f"there is no module {target}, or it is a package", remedy)
    source = library.reached.get(target)
    for alias in node.names:
        if alias.name == "*":
            yield module.fault(node, f"star import from {target}", "import each name that is used")
        elif alias.asname is not None:
            yield module.fault(node, f"`{alias.name} as {alias.asname}`: an internal import with an alias", form)
        if source is not None and alias.name not in ("*", *source.definitions):
            rule = f"{target} defines no top-level name `{alias.name}`"
            yield module.fault(node, rule, "import it from the module that defines it")


def _outside_faults(module: Module, node: ImportNode, forbidden: frozenset[str]) -> Iterator[Fault]:
    """Outside imports that a kernel must not have."""
    for binding in outside_names(node):
        full = f"{binding.module}.{binding.name}" if binding.name else binding.module
        if binding.name == "*":
            yield module.fault(node, f"star import from {binding.module}", "import each name that is used")
        for package in sorted(forbidden):
            if within(full, package):
                rule = f"{package} may not be imported in a kernel"
                yield module.fault(node, rule, "do without it, or move this code out of the kernel's closure")
        if any(within(full, name) for name in _PROCESS_MODULES) or binding.name in _PROCESS_NAMES:
            yield module.fault(node, f"{full} starts processes", "use threads (ThreadPoolExecutor)")


def code_faults(module: Module, *, is_entry: bool) -> Iterator[Fault]:
    """Violations in the code of one module."""
    for statement in module.tree.body:
        if does_work(statement) and (not is_entry or isinstance(statement, FunctionNode | ast.ClassDef)):
            rule = "does more than bind its names when it is imported: a kernel keeps what its entry reaches"
            yield module.fault(statement, rule, "move it into a function, or to the entry")
    exempt = {part for guard in filter(is_main_guard, module.tree.body) for part in ast.walk(guard)}
    for node in ast.walk(module.tree):
        yield from _format_faults(module, node)
        if isinstance(node, ast.Name) and node.id in _MODULE_NAMES and node not in exempt:
            rule = f"`{node.id}` differs between package and kernel"
            yield module.fault(node, rule, "write the value out, or pass it as an argument")
        if last_name(node) in _PROCESS_NAMES:
            yield module.fault(node, f"{last_name(node)} starts processes", "use threads (ThreadPoolExecutor)")
        if isinstance(node, ast.Call):
            yield from _call_faults(module, node)
        yield from _reach_faults(module, node)


def _format_faults(module: Module, node: ast.AST) -> Iterator[Fault]:
    """Statements that share a line, which `ruff format` never leaves: the bundler takes out whole lines."""
    if isinstance(node, ast.stmt) and module.lines[node.lineno - 1].encode()[: node.col_offset].strip():
        is_dummy = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is ...
        if not is_dummy:
            yield module.fault(node, "a statement that does not begin its line", "run `ruff format` on it")


def _call_faults(module: Module, node: ast.Call) -> Iterator[Fault]:
    name = last_name(node.func)
    if isinstance(node.func, ast.Name) and name in ("globals", "eval", "exec"):
        rule = f"{name}() means other names in a kernel, or names that it does not have"
        yield module.fault(node, rule, "name what is meant")
    if name in ("import_module", "__import__"):
        yield module.fault(node, "an import by a string that the bundler cannot follow", "use an import statement")
    options = {keyword.arg for keyword in node.keywords} if name in ("jit", "njit") else set()
    if options & {None, "cache"} and not CACHED.search(module.lines[node.lineno - 1]):
        rule = "the bundler cannot take `cache=True` out of this call of njit"
        yield module.fault(node, rule, "write its options out on one line, and `cache=True` as the last")


def _reach_faults(module: Module, node: ast.AST) -> Iterator[Fault]:
    """What hides from the bundler which definitions and methods the entry reaches."""
    if isinstance(node, ast.Attribute) and node.attr == "__doc__":
        yield module.fault(node, "a docstring is used, of which a kernel keeps the first line", "write the text out")
    by_name = isinstance(node, ast.Call) and last_name(node) in ("getattr", "attrgetter", "methodcaller")
    if by_name and any(isinstance(argument, ast.JoinedStr | ast.BinOp) for argument in node.args):  # type: ignore[attr-defined]
        yield module.fault(node, "an attribute's name made at run time", "write the names out, as whole strings")
    is_metaclass = isinstance(node, ast.keyword) and node.arg == "metaclass"
    if is_metaclass or (isinstance(node, FunctionNode) and node.name in ("__init_subclass__", "__set_name__")):
        yield module.fault(node, "classes that register themselves hide what is reached", "list them in one place")
    if isinstance(node, ast.Global):
        yield module.fault(node, "a top-level name that a function binds anew", "hold it in an object")


def name_faults(modules: Iterable[Module]) -> Iterator[Fault]:
    """Top-level names that mean two things in one file, or hide a builtin."""
    homes: dict[str, list[tuple[Module, ast.AST, Identity | None]]] = defaultdict(list)
    for module in sorted(modules, key=lambda module: module.name):
        for name, node, identity in module.bound:
            homes[name].append((module, node, identity))
    for name, found in homes.items():
        first, first_node, first_identity = found[0]
        if name in _BUILTINS and first_identity != ("builtins", name):
            yield first.fault(first_node, f"top-level name `{name}` hides the builtin from every module", "rename it")
        if first_identity is not None and all(identity == first_identity for _, _, identity in found):
            continue  # one and the same outside import
        others = {module.name: (module, node) for module, node, _ in found if module is not first}
        for module, node in others.values():
            rule = f"top-level name `{name}` is also bound in {first.file}:{getattr(first_node, 'lineno', 1)}"
            yield module.fault(node, rule, "rename one of the two, or write both imports alike")
