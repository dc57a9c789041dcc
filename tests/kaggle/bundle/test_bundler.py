"""The bundle of a package runs as the package does, holds what it reaches, and is refused where it could not."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from pathlib import Path

import pytest

import histofold
from histofold.core.faults import Fault, InputError
from histofold.kaggle.bundle.bundler import FORBIDDEN, BundleError, bundle, closure, source_digest
from histofold.kaggle.bundle.kernels import KERNEL_SECTIONS
from histofold.kaggle.bundle.modules import Module
from small_bundles import NASTY, run_bundle, run_package, run_python, write_package

FUTURE = "from __future__ import annotations\n"
SURROGATE = ", surrogate \\ud800" if sys.version_info < (3, 13) else ""
"""Half a character, which Python 3.13 itself does not take in a docstring."""


@pytest.fixture(scope="module")
def nasty_bundle() -> str:
    return bundle("nasty.entry", NASTY, "nasty")


# --- what a bundle is -------------------------------------------------------------------------------------------------


def test_the_bundle_of_the_nasty_package_runs_as_the_package_does(nasty_bundle: str, tmp_path: Path) -> None:
    package = run_package(NASTY, "nasty.entry", tmp_path)
    kernel = run_bundle(nasty_bundle, tmp_path / "elsewhere")
    assert package.returncode == 0, package.stderr
    assert kernel.returncode == 0, kernel.stderr
    assert len(package.stdout) > 500
    assert kernel.stdout == package.stdout


KERNELS = ("hubmap_2022", "kidney_2020", "sennet_2024", "vasculature_2023", "vrdl_nuclei")


@pytest.fixture(scope="module", params=["nasty", *KERNELS])
def bundled(request: pytest.FixtureRequest, nasty_bundle: str) -> tuple[list[Module], str]:
    """The modules of a closure and the bundle of them."""
    if request.param == "nasty":
        return closure("nasty.entry", NASTY, "nasty"), nasty_bundle
    root, entry = Path(histofold.__file__).parent, f"histofold.kernels.{request.param}"
    return closure(entry, root), bundle(entry, root, sections=KERNEL_SECTIONS)


class Comparable(ast.NodeTransformer):
    """What a statement does, without what the bundler may take from it."""

    def __init__(self, module: Module, methods: frozenset[str]) -> None:
        self.module, self.methods = module, methods

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        return self.generic_visit(node) if node.name in self.methods else None

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        if "Protocol" in map(ast.unparse, node.bases):  # what it declares may go
            node.body = []
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if ast.unparse(node.func).endswith("jit"):
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "cache"]
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for name in ("body", "orelse", "finalbody"):
            if isinstance(getattr(node, name, None), list):
                setattr(node, name, [part for part in getattr(node, name) if not self._may_go(part)])
        return node

    def _may_go(self, node: ast.AST) -> bool:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        return is_text or isinstance(node, ast.Pass) or self.module.is_internal(node)


@pytest.mark.slow
def test_what_is_kept_means_what_it_meant(bundled: tuple[list[Module], str]) -> None:
    """Statement by statement in their order: nothing is changed but docstrings, declarations, imports, `cache=True`."""
    modules, text = bundled
    # A banner in a string has no blank lines above it, unlike those of the bundler.
    parts = re.split(r"\n\n\n# =+ ([\w.]+) =+\n", text)
    homes = {module.name: module for module in modules}
    for name, part in zip(parts[1::2], parts[2::2], strict=True):
        kept = ast.parse(part)
        functions = frozenset(node.name for node in ast.walk(kept) if isinstance(node, ast.FunctionDef))
        compare = Comparable(homes[name], functions)
        sources = iter(
            [ast.dump(compare.visit(node)) for node in ast.parse(homes[name].source).body if compare.visit(node)]
        )
        assert all(ast.dump(compare.visit(node)) in sources for node in kept.body), name


@pytest.mark.slow
def test_every_kept_name_is_referenced(bundled: tuple[list[Module], str]) -> None:
    """Nothing more could go: each top-level name is used by another statement."""
    tree = ast.parse(bundled[1])
    words = [set(re.findall(r"\w+", ast.unparse(node))) for node in tree.body]
    for node, own in zip(tree.body, words, strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name not in ("never_called", "annotations"):
            assert sum(node.name in each for each in words) > 1, node.name
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                bound = (alias.asname or alias.name).split(".")[0]
                assert any(bound in each for each in words if each is not own) or bound == "annotations", bound


@pytest.mark.slow
def test_a_bundle_of_a_bundle_is_the_same(bundled: tuple[list[Module], str], tmp_path: Path) -> None:
    def without_places(text: str) -> str:
        return re.sub(r"(?m)^\n\n# =+ [\w.]+ =+\n", "\n\n", text[text.index(FUTURE) :])

    once = without_places(bundled[1])
    twice = bundle("bad.entry", write_package(tmp_path, {"entry.py": once}), "bad")
    assert without_places(twice) == once


def test_a_bundle_is_formatted_and_has_no_unknown_or_unused_name(
    bundled: tuple[list[Module], str], tmp_path: Path
) -> None:
    path = tmp_path / "kernel.py"
    path.write_text(bundled[1], encoding="utf-8")
    options = ["--isolated", "--target-version=py311", "--line-length=120", str(path)]
    for command in (["format", "--check"], ["check", "--select=F401,F811,F821,F841"]):
        done = run_python(["-m", "ruff", *command, *options], tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_line_and_comment_of_what_is_kept_survives_verbatim(nasty_bundle: str) -> None:
    for kept in (
        "FIRST, (SECOND, *REST) = 1, (2, 3, 4)  # a comment that stays",
        "# a comment that belongs to nothing",
        "    import math as maths  # an outside import stays here",
        '    """A docstring stays by its first line."""\n    return',
        'if __name__ == "__main__":\n    print(json.dumps([outside(), parallel([1, 2])]), __name__)',
        'return dict(text="cache=True", cache=True)',
        "        else:\n            # a comment above an import\n            from os.path import sep\n",
        "scale: float = 2.5  # Words below a constant go beside it. Of more sentences the first line's stay.\n",
        "    name: str  # Words below a field go beside it.\n",
        'if __name__ == "__main__":\n\n\n    raise SystemExit\n"""',
    ):
        assert kept in nasty_bundle, kept


