"""What the bundler asks of a syntax tree: import statements with their places, names bound, work done at import."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
ImportNode = ast.Import | ast.ImportFrom
Identity = tuple[str, str]  # what an outside import stands for: module and name in it

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


def is_declaration(cls: ast.ClassDef) -> bool:
    """Whether a class is a protocol of fields and methods without values or bodies, which only checkers look into."""
    bodies = [part.body if isinstance(part, FunctionNode) else [part] for part in cls.body]
    declared = all(
        (isinstance(part, ast.AnnAssign) and part.value is None)
        or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        for body in bodies
        for part in body
    )
    return declared and not cls.decorator_list and "Protocol" in map(last_name, cls.bases)


def is_main_guard(node: ast.AST) -> bool:
    """Whether a statement is `if __name__ == "__main__":`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def blocks(node: ast.AST) -> Iterator[tuple[str, list[ast.stmt]]]:
    """The lists of statements (or handlers, or cases) that a node holds."""
    for name in ("body", "handlers", "orelse", "finalbody", "cases"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            yield name, block


def import_sites(node: ast.AST, place: Place) -> Iterator[ImportSite]:
    """All import statements in a statement, with their places."""
    if isinstance(node, ImportNode):
        yield ImportSite(node, place)
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
    if isinstance(node, ast.Lambda):
        return False
    changes = isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load)
    calls = isinstance(node, ast.Call) and last_name(node) not in _QUIET_CALLS
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    return calls or changes or isinstance(node, _LOUD) or any(map(does_work, ast.iter_child_nodes(node)))


def _decorates(decorator: ast.expr) -> bool:
    """Whether a decorator may do more than wrap what it decorates."""
    return last_name(decorator) not in _QUIET_CALLS or does_work(decorator)


def bindings(node: ast.AST) -> Iterator[tuple[str, ast.AST, Identity | None]]:
    """The names that a statement binds in its own scope: name, node, and for an import what it stands for."""
    if isinstance(node, ImportNode):
        yield from ((name.bound, node, name.identity) for name in outside_names(node))
        return
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id, node, None
    name = getattr(node, "rest" if isinstance(node, ast.MatchMapping) else "name", None)
    if name and not isinstance(node, ast.alias):
        yield name, node, None
    for part in _own_parts(node):
        yield from bindings(part)


def _own_parts(node: ast.AST) -> Iterable[ast.AST]:
    """The children that belong to the same scope as the node."""
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
