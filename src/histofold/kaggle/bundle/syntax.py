"""What the bundler asks of a syntax tree: import statements with their places, names bound, work done at import."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
ImportNode = ast.Import | ast.ImportFrom
Identity = tuple[str, str]  # what an outside import stands for: module and name in it

_JIT_NAMES = frozenset({"njit", "jit"})
_QUIET_CALLS = frozenset(
    {
        *("dataclass", "field", "property", "setter", "staticmethod", "classmethod", "abstractmethod", "overload"),
        *("cache", "cached_property", "lru_cache", "contextmanager", "wraps", "njit", "jit", "no_grad"),
        *("TypeVar", "compile", "frozenset", "getLogger", "Lock", "Struct", "array", "arange", "log"),
    }
)
"""Decorators and constructors known to change nothing but the name that they are bound to."""
_LOUD = (ast.AugAssign, ast.Delete, ast.Raise, ast.Assert, ast.For, ast.While, ast.With, ast.AsyncFor, ast.AsyncWith)


class OutsideName(NamedTuple):
    """One name bound by an import from outside: `import module [as alias]` or `from module import name [as alias]`."""

    module: str
    name: str
    alias: str

    @property
    def bound(self) -> str:
        """The name that stands in the importing scope."""
        return self.alias or self.name or self.module.partition(".")[0]

    @property
    def identity(self) -> Identity:
        """What the name stands for: `import a.b` and `import a.c` both bind the package a."""
        return (self.module if self.alias or self.name else self.bound, self.name)


@dataclass(frozen=True)
class Place:
    """Where a statement stands."""

    functions: tuple[FunctionNode, ...] = ()
    """The enclosing functions, outermost first."""
    in_class: bool = False
    """The innermost scope is a class body."""
    guarded: bool = False
    """In a `try:` whose handlers catch a failed import."""
    depth: int = 0
    """0 = directly in the module's body."""


class ImportSite(NamedTuple):
    """One import statement and its place."""

    node: ImportNode
    place: Place


def within(name: str, package: str) -> bool:
    """Whether a dotted name is the package or lies in it."""
    return name == package or name.startswith(package + ".")


def is_future(node: ast.AST) -> bool:
    """Whether a statement is `from __future__ import ...`."""
    return isinstance(node, ast.ImportFrom) and node.module == "__future__" and not node.level


def outside_names(node: ImportNode) -> list[OutsideName]:
    """The names that an outside import binds, with `import a as a` read as `import a`."""
    aliases = [(alias.name, "" if alias.asname == alias.name else alias.asname or "") for alias in node.names]
    if isinstance(node, ast.Import):
        return [OutsideName(name, "", alias) for name, alias in aliases]
    return [OutsideName(node.module or "", name, alias) for name, alias in aliases]


def last_name(node: ast.AST) -> str:
    """`c` of the expressions `c`, `a.b.c`, `c(...)` and `c[...]`."""
    if isinstance(node, ast.Call):
        return last_name(node.func)
    if isinstance(node, ast.Subscript):
        return last_name(node.value)
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def is_text(node: ast.AST) -> bool:
    """Whether a statement is a string alone: a docstring, or the words below a field or a constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def is_type_checking(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and last_name(node.test) == "TYPE_CHECKING"


def is_main_guard(node: ast.AST) -> bool:
    """Whether a statement is `if __name__ == "__main__":`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def is_jit(node: ast.AST) -> bool:
    """Whether a call is `njit(...)`, `numba.njit(...)`, `jit(...)` or a functools.partial of one."""
    names = {last_name(node)} if isinstance(node, ast.Call) else set()
    if isinstance(node, ast.Call) and names == {"partial"}:
        names = set(map(last_name, node.args))
    return not names.isdisjoint(_JIT_NAMES)


def sets_all(node: ast.AST) -> bool:
    """Whether a statement does nothing but assign or extend `__all__`."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    is_assignment = isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)
    return is_assignment and [last_name(target) for target in targets if target is not None] == ["__all__"]


def blocks(node: ast.AST) -> Iterator[tuple[str, list[ast.stmt]]]:
    """The lists of statements (or handlers, or cases) that a node holds."""
    for name in ("body", "handlers", "orelse", "finalbody", "cases"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            yield name, block


def import_sites(node: ast.AST, place: Place) -> Iterator[ImportSite]:
    """All import statements in a statement, with their places; none of those for the type checker alone."""
    if isinstance(node, ImportNode):
        yield ImportSite(node, place)
        return
    if is_type_checking(node):
        return
    inner = replace(place, depth=place.depth + 1)
    if isinstance(node, FunctionNode):
        inner = replace(inner, functions=(*place.functions, node), in_class=False)
    elif isinstance(node, ast.ClassDef):
        inner = replace(inner, in_class=True)
    for name, block in blocks(node):
        guarded = name == "body" and isinstance(node, ast.Try | ast.TryStar) and _catches_import_error(node)
        for child in block:
            yield from import_sites(child, replace(inner, guarded=inner.guarded or guarded))


def _catches_import_error(node: ast.Try | ast.TryStar) -> bool:
    wide = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
    kinds = [handler.type for handler in node.handlers]
    return any(kind is None or any(last_name(part) in wide for part in ast.walk(kind)) for kind in kinds)


def does_work(node: ast.AST) -> bool:
    """Whether running a statement may do more than bind its names: unknown calls, changes of objects, loops."""
    if isinstance(node, FunctionNode):
        defaults = [default for default in (*node.args.defaults, *node.args.kw_defaults) if default is not None]
        return any(map(_decorates, node.decorator_list)) or any(map(does_work, defaults))
    if isinstance(node, ast.ClassDef):
        parts = (*node.bases, *node.keywords, *node.body)
        return any(map(_decorates, node.decorator_list)) or any(map(does_work, parts))
    if isinstance(node, ast.Lambda) or is_type_checking(node):
        return False
    changes = isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load)
    calls = isinstance(node, ast.Call) and last_name(node) not in _QUIET_CALLS
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    return calls or changes or isinstance(node, _LOUD) or any(map(does_work, ast.iter_child_nodes(node)))


def _decorates(decorator: ast.expr) -> bool:
    """Whether a decorator may do more than wrap what it decorates."""
    return last_name(decorator) not in _QUIET_CALLS or does_work(decorator)


class ScopeBindings:
    """The names that one scope binds, without those of the scopes inside it."""

    def __init__(self, body: Iterable[ast.AST]) -> None:
        self.defined: list[tuple[str, ast.AST]] = []  # bound by anything but an import
        self.imports: list[ImportNode] = []
        for statement in body:
            self._add(statement)

    def _add(self, node: ast.AST) -> None:
        if isinstance(node, ImportNode):
            self.imports.append(node)
            return
        name = _own_name(node)
        if name:
            self.defined.append((name, node))
        for part in self._parts(node):
            self._add(part)

    def _parts(self, node: ast.AST) -> Iterable[ast.AST]:
        """The children that belong to the same scope as the node."""
        if is_type_checking(node):
            return ()
        if isinstance(node, FunctionNode):
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
    if isinstance(node, FunctionNode | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return node.name
    return None