def test_what_nobody_reaches_goes_with_its_comments(nasty_bundle: str) -> None:
    for gone in (
        *("UNREACHED", "comment above it", "words below it", "QUIET", "limit", "unreached", "comment belongs to"),
        *("def uncalled", "comment of the method", "uncalled_too", "def only(self)", "by_nobody", "not_asked"),
        *("of_our_own", "antigravity", "uncalled_and_cached", "Attributes:", "And no more", "too long for"),
    ):
        assert gone not in nasty_bundle.split(FUTURE)[1], gone


USER = "from bad.a import {}\n\nprint({})\n"
REACHED: dict[str, tuple[str, str, str]] = {
    # name: (a.py, what the entry imports and prints, what must be kept of a.py)
    "through an attribute": (
        "class A:\n    def area(self):\n        return 1\n\n\ndef made():\n    return A()\n",
        "made().area()",
        "def area",
    ),
    "through a string annotation": (
        "import typing\n\n\nclass A:\n    pass\n\n\nclass B:\n    a: 'A | None'\n\n\n"
        "def f():\n    return typing.get_type_hints(B)['a'] == A | None if 0 else len(typing.get_type_hints(B))\n",
        "f()",
        "class A",
    ),
    "through a decorator": (
        "from functools import wraps\n\n\ndef area():\n    return 1\n\n\n@wraps(area)\ndef f():\n    return 1\n",
        "f()",
        "def area",
    ),
    "through a default": (
        "def area():\n    return 1\n\n\ndef f(of=area):\n    return of()\n",
        "f()",
        "def area",
    ),
    "through a base class": (
        "class A:\n    x = 1\n\n\nclass B(A):\n    pass\n",
        "B().x",
        "class A",
    ),
    "as a member of a protocol": (
        "from typing import Protocol\n\n\nclass Reads(Protocol):\n    def read(self) -> int: ...\n\n\n"
        "class A:\n    def read(self):\n        return 1\n\n\n"
        "def f(source: Reads | None = None):\n    return (source or A()).read()\n",
        "f()",
        "class A:\n    def read",
    ),
    "as an override of an outside class": (
        "import json\n\n\nclass A(json.JSONEncoder):\n    def default(self, value):\n        return 'ours'\n\n\n"
        "def f():\n    return json.dumps(print, cls=A)\n",
        "f()",
        "def default",
    ),
    "as an override through a class between": (
        "import json\n\n\nclass A(json.JSONEncoder):\n    pass\n\n\nclass B(A):\n    def default(self, value):\n"
        "        return 'ours'\n\n\ndef f():\n    return json.dumps(print, cls=B)\n",
        "f()",
        "def default",
    ),
    "as an override of a builtin": (
        "class A(dict):\n    def get(self, key):\n        return 1\n\n\nclass B(ValueError):\n"
        "    def with_traceback(self, tb):\n        return self\n\n\ndef both():\n    return A(), B()\n",
        "len(both())",
        "def with_traceback",
    ),
    "as the handler of a field": (
        "from dataclasses import dataclass, field\n\n\ndef made():\n    return 1\n\n\n@dataclass\nclass A:\n"
        "    x: int = field(default_factory=made)\n\n    def __post_init__(self):\n        self.x += 1\n",
        "A()",
        "def made",
    ),
    "as a property": ("class A:\n    @property\n    def x(self):\n        return 1\n", "A().x", "def x"),
    "under another name in the class": (
        "class A:\n    def f(self):\n        return 1\n\n    g = f\n",
        "A().g()",
        "def f",
    ),
}


