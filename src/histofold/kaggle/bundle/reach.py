"""What a kernel's entry reaches: definitions, constants and methods, found by their names.

Names are unique over the closure, so that a name which kept code mentions is reached wherever it is defined. A method
is reached by its name alone, since the type of what it is called on is not known: it stays where any kept code has that
name as an attribute, keyword or string. What the entry runs stays too. What this cannot see is a method that only
outside code calls: it stays if its class has a base from outside, and else it must be a dunder.

Of a protocol that only annotations mean, its name and docstring stay: nothing runs of what it declares.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from histofold.kaggle.bundle.modules import Module
from histofold.kaggle.bundle.syntax import (
    FunctionNode,
    OutsideName,
    bindings,
    does_work,
    is_declaration,
    is_text,
    last_name,
)

_SILENT_BASES = frozenset({"Protocol", "Generic", "NamedTuple", "TypedDict", "ABC"})
"""Bases from outside that call no method of a class by a name of its own."""
_WORDS = re.compile(r"\w+(?:(?:\.|\[|\]|, | \| )\w*)*")  # a name, a dotted name, a type
_WORD = re.compile(r"[^\W\d]\w*")


class _Piece(NamedTuple):
    """What is kept or left out as one: a top-level statement, a class without its methods, or a method."""

    module: Module
    node: ast.stmt
    parts: list[ast.AST]
    """What it mentions once it is kept."""
    names: set[str]
    """What it binds."""
    works: bool
    """It does more than bind them, which only the entry may."""
    owner: ast.ClassDef | None
    """The class of a method."""


class Reach:
    """The statements of modules that stay in a kernel, and the names that they use."""

    def __init__(self, modules: Iterable[Module]) -> None:
        self.kept: set[ast.stmt] = set()
        """Top-level statements and methods."""
        self._used: dict[str, set[str]] = defaultdict(set)  # by module: names and words of strings
        self._names: set[str] = set()  # top-level names of the closure that kept code mentions
        self._words: set[str] = set()  # attributes, keywords, words of strings: what a method may be called
        pending = [piece for module in modules for piece in _pieces(module)]
        self._classes = {piece.node.name: piece.node for piece in pending if isinstance(piece.node, ast.ClassDef)}
        concrete = [cls for cls in self._classes.values() if not is_declaration(cls)]
        self._inherited = {last_name(base) for cls in concrete for base in cls.bases}
        while reached := [piece for piece in pending if self._is_reached(piece)]:
            for piece in reached:
                self._keep(piece)
            pending = [piece for piece in pending if piece.node not in self.kept]

    def unreached(self, module: Module) -> frozenset[ast.stmt]:
        """Statements of a module that the kernel leaves out; the words below a constant go with it."""
        gone = {node for node in module.tree.body if node not in self.kept and not is_text(node)}
        for cls in (node for node in module.tree.body if isinstance(node, ast.ClassDef)):
            if is_declaration(cls) and cls.name not in self._inherited:
                gone |= set(cls.body[1:] if is_text(cls.body[0]) else cls.body)
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

    def _is_reached(self, piece: _Piece) -> bool:
        if piece.owner is None:
            return piece.works or not self._names.isdisjoint(piece.names)
        if piece.owner not in self.kept:
            return False
        (name,) = piece.names
        is_dunder = name.startswith("__") and name.endswith("__")
        return is_dunder or name in self._words or self._overrides(piece.owner, name)

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

    def _keep(self, piece: _Piece) -> None:
        self.kept.add(piece.node)
        for part in piece.parts:
            names, words = _mentioned(part)
            self._used[piece.module.name] |= names
            self._names |= names & piece.module.scope
            # In a class body a method may get another name: `also_called = method`.
            self._words |= words | names if isinstance(piece.node, ast.ClassDef) else words


def _pieces(module: Module) -> Iterator[_Piece]:
    for node in module.tree.body:
        if node in module.dropped or is_text(node):
            continue
        methods = (
            [part for part in node.body if isinstance(part, FunctionNode)] if isinstance(node, ast.ClassDef) else []
        )
        parts: list[ast.AST] = (
            [part for part in ast.iter_child_nodes(node) if part not in methods] if methods else [node]
        )
        names = {name for name, _, _ in bindings(node)}
        yield _Piece(module, node, parts, names, does_work(node), None)
        for method in methods:
            assert isinstance(node, ast.ClassDef)
            yield _Piece(module, method, [method], {method.name}, False, node)


def _mentioned(node: ast.AST) -> tuple[set[str], set[str]]:
    """The names in a node, and its attributes and keywords; both with the words of strings such as "Shape | None"."""
    names, words = set[str](), set[str]()
    pending = [node]
    while pending:
        part = pending.pop()
        if is_text(part):
            continue
        if isinstance(part, ast.Name):
            names.add(part.id)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            names.update(_words_in(part.value))
            words.update(_words_in(part.value))
        words.update(_attributes(part))
        pending += ast.iter_child_nodes(part)
    return names, words


def _words_in(text: str) -> list[str]:
    """The names in a string that may be a name, a type, or a pattern of `format`."""
    return _WORD.findall(text) if _WORDS.fullmatch(text) or "{" in text else []


def _attributes(part: ast.AST) -> Iterator[str]:
    if isinstance(part, ast.Attribute):
        yield part.attr
    elif isinstance(part, ast.keyword) and part.arg:
        yield part.arg
    elif isinstance(part, ast.MatchClass):
        yield from part.kwd_attrs
