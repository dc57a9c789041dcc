"""What a kernel's entry reaches: definitions, constants and methods, found by their names.

Names are unique over the closure, so that a name which kept code mentions is reached wherever it is defined. A method
is reached by its name alone, since the type of what it is called on is not known: it stays where any kept code has that
name as an attribute, keyword or string. Whatever may do more than bind its own names stays too. What this cannot see is
a method that only outside code calls: it stays if its class has a base from outside, and else it must be a dunder.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from histofold.kaggle.bundle.modules import Module
from histofold.kaggle.bundle.syntax import (
    FunctionNode,
    OutsideName,
    ScopeBindings,
    does_work,
    is_text,
    is_type_checking,
    last_name,
    outside_names,
)

_SILENT_BASES = frozenset({"Protocol", "Generic", "NamedTuple", "TypedDict", "ABC"})
"""Bases from outside that call no method of a class by a name of its own."""
_WORDS = re.compile(r"\w+(?:(?:\.|\[|\]|, | \| )\w*)*")  # a name, a dotted name, a type
_WORD = re.compile(r"[^\W\d]\w*")


class Reach:
    """The statements of modules that stay in a kernel, and the names that they use."""

    def __init__(self, modules: Iterable[Module]) -> None:
        self.kept: set[ast.stmt] = set()
        """Top-level statements and methods."""
        self._used: dict[str, set[str]] = defaultdict(set)  # by module: names and words of strings
        self._names: set[str] = set()  # top-level names of the closure that kept code mentions
        self._words: set[str] = set()  # the same with attributes and keywords: what a method may be called
        self._modules = list(modules)
        self._scopes = {module.name: _scope(module) for module in self._modules}
        nodes = [node for module in self._modules for node in module.tree.body]
        self._classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
        while any(self._grow(module) for module in self._modules):
            pass

    def unreached(self, module: Module) -> frozenset[ast.stmt]:
        """Statements of a module that the kernel leaves out; the words below a constant go with it."""
        gone = {node for node in module.tree.body if node not in self.kept and not is_text(node)}
        for cls in (node for node in module.tree.body if isinstance(node, ast.ClassDef)):
            gone |= {node for node in cls.body if isinstance(node, FunctionNode) and node not in self.kept}
        before: ast.stmt | None = None
        for node in module.tree.body:
            if is_text(node) and (before is None or before in gone):
                gone.add(node)
            before = node
        return module.dropped | gone

    def outside(self, module: Module) -> set[OutsideName]:
        """The moved imports of a module that what is kept of it uses."""
        return {binding for binding in module.hoisted if binding.bound in self._used[module.name]}

    def _grow(self, module: Module) -> bool:
        """Keep what is newly reached in a module; whether there was any."""
        before = len(self.kept)
        for node in module.tree.body:
            if node not in module.dropped and not is_text(node) and (node in self.kept or self._is_reached(node)):
                self._keep(module, node)
        return len(self.kept) > before

    def _is_reached(self, node: ast.stmt) -> bool:
        return does_work(node) or not self._names.isdisjoint(_names_bound(node))

    def _keep(self, module: Module, node: ast.stmt) -> None:
        if not isinstance(node, ast.ClassDef):
            self._mention(module, node)
            return
        methods = [part for part in node.body if isinstance(part, FunctionNode)]
        if node not in self.kept:
            self.kept.add(node)
            rest = [part for part in node.body if part not in methods]
            for part in (*node.decorator_list, *node.bases, *node.keywords, *rest):
                self._mention(module, part)
        for method in methods:
            if self._is_called(node, method):
                self._mention(module, method)

    def _is_called(self, cls: ast.ClassDef, method: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        is_dunder = method.name.startswith("__") and method.name.endswith("__")
        return is_dunder or method.name in self._words or does_work(method) or self._overrides(cls, method.name)

    def _overrides(self, cls: ast.ClassDef, method: str) -> bool:
        """Whether a class may have the method for a base from outside, which calls it."""
        for base in map(last_name, cls.bases):
            if base in self._classes:
                if self._overrides(self._classes[base], method):
                    return True
            elif base not in _SILENT_BASES and (
                not hasattr(builtins, base) or hasattr(getattr(builtins, base), method)
            ):
                return True
        return False

    def _mention(self, module: Module, node: ast.AST) -> None:
        """Note what a node mentions that is kept now."""
        if node in self.kept:
            return
        if isinstance(node, ast.stmt):
            self.kept.add(node)
        names, others = _mentioned(node)
        self._used[module.name] |= names
        self._words |= names | others
        self._names |= names & self._scopes[module.name]


def _scope(module: Module) -> set[str]:
    """The names of the closure that a module can mean: its own, and those that it imports somewhere."""
    imports = [node for node, _ in module.sites if module.is_internal(node)]
    return {alias.name for node in imports for alias in node.names} | module.definitions


def _names_bound(node: ast.stmt) -> set[str]:
    scope = ScopeBindings([node])
    return {name for name, _ in scope.defined} | {name.bound for site in scope.imports for name in outside_names(site)}


def _mentioned(node: ast.AST) -> tuple[set[str], set[str]]:
    """The names in a node, also those in strings such as "Shape | None", and its attributes and keywords."""
    names, others = set[str](), set[str]()
    pending = [node]
    while pending:
        part = pending.pop()
        if is_text(part) or is_type_checking(part):
            continue
        if isinstance(part, ast.Name):
            names.add(part.id)
        elif isinstance(part, ast.Global):
            names.update(part.names)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            names.update(_words_in(part.value))
        others.update(_attributes(part))
        pending += ast.iter_child_nodes(part)
    return names, others


def _words_in(text: str) -> list[str]:
    return _WORD.findall(text) if _WORDS.fullmatch(text) else []


def _attributes(part: ast.AST) -> Iterator[str]:
    if isinstance(part, ast.Attribute):
        yield part.attr
    elif isinstance(part, ast.keyword) and part.arg:
        yield part.arg
    elif isinstance(part, ast.MatchClass):
        yield from part.kwd_attrs