@pytest.mark.parametrize("case", REACHED)
def test_a_definition_survives_that_is_used_in_whatever_way(case: str, tmp_path: Path) -> None:
    source, expression, kept = REACHED[case]
    names = sorted(
        {name for name in re.findall(r"\w+", expression) if re.search(rf"(?m)^(def |class |){name}\b", source)}
    )
    root = write_package(tmp_path, {"a.py": source, "entry.py": USER.format(", ".join(names), expression)})
    text = bundle("bad.entry", root, "bad")
    assert kept in text
    package, kernel = run_package(root, "bad.entry", tmp_path), run_bundle(text, tmp_path / "elsewhere")
    assert (package.returncode, kernel.returncode) == (0, 0), package.stderr + kernel.stderr
    assert kernel.stdout == package.stdout


def test_a_module_of_which_nothing_is_reached_vanishes_with_its_imports(tmp_path: Path) -> None:
    files = {
        "a.py": "import json\n\nA = 1\n\n\ndef f():\n    return json.dumps(B)\n\n\nB = 2\n",
        "b.py": "from bad.a import f\n\n\ndef g():\n    return f()\n\n\ndef h():\n    return 1\n",
        "entry.py": "from bad.b import g, h\n\n\ndef unused():\n    return g()\n\n\nprint(h())\n",
    }
    text = bundle("bad.entry", write_package(tmp_path, files), "bad")
    assert "json" not in text
    assert "bad.a" not in text
    assert run_bundle(text, tmp_path / "elsewhere").stdout == "1\n"


PROTOCOL = """from typing import Protocol


class Reads(Protocol):
    \"\"\"What reads.\"\"\"

    place: int
    \"\"\"Where.\"\"\"

    def read(self) -> int:
        \"\"\"Read.\"\"\"
        ...


class A{}:
    place = 1


def f(source: Reads | None = None):
    return (source or A()).place
"""


@pytest.mark.parametrize(("bases", "kept"), [("", False), ("(Reads)", True)])
def test_what_a_protocol_declares_stays_where_a_class_inherits_it(bases: str, kept: bool, tmp_path: Path) -> None:
    files = {"a.py": PROTOCOL.format(bases), "entry.py": "from bad.a import f\n\nprint(f())\n"}
    text = bundle("bad.entry", write_package(tmp_path, files), "bad")
    assert 'class Reads(Protocol):\n    """What reads."""\n' in text
    assert ("place: int  # Where." in text) == kept
    assert run_bundle(text, tmp_path / "elsewhere").stdout == "1\n"


def test_imports_are_merged_once_at_the_head(nasty_bundle: str) -> None:
    head = nasty_bundle.split("# ======== ")[0]
    imports = [line for line in head.splitlines() if line.startswith(("import ", "from "))]
    assert imports[0] == FUTURE.strip()
    assert nasty_bundle.count(FUTURE) == 1
    assert len(set(imports)) == len(imports)
    plain = [line for line in imports[1:] if line.startswith("import ")]
    assert plain == sorted(plain)
    assert imports[1:] == plain + sorted(line for line in imports[1:] if line.startswith("from "))
    assert "from collections import OrderedDict, deque as double_ended" in imports


