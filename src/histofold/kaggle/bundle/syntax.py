"""What the bundler asks of a syntax tree: import statements with their places, names bound, telling forms."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
ImportNode = ast.Import | ast.ImportFrom
Identity = tuple[str, str]  # what an outside import stands for: module and name in it

_JIT_NAMES = frozenset({"njit", "jit"})


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

    functions: tuple[FunctionNode, ...] = ()  # the enclosing function scopes, outermost first
    in_class: bool = False  # the innermost scope is a class body
    checking: bool = False  # under `if TYPE_CHECKING:`, never run
    guarded: bool = False  # in a `try:` whose handlers catch a failed import
    depth: int = 0  # 0 = directly in the module's body


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
    if isinstance(node, ast.Import):
        return [OutsideName(a.name, "", "" if a.asname in (None, a.name) else a.asname or "") for a in node.names]
    return [
        OutsideName(node.module or "", a.name, "" if a.asname in (None, a.name) else a.asname or "") for a in node.names
    ]


def last_name(node: ast.AST) -> str:
    """`c` of the expressions `c` and `a.b.c`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def is_type_checking(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and last_name(node.test) == "TYPE_CHECKING"


def is_main_guard(node: ast.AST) -> bool:
    """Whether a statement is `if __name__ == "__main__":`, in either order."""
    if not (isinstance(node, ast.If) and isinstance(node.test, ast.Compare) and len(node.test.ops) == 1):
        return False
    sides = (node.test.left, *node.test.comparators)
    constants = {side.value for side in sides if isinstance(side, ast.Constant)}
    return isinstance(node.test.ops[0], ast.Eq) and constants == {"__main__"} and "__name__" in map(last_name, sides)


def sets_all(node: ast.AST) -> bool:
    """Whether a statement does nothing but assign or extend `__all__`."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    is_assignment = isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)
    return is_assignment and [last_name(t) for t in targets if t is not None] == ["__all__"]


def _catches_import_error(node: ast.Try | ast.TryStar) -> bool:
    wide = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
    kinds = [handler.type for handler in node.handlers]
    return any(kind is None or any(last_name(part) in wide for part in ast.walk(kind)) for kind in kinds)


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
        here = inner
        if name == "body" and is_type_checking(node):
            here = replace(inner, checking=True)
        if name == "body" and isinstance(node, ast.Try | ast.TryStar) and _catches_import_error(node):
            here = replace(inner, guarded=True)
        for child in block:
            yield from import_sites(child, here)


def blocks(node: ast.AST) -> Iterator[tuple[str, list[Any]]]:
    """The lists of statements (or handlers, or cases) that a node holds."""
    for name in ("body", "handlers", "orelse", "finalbody", "cases"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            yield name, block


class ScopeBindings:
    """The names that one scope binds, without those of the scopes inside it.

    Attributes:
        defined: Names bound by anything but an import, each with its node.
        imports: The import statements.
    """

    def __init__(self, body: Iterable[ast.AST]) -> None:
        self.defined: list[tuple[str, ast.AST]] = []
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


def is_jit(node: ast.AST) -> bool:
    """Whether a call is `njit(...)`, `numba.njit(...)`, `jit(...)` or a functools.partial of one."""
    if not isinstance(node, ast.Call):
        return False
    name = last_name(node.func)
    return name in _JIT_NAMES or (
        name == "partial" and any(last_name(argument) in _JIT_NAMES for argument in node.args)
    )
