"""The modules of a package as the bundler sees them: what each imports and binds, which are needed, in which order."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from histofold.core.faults import Fault
from histofold.kaggle.bundle.syntax import (
    Identity,
    ImportNode,
    OutsideName,
    bindings,
    is_future,
    is_text,
    outside_names,
    within,
)

Sections = Sequence[tuple[str, tuple[str, ...]]]
"""Titles of a kernel's parts in their order, each with its modules and packages; the longest name that fits counts."""


@dataclass(frozen=True)
class Module:
    """One module of the closure."""

    name: str
    file: str
    """Path as the user would look for it, from the package's folder on."""
    source: str
    """Its text with "\\n" as line end."""
    package: str
    """Name of the package that counts as internal."""
    tree: ast.Module = field(repr=False, compare=False)

    @cached_property
    def lines(self) -> list[str]:
        """The lines of its text: Python ends one at "\\n" alone."""
        return self.source.split("\n")

    def fault(self, node: ast.AST | int, rule: str, remedy: str) -> Fault:
        """A fault at a node or a line of this module."""
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return Fault(self.name, f"{self.file}:{line}", rule, remedy)

    def is_internal(self, node: ast.AST) -> bool:
        """Whether a statement is an import from the package itself, in whatever form."""
        if isinstance(node, ast.ImportFrom):
            return bool(node.level) or within(node.module or "", self.package)
        return isinstance(node, ast.Import) and any(within(alias.name, self.package) for alias in node.names)

    @cached_property
    def imports(self) -> list[ImportNode]:
        """All import statements, also those in functions."""
        return [node for node in ast.walk(self.tree) if isinstance(node, ImportNode)]

    @cached_property
    def needs(self) -> dict[str, int]:
        """Internal modules that this one imports, with the line of the first import of each."""
        found: dict[str, int] = {}
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and self.is_internal(node) and not node.level:
                found.setdefault(node.module or "", node.lineno)
        return found

    @cached_property
    def hoisted(self) -> list[OutsideName]:
        """Names of the plain outside imports at the top level, which move to the head of the file."""
        nodes = [node for node in self.tree.body if isinstance(node, ImportNode) and not is_future(node)]
        return [binding for node in nodes if not self.is_internal(node) for binding in outside_names(node)]

    @cached_property
    def dropped(self) -> frozenset[ast.stmt]:
        """What the joined file never repeats: imports at the top level, and the docstring."""
        gone = {node for node in self.tree.body if isinstance(node, ImportNode)}
        return frozenset[ast.stmt](gone | {node for node in self.tree.body[:1] if is_text(node)})

    @cached_property
    def bound(self) -> list[tuple[str, ast.AST, Identity | None]]:
        """Every binding of a top-level name: name, node, and for an outside import what it stands for."""
        found = [binding for statement in self.tree.body for binding in bindings(statement)]
        return [(name, node, what) for name, node, what in found if not self.is_internal(node) and not is_future(node)]

    @cached_property
    def definitions(self) -> frozenset[str]:
        """Top-level names that other modules may import."""
        return frozenset(name for name, _, identity in self.bound if identity is None)

    @cached_property
    def scope(self) -> frozenset[str]:
        """The names of the closure that code of this module can mean: its own, and those that it imports."""
        imports = [node for node in self.tree.body if isinstance(node, ImportNode) and self.is_internal(node)]
        return self.definitions.union(alias.name for node in imports for alias in node.names)


class Library:
    """Reads modules of one package, each once."""

    def __init__(self, root: Path, package: str) -> None:
        self.root = root
        self.package = package
        self.reached: dict[str, Module] = {}

    def load(self, entry: str) -> list[Fault]:
        """Read the entry and all that it imports into `reached`; give the faults of files that cannot be read."""
        if not self.has(entry):
            remedy = f"give a module of {self.package}, such as {self.package}.kernels.hubmap_2022"
            return [Fault(entry, _display(entry), "no such entry module", remedy)]
        faults, pending = [], [entry]
        while pending:
            name = pending.pop()
            if name in self.reached:
                continue
            module = self._parse(name)
            if isinstance(module, Fault):
                faults.append(module)
                continue
            self.reached[name] = module
            pending += [target for target in module.needs if self.has(target)]
        return faults

    def has(self, name: str) -> bool:
        """Whether a dotted name is a module of the package that has a file (a package's folder does not count)."""
        return name.startswith(self.package + ".") and self._path(name).is_file()

    def _path(self, name: str) -> Path:
        return self.root.joinpath(*name.split(".")[1:]).with_suffix(".py")

    def _parse(self, name: str) -> Module | Fault:
        """The module, or why it cannot be parsed."""
        file = _display(name)
        try:
            # Python itself reads "\r\n" and "\r" as line ends; the digest must not depend on them.
            text = self._path(name).read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
            return Module(name, file, text, self.package, ast.parse(text))
        except SyntaxError as error:
            return Fault(name, f"{file}:{error.lineno or 1}", f"not Python ({error.msg})", "mend that line")
        except ValueError as error:
            return Fault(name, f"{file}:1", f"not UTF-8 text ({error})", "save the file as UTF-8")


def _display(name: str) -> str:
    return name.replace(".", "/") + ".py"


class Ordered:
    """Modules in an order in which each stands after all that it needs, section by section as far as that allows.

    What several sections need stands in the first of them, directly before the module that needs it.
    """

    def __init__(self, modules: Mapping[str, Module], entry: str, sections: Sections = ()) -> None:
        self.titles: dict[str, str] = {}
        """The section of each module, in order."""
        self.faults: list[Fault] = []
        """One for each import that closes a circle."""
        self._modules = modules
        every = [member for _, members in sections for member in members]
        for title, members in sections:
            for name in sorted(modules.keys() - {entry}):
                if max((member for member in every if within(name, member)), key=len, default="") in members:
                    self._visit(name, title, [])
        for name in (entry, *sorted(modules)):
            self._visit(name, "Entry", [])

    def _visit(self, name: str, title: str, path: list[str]) -> None:
        if name in self.titles or name not in self._modules:
            return
        for target in sorted(self._modules[name].needs):
            if target in (*path, name):
                circle = " -> ".join([*[*path, name][[*path, name].index(target) :], target])
                rule, remedy = f"circular import {circle}", "move what both need into a third module"
                self.faults.append(self._modules[name].fault(self._modules[name].needs[target], rule, remedy))
            else:
                self._visit(target, title, [*path, name])
        self.titles[name] = title