def test_third_party_imports_follow_the_standard_library_and_long_ones_are_wrapped(tmp_path: Path) -> None:
    names = ", ".join(f"name_number_{index}" for index in range(12))
    imports = f"from zzz import {names}\nimport numpy as np\nimport json, numpy.linalg\n"
    files = {"entry.py": f"{imports}\nprint({names.replace(' ', chr(10))}, np, json, numpy)\n"}
    text = bundle("bad.entry", write_package(tmp_path, files), "bad")
    assert "import json\n\nimport numpy as np\nimport numpy.linalg\nfrom zzz import (\n    name_number_0,\n" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_header_says_what_the_file_is_and_where_each_module_stands(bundled: tuple[list[Module], str]) -> None:
    modules, text = bundled
    head = text.split(FUTURE)[0]
    assert "GENERATED by `histofold kernel " in head
    lines = text.split("\n")
    package = modules[-1].package
    contents = [(line, f"{package}.{name}") for line, name in re.findall(r" (\d+)  ([\w.]+)", head)]
    assert all(lines[int(line) - 1] == f"# ======== {name} ========" for line, name in contents)
    assert len(contents) == len(re.findall(r"\n\n\n# =+ [\w.]+ =+\n", text))
    kept = {name for _, name in contents}
    homes = {module.name: module for module in modules}
    assert source_digest(homes[name] for _, name in contents) in head
    assert kept <= homes.keys()
    for module in modules:
        names = [name for _, name in contents]
        assert all(names.index(need) < names.index(module.name) for need in module.needs if {need, module.name} <= kept)


def test_every_module_comes_after_what_it_needs_and_the_entry_last() -> None:
    names = [module.name for module in closure("nasty.entry", NASTY, "nasty")]
    assert sorted(names) == sorted(f"nasty.{path.stem}" for path in NASTY.glob("*.py") if path.stem != "__init__")
    assert names[-1] == "nasty.entry"


def test_sections_come_in_their_order_as_far_as_imports_allow(tmp_path: Path) -> None:
    files = {"a.py": "A = 1\n", "b.py": "B = 2\n", "sub/c.py": "from bad.b import B\n\nC = B\n"}
    files["entry.py"] = "from bad.a import A\nfrom bad.b import B\nfrom bad.sub.c import C\n\nprint(A, B, C)\n"
    root = write_package(tmp_path, files)
    for sections, expected in (
        ((), ["Entry", "a", "b", "sub.c", "entry"]),
        ((("One", ("bad.b",)), ("Two", ("bad",))), ["One", "b", "Two", "a", "sub.c", "Entry", "entry"]),
        ((("One", ("bad.sub",)), ("Two", ("bad.a", "bad.b"))), ["One", "b", "sub.c", "Two", "a", "Entry", "entry"]),
        ((("One", ("bad",)), ("Two", ("bad.sub",))), ["One", "a", "b", "Two", "sub.c", "Entry", "entry"]),
    ):
        text = bundle("bad.entry", root, "bad", sections=sections)
        found = re.findall(r"(?:^#   |\d  )([\w.]+)", text.split(FUTURE)[0].partition("Contents")[2], re.MULTILINE)
        assert found == expected
        assert run_bundle(text, tmp_path / "elsewhere").stdout == "1 2 2\n"


def test_a_closure_holds_no_more_than_it_needs(tmp_path: Path) -> None:
    files = {"a.py": "A = 1\n", "b.py": "from bad.a import A\nB = A\n", "unused.py": "import bad\n", "entry.py": ""}
    root = write_package(tmp_path, files)
    assert [module.name for module in closure("bad.b", root, "bad")] == ["bad.a", "bad.b"]
    assert [module.name for module in closure("bad.entry", root, "bad")] == ["bad.entry"]


def test_the_same_sources_give_the_same_bytes_wherever_they_lie(nasty_bundle: str, tmp_path: Path) -> None:
    copy = tmp_path / "other" / "nasty"
    copy.mkdir(parents=True)
    for path in NASTY.glob("*.py"):
        # Another line end and a byte-order mark are no other source.
        (copy / path.name).write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert bundle("nasty.entry", copy, "nasty") == nasty_bundle
    assert str(tmp_path) not in nasty_bundle
    assert str(NASTY.resolve()) not in nasty_bundle


