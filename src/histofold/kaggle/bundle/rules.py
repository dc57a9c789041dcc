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
    ImportSite,
    bindings,
    does_work,
    is_future,
    is_main_guard,
    last_name,
    outside_names,
    within,
)
from histofold.kaggle.bundle.text import CACHED, banner_lines

_PROCESS_MODULES = frozenset({"multiprocessing", "torch.multiprocessing", "concurrent.futures.process", "joblib"})
_PROCESS_NAMES = frozenset({"ProcessPoolExecutor", "multiprocessing"})
# What these names hold differs between a module of the package and the one file of a kernel.
_MODULE_NAMES = frozenset({"__name__", "__file__", "__doc__", "__spec__", "__package__", "__path__", "__all__"})
_BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_"))


def import_faults(module: Module, library: Library, forbidden: frozenset[str]) -> Iterator[Fault]:
    """Violations in the import statements of one module."""
    for site in module.sites:
        if is_future(site.node):
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


def _internal_form_faults(module: Module, site: ImportSite) -> Iterator[Fault]:
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


def _target_faults(module: Module, site: ImportSite, library: Library) -> Iterator[Fault]:
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


def _local_faults(module: Module, site: ImportSite) -> Iterator[Fault]:
    """Internal imports in functions whose name means something else there once the import is gone."""
    names = {alias.asname or alias.name for alias in site.node.names}
    for function in site.place.functions:
        shadowed = _local_names(module, function) & names
        for name in sorted(shadowed):
            rule = f"`{name}` is imported in a function and also bound in {function.name}()"
            yield module.fault(site.node, rule, "rename the parameter or variable, or import at the top")


def _local_names(module: Module, function: FunctionNode) -> set[str]:
    """Parameters and local names of a function, without its internal imports."""
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    found = [binding for statement in function.body for binding in bindings(statement)]
    names = {name for name, node, _ in found if not module.is_internal(node)}
    return names | {parameter.arg for parameter in parameters if parameter is not None}


def _outside_faults(module: Module, site: ImportSite, forbidden: frozenset[str]) -> Iterator[Fault]:
    """Outside imports that a kernel must not have."""
    for binding in outside_names(site.node):
        full = f"{binding.module}.{binding.name}" if binding.name else binding.module
        if binding.name == "*":
            yield module.fault(site.node, f"star import from {binding.module}", "import each name that is used")
        for package in sorted(forbidden):
            if within(full, package):
                rule = f"{package} may not be imported in a kernel"
                yield module.fault(site.node, rule, "do without it, or move this code out of the kernel's closure")
        if any(within(full, name) for name in _PROCESS_MODULES) or binding.name in _PROCESS_NAMES:
            yield module.fault(site.node, f"{full} starts processes", "use threads (ThreadPoolExecutor)")


def _late_import_faults(module: Module) -> Iterator[Fault]:
    """Top-level imports after code that runs: in the kernel they come before it."""
    running = False
    for statement in module.tree.body:
        if running and statement in module.dropped and isinstance(statement, ImportNode):
            rule = "import after code that runs, which would come after it in the kernel"
            yield module.fault(statement, rule, "put the imports first")
        running = running or does_work(statement)


def code_faults(module: Module, *, is_entry: bool) -> Iterator[Fault]:
    """Violations in the code of one module."""
    guards = [statement for statement in module.tree.body if is_main_guard(statement)]
    exempt = {part for guard in guards for part in ast.walk(guard)}
    if not is_entry:
        for guard in guards:
            rule = "`__main__` guard outside the entry: it would run in the kernel"
            yield module.fault(guard, rule, "move it to the entry")
    for statement in module.tree.body:
        if isinstance(statement, FunctionNode) and statement.name in ("__getattr__", "__dir__"):
            yield module.fault(statement, f"module-level {statement.name}()", "define the names themselves")
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
    for line, _ in banner_lines(module.source):
        yield module.fault(line + 1, "a comment that looks like the bundler's banner", "write it without = signs")


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
        target = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        if not isinstance(target, str) or within(target, module.package):
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
    """Top-level names that mean two things in one file."""
    homes: dict[str, list[tuple[Module, ast.AST, Identity | None]]] = defaultdict(list)
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


def init_faults(library: Library) -> Iterator[Fault]:
    """`__init__` modules that do more than a kernel, which has none, could do without."""
    for module in library.initialisers():
        if isinstance(module, Fault):
            yield module
            continue
        for statement in module.tree.body:
            if not isinstance(statement, ImportNode) and does_work(statement):
                rule = "an __init__ that does work, which the kernel leaves out"
                yield module.fault(statement, rule, "move it into a function of a module")
