"""What the bundler asks of a syntax tree: names that a statement binds, and whether it does more than that."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
ImportNode = ast.Import | ast.ImportFrom
Identity = tuple[str, str]  # what an outside import stands for: module and name in it

_QUIET_CALLS = frozenset(
    {
        *("dataclass", "field", "property", "setter", "staticmethod", "classmethod", "abstractmethod", "overload"),
        *("cache", "cached_property", "lru_cache", "contextmanager", "wraps", "njit", "jit", "no_grad"),
        *("TypeVar", "compile", "frozenset", "getLogger", "Lock", "ContextVar", "Struct", "array", "arange", "log"),
    }
)
"""Decorators and constructors known to change nothing but the name that they are bound to."""


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


def blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The lists of statements (or handlers, or cases) that a node holds."""
    for name in ("body", "handlers", "orelse", "finalbody", "cases"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            yield block


def does_work(node: ast.AST) -> bool:
    """Whether running a statement may do more than bind its names: unknown calls, changes of objects, control flow."""
    if isinstance(node, FunctionNode):
        return _decorates(node) or any(map(_calls, [*node.args.defaults, *filter(None, node.args.kw_defaults)]))
    if isinstance(node, ast.ClassDef):
        return _decorates(node) or any(map(_calls, [*node.bases, *node.keywords])) or any(map(does_work, node.body))
    if isinstance(node, ast.Try | ast.ExceptHandler):
        return any(does_work(part) for block in blocks(node) for part in block)
    if isinstance(node, ast.Assign | ast.AnnAssign):
        parts = (part for target in _targets(node) for part in ast.walk(target))
        changes = any(isinstance(part, ast.Subscript | ast.Attribute) for part in parts)
        return changes or (node.value is not None and _calls(node.value))
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return not is_constant and not isinstance(node, ImportNode | ast.Pass)


def _decorates(node: FunctionNode | ast.ClassDef) -> bool:
    """Whether a decorator may do more than wrap what it decorates."""
    return any(last_name(decorator) not in _QUIET_CALLS or _calls(decorator) for decorator in node.decorator_list)


def _calls(node: ast.AST) -> bool:
    """Whether an expression calls what may do more than give a value."""
    if isinstance(node, ast.Lambda):
        return False
    is_loud = isinstance(node, ast.Call) and last_name(node) not in _QUIET_CALLS
    return is_loud or any(map(_calls, ast.iter_child_nodes(node)))


def bindings(node: ast.AST) -> Iterator[tuple[str, ast.AST, Identity | None]]:
    """The names that a top-level statement binds: name, node, and for an import what it stands for."""
    if isinstance(node, ImportNode):
        yield from ((name.bound, node, name.identity) for name in outside_names(node))
    elif isinstance(node, FunctionNode | ast.ClassDef):
        yield node.name, node, None
    elif isinstance(node, ast.Try | ast.ExceptHandler | ast.If):
        for statement in (part for block in blocks(node) for part in block):
            yield from bindings(statement)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        for part in (part for target in _targets(node) for part in ast.walk(target)):
            if isinstance(part, ast.Name):
                yield part.id, part, None


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]