def test_a_changed_comment_changes_the_digest(tmp_path: Path) -> None:
    before = closure("bad.entry", write_package(tmp_path, {"entry.py": "A = 1\n"}), "bad")
    after = closure("bad.entry", write_package(tmp_path, {"entry.py": "A = 1  # one\n"}), "bad")
    assert source_digest(before) != source_digest(after)
    assert source_digest(before) == hashlib.sha256(b"bad.entry\0A = 1\n\0").hexdigest()


GOOD = {
    "an outside import under two names": {
        "a.py": "import numpy\nimport json as j\n\n\ndef a():\n    return j.dumps(1)\n",
        "entry.py": "import json\nfrom bad.a import a\nprint(json.dumps(a()))\n",
    },
    "the same import moved here and kept in a block there": {
        "a.py": "try:\n    import json\nfinally:\n    A = 1\n",
        "entry.py": "import json\nfrom bad.a import A\nprint(json.dumps(A))\n",
    },
    "a function under its own name in another scope": {
        "a.py": "def area():\n    return 1\n",
        "entry.py": (
            "from bad.a import area\n\nclass B:\n    area = 2\n\n    def get(self):\n"
            "        return area() + self.area\n\ndef other(area=3):\n    return area\n\n"
            "print(area(), other(), B().get())\n"
        ),
    },
    "no newline at the end, form feed": {
        "a.py": "\f\nimport os\nA = os.sep",
        "entry.py": "from bad.a import A\n\n\ndef f():\n    return A\n\n\nif __name__ == '__main__':\n    print(f())",
    },
    "only imports": {
        "a.py": '"""Doc."""\nimport os\n',
        "b.py": "B = 1\n",
        "entry.py": "from bad.b import B\nprint(B)\n",
    },
    "a docstring of control characters": {
        "entry.py": f'"""Bell \\a, return \\r{SURROGATE}.\\n\\nimport os\\x0cimport sys"""\nprint(1)\n',
    },
    "every name of a try": {
        "a.py": "try:\n    import nobody_has_it as fast\nexcept ImportError as error:\n    fast = None\nFAST = fast\n",
        "entry.py": "from bad.a import FAST, fast\nprint(FAST, fast)\n",
    },
    "a package in a package": {
        "sub/deep/a.py": "A = 5\n",
        "sub/entry.py": "from bad.sub.deep.a import A\nprint(A)\n",
    },
}


@pytest.mark.parametrize("case", GOOD)
def test_lawful_packages_run_alike(case: str, tmp_path: Path) -> None:
    root = write_package(tmp_path, GOOD[case])
    entry = "bad.sub.entry" if "sub/entry.py" in GOOD[case] else "bad.entry"
    text = bundle(entry, root, "bad")
    package = run_package(root, entry, tmp_path)
    kernel = run_bundle(text, tmp_path / "elsewhere")
    assert package.returncode == 0, package.stderr
    assert (kernel.returncode, kernel.stdout) == (0, package.stdout), kernel.stderr


# --- what is refused --------------------------------------------------------------------------------------------------

A = "def area():\n    return 1\n\n\nSCALE = 2\n"
REFUSED: dict[str, tuple[dict[str, str], str, str]] = {
    # name: (files beside a.py, place of the fault, words of the message)
    "import module": ({"entry.py": "import bad.a\n"}, "bad/entry.py:1", "from bad.x import name"),
    "import package": ({"entry.py": "\nimport os, bad\n"}, "bad/entry.py:2", "from bad.x import name"),
    "import module as": ({"entry.py": "import bad.a as a\n"}, "bad/entry.py:1", "from bad.x import name"),
    "alias": ({"entry.py": "from bad.a import area as surface\n"}, "bad/entry.py:1", "alias"),
    "star": ({"entry.py": "from bad.a import *\n"}, "bad/entry.py:1", "star import from bad.a"),
    "relative": ({"entry.py": "from .a import area\n"}, "bad/entry.py:1", "relative import"),
    "relative module": ({"entry.py": "from . import a\n"}, "bad/entry.py:1", "relative import"),
    "submodule": ({"entry.py": "from bad import a\n"}, "bad/entry.py:1", "or it is a package"),
    "subpackage": (
        {"sub/b.py": "B = 1\n", "entry.py": "from bad.sub import b\n"},
        "bad/entry.py:1",
        "no module bad.sub, or",
    ),
    "in a function too": ({"entry.py": "def f():\n    import bad.a\n"}, "bad/entry.py:2", "from bad.x import name"),
    "missing module": ({"entry.py": "from bad.b import area\n"}, "bad/entry.py:1", "no module bad.b"),
    "missing name": ({"entry.py": "from bad.a import volume\n"}, "bad/entry.py:1", "no top-level name `volume`"),
    "name of a nested function": (
        {"b.py": "def f():\n    inner = 1\n", "entry.py": "from bad.b import inner\n"},
        "bad/entry.py:1",
        "no top-level name `inner`",
    ),
    "re-exported name": (
        {"b.py": "from bad.a import area\n", "entry.py": "from bad.b import area\n"},
        "bad/entry.py:1",
        "import it from the module that defines it",
    ),
    "re-exported outside name": (
        {"b.py": "import json\n", "entry.py": "from bad.b import json\n"},
        "bad/entry.py:1",
        "no top-level name `json`",
    ),
    "same function": ({"entry.py": "from bad.a import SCALE\ndef area(): ...\n"}, "bad/entry.py:2", "`area` is also"),
    "same class": ({"entry.py": "from bad.a import SCALE\nclass area: ...\n"}, "bad/entry.py:2", "`area` is also"),
    "same constant": ({"entry.py": "from bad.a import area\nSCALE = 3\n"}, "bad/entry.py:2", "bad/a.py:5"),
    "same annotated": ({"entry.py": "from bad.a import area\nSCALE: int = 3\n"}, "bad/entry.py:2", "`SCALE`"),
    "same in a tuple": ({"entry.py": "from bad.a import area\nx, [*SCALE] = 3, 4\n"}, "bad/entry.py:2", "`SCALE`"),
    "same in a try": (
        {"entry.py": "from bad.a import area\ntry:\n    import json\nexcept ImportError:\n    SCALE = 1\n"},
        "bad/entry.py:5",
        "`SCALE`",
    ),
    "outside import hides a name": (
        {"entry.py": "from bad.a import SCALE\nfrom numpy import area\n"},
        "bad/entry.py:2",
        "`area` is also bound in bad/a.py:1",
    ),
    "name hides an outside import": (
        {"b.py": "import json\nB = 1\n", "entry.py": "from bad.b import B\njson = 1\n"},
        "bad/entry.py:2",
        "`json` is also bound in bad/b.py:1",
    ),
    "two imports under one name": (
        {"b.py": "import numpy as np\nB = 1\n", "entry.py": "from bad.b import B\nfrom x import np\n"},
        "bad/entry.py:2",
        "write both imports alike",
    ),
    "two tries of one package": (
        {
            "b.py": "try:\n    import numba\nexcept ImportError:\n    numba = None\nB = 1\n",
            "entry.py": "from bad.b import B\nimport numba\n",
        },
        "bad/entry.py:2",
        "`numba` is also bound",
    ),
    "hidden builtin": ({"entry.py": "def open(path): ...\n"}, "bad/entry.py:1", "`open` hides the builtin"),
    "hidden builtin by import": ({"entry.py": "from math import pow\n"}, "bad/entry.py:1", "`pow` hides the builtin"),
    "circle": (
        {"b.py": "from bad.entry import E\nB = 1\n", "entry.py": "from bad.b import B\nE = 1\n"},
        "bad/b.py:1",
        "circular import bad.entry -> bad.b -> bad.entry",
    ),
    "in a function": (
        {"entry.py": "def f():\n    from bad.a import area\n"},
        "bad/entry.py:2",
        "move it to the top",
    ),
    "in a class body": ({"entry.py": "class C:\n    from bad.a import area\n"}, "bad/entry.py:2", "move it to the top"),
    "in a try that catches it": (
        {"entry.py": "try:\n    from bad.a import area\nexcept (OSError, ImportError):\n    pass\n"},
        "bad/entry.py:2",
        "move it to the top",
    ),
    "main guard elsewhere": (
        {"b.py": "B = 1\nif __name__ == '__main__':\n    print()\n", "entry.py": "from bad.b import B\n"},
        "bad/b.py:2",
        "or to the entry",
    ),
    "a change of an object at import": (
        {"b.py": "import sys\n\nsys.area = B = 1\n", "entry.py": "from bad.b import B\n"},
        "bad/b.py:3",
        "more than bind its names",
    ),
    "a list that grows": (
        {"b.py": "B = []\nB += [1]\n", "entry.py": "from bad.b import B\n"},
        "bad/b.py:2",
        "more than",
    ),
    "an unknown call": (
        {"b.py": "B = 1\nC: int = B.bit_length()\n", "entry.py": "from bad.b import B\n"},
        "bad/b.py:2",
        "more than",
    ),
    "an unknown default": (
        {"b.py": "def b(*, n=len('x')):\n    return n\n", "entry.py": "from bad.b import b\n"},
        "bad/b.py:1",
        "move it into a function",
    ),
    "a registry": (
        {"entry.py": "def register(f):\n    return f\n\n\n@register\ndef hidden():\n    return 1\n"},
        "bad/entry.py:6",
        "more than",
    ),
    "a registry of methods": (
        {"entry.py": "class A:\n    @A.register\n    def hidden(self):\n        return 1\n"},
        "bad/entry.py:1",
        "more than",
    ),
    "a name by its version": (
        {"b.py": "import sys\n\nif sys.version_info < (3, 11):\n    B = 1\n", "entry.py": "from bad.b import B\n"},
        "bad/b.py:3",
        "more than",
    ),
    "__name__": ({"entry.py": "NAME = __name__\n"}, "bad/entry.py:1", "`__name__` differs"),
    "__file__ in a function": ({"entry.py": "def f():\n    return __file__\n"}, "bad/entry.py:2", "`__file__` differs"),
    "__doc__": ({"entry.py": '"""Doc."""\nprint(__doc__)\n'}, "bad/entry.py:2", "`__doc__` differs"),
    "__all__": ({"entry.py": "__all__ = []\n"}, "bad/entry.py:1", "`__all__` differs"),
    "globals": ({"entry.py": "globals()['x'] = 1\n"}, "bad/entry.py:1", "globals()"),
    "outside star": ({"entry.py": "from numpy import *\n"}, "bad/entry.py:1", "star import from numpy"),
    "processes": ({"entry.py": "import multiprocessing as mp\n"}, "bad/entry.py:1", "use threads"),
    "torch's processes": (
        {"entry.py": "def f():\n    from torch import multiprocessing\n"},
        "bad/entry.py:2",
        "use threads",
    ),
    "process pool": (
        {"entry.py": "from concurrent.futures import ProcessPoolExecutor\n"},
        "bad/entry.py:1",
        "use threads",
    ),
    "process pool by its module": (
        {"entry.py": "import concurrent.futures as cf\ndef f():\n    cf.ProcessPoolExecutor()\n"},
        "bad/entry.py:3",
        "use threads",
    ),
    "import by string": (
        {"entry.py": "import importlib\ndef f(x):\n    return importlib.import_module(x)\n"},
        "bad/entry.py:3",
        "cannot follow",
    ),
    "hidden cache": (
        {"entry.py": "from numba import njit\nf = njit(**{})\n"},
        "bad/entry.py:2",
        "write its options out",
    ),
    "unknown cache": ({"entry.py": "from numba import njit\nf = njit(cache=C)\n"}, "bad/entry.py:2", "as the last"),
    "cache before others": (
        {"entry.py": "from numba import njit\nf = njit(None, cache=True, nogil=True)\n"},
        "bad/entry.py:2",
        "`cache=True` as the last",
    ),
    "cache on another line": (
        {"entry.py": "from numba import njit\nf = njit(\n    nogil=True,\n    cache=True,\n)\n"},
        "bad/entry.py:2",
        "on one line",
    ),
    "two statements on a line": ({"entry.py": "A = 1; B = 2\n"}, "bad/entry.py:1", "run `ruff format`"),
    "a body on the line of its head": (
        {"entry.py": "def f():\n    if A: return 1\n"},
        "bad/entry.py:2",
        "run `ruff format`",
    ),
    "a docstring used": ({"entry.py": "def f():\n    return f.__doc__\n"}, "bad/entry.py:2", "keeps the first line"),
    "a name made at run time": (
        {"entry.py": "def f(x):\n    return getattr(x, f'get_{x}')()\n"},
        "bad/entry.py:2",
        "made at run time",
    ),
    "eval": ({"entry.py": "def f(x):\n    return eval(x)\n"}, "bad/entry.py:2", "name what is meant"),
    "a metaclass": ({"entry.py": "class A(metaclass=type):\n    pass\n"}, "bad/entry.py:1", "register themselves"),
    "a class that hears of its heirs": (
        {"entry.py": "class A:\n    def __init_subclass__(cls):\n        pass\n"},
        "bad/entry.py:2",
        "list them in one place",
    ),
    "rebound by a function": (
        {"entry.py": "count = 0\ndef up():\n    global count\n    count += 1\n"},
        "bad/entry.py:3",
        "hold it in an object",
    ),
    "syntax": ({"entry.py": "def f(:\n"}, "bad/entry.py:1", "not Python"),
    "syntax of a needed module": (
        {"b.py": "\nx = = 1\n", "entry.py": "from bad.b import x\n"},
        "bad/b.py:2",
        "not Python",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unlawful_packages_are_refused_in_words(case: str, tmp_path: Path) -> None:
    files, place, words = REFUSED[case]
    with pytest.raises(BundleError) as caught:
        bundle("bad.entry", write_package(tmp_path, {"a.py": A, **files}), "bad")
    matching = [fault for fault in caught.value.faults if fault.file == place and words in str(fault)]
    assert matching, str(caught.value)
    assert all(fault.rule and fault.remedy for fault in caught.value.faults)


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
@pytest.mark.parametrize("line", ["import {}", "from {}.sub import x", "def f():\n    import {}.sub as s"])
def test_forbidden_packages_are_refused_wherever_they_stand(package: str, line: str, tmp_path: Path) -> None:
    root = write_package(tmp_path, {"entry.py": line.format(package)})
    with pytest.raises(BundleError, match=f"{package} may not be imported in a kernel"):
        bundle("bad.entry", root, "bad")


def test_a_similar_name_is_not_forbidden(tmp_path: Path) -> None:
    root = write_package(tmp_path, {"entry.py": "import sklearn_extra\n\nprint(sklearn_extra)\n"})
    assert "import sklearn_extra" in bundle("bad.entry", root, "bad")


def test_all_violations_come_at_once_in_the_order_of_their_places(tmp_path: Path) -> None:
    files = {
        "a.py": A,
        "b.py": "import sklearn\nfrom bad.a import area as a\nSCALE = 1\nNAME = __name__\n",
        "entry.py": (
            "import bad.a\nfrom bad.b import NAME\nfrom bad.a import volume\ndef f():\n    from bad.a import area\n"
        ),
    }
    with pytest.raises(BundleError) as caught:
        bundle("bad.entry", write_package(tmp_path, files), "bad")
    places = [fault.file for fault in caught.value.faults]
    expected = ["bad/b.py:1", "bad/b.py:2", "bad/b.py:3", "bad/b.py:4"]
    assert places == [*expected, "bad/entry.py:1", "bad/entry.py:3", "bad/entry.py:5"]
    assert len(str(caught.value).splitlines()) == 7


def test_the_error_is_the_input_errors_kin() -> None:
    assert issubclass(BundleError, InputError)
    assert issubclass(BundleError, ValueError)
    fault = Fault("m", "m.py:1", "rule", "remedy")
    assert str(BundleError([fault])) == str(fault)


@pytest.mark.parametrize("entry", ["bad.nothing", "bad", "other.entry", "bad.sub", ""])
def test_an_entry_that_is_no_module_is_refused(entry: str, tmp_path: Path) -> None:
    root = write_package(tmp_path, {"a.py": A, "sub/b.py": "B = 1\n"})
    with pytest.raises(BundleError, match="no such entry module"):
        bundle(entry, root, "bad")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    root = write_package(tmp_path, {"entry.py": ""})
    (root / "entry.py").write_bytes(b"A = '\xff'\n")
    with pytest.raises(BundleError, match="not UTF-8"):
        bundle("bad.entry", root, "bad")


def test_a_kernel_over_the_limit_is_refused(tmp_path: Path) -> None:
    root = write_package(tmp_path, {"entry.py": f"print('{'a' * 1_000_000}')\n"})
    with pytest.raises(BundleError, match=r"bytes, more than the 1000000 that Kaggle takes"):
        bundle("bad.entry", root, "bad")


def test_a_path_of_this_machine_is_refused(tmp_path: Path) -> None:
    root = write_package(tmp_path, {"entry.py": f"print({str(tmp_path.resolve() / 'bad')!r})\n"})
    with pytest.raises(BundleError, match="a path of this machine"):
        bundle("bad.entry", root, "bad")
