"""The bundle of a package runs as the package does, reads as its sources do, and is refused where it could not."""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

import pytest

import histofold
from histofold.core.faults import Fault, InputError
from histofold.kaggle.bundle.bundler import FORBIDDEN, BundleError, bundle, closure, source_digest
from small_bundles import NASTY, run_bundle, run_package, write_package

FUTURE = "from __future__ import annotations\n"


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


class PeerSurgery(ast.NodeTransformer):
    """The same removals done on the tree, which is what the surgery on the text must agree with."""

    def __init__(self, package: str) -> None:
        self.package = package

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        module = node.module or ""
        return None if module == "__future__" or module.split(".")[0] == self.package else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        text = ast.unparse(node.func)
        if text.endswith("jit") or (text.endswith("partial") and "njit" in ast.unparse(node.args[0])):
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "cache"]
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        before = {name for name in ("body", "orelse", "finalbody") if getattr(node, name, None)}
        super().generic_visit(node)
        for name in before:
            if not getattr(node, name):
                setattr(node, name, [ast.Pass()])
        return node

    def top(self, tree: ast.Module) -> list[str]:
        plain = [s for s in tree.body if not isinstance(s, ast.Import | ast.ImportFrom)]
        if ast.get_docstring(tree, clean=False) is not None:
            plain = plain[1:]
        plain = [s for s in plain if not ("__all__" in ast.unparse(s) and isinstance(s, ast.Assign | ast.AugAssign))]
        return [ast.dump(self.visit(statement)) for statement in plain]


@pytest.mark.parametrize(
    ("entry", "root", "package"),
    [("nasty.entry", NASTY, "nasty"), ("histofold.kernels.hubmap_2022", Path(histofold.__file__).parent, "histofold")],
)
def test_every_module_keeps_its_syntax_tree(entry: str, root: Path, package: str) -> None:
    # A banner in a string has no blank lines above it, unlike those of the bundler.
    parts = re.split(r"\n\n\n# =+ ([\w.]+) =+\n", bundle(entry, root, package))
    modules = closure(entry, root, package)
    assert parts[1::2] == [module.name for module in modules]
    for module, part in zip(modules, parts[2::2], strict=True):
        expected = PeerSurgery(package).top(ast.parse(module.source))
        assert [ast.dump(statement) for statement in ast.parse(part).body] == expected, module.name


def test_every_comment_line_and_string_survives_verbatim(nasty_bundle: str) -> None:
    for kept in (
        "FIRST, (SECOND, *REST) = 1, (2, 3, 4)  # a comment that stays",
        "# a comment that belongs to nothing",
        "    import math as maths  # an outside import stays here",
        '    """A docstring stays; it is no import os."""',
        'if __name__ == "__main__":\n    print(json.dumps(parallel([1, 2])), __name__)',
        'return dict(cache=True, text="njit(cache=True)")',
        "            # only a comment and an import\n            pass",
    ):
        assert kept in nasty_bundle


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
    files = {"entry.py": f"from zzz import {names}\nimport numpy as np\nimport json, numpy.linalg\n"}
    text = bundle("bad.entry", write_package(tmp_path, files), "bad")
    assert "import json\n\nimport numpy as np\nimport numpy.linalg\nfrom zzz import (\n    name_number_0,\n" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_header_tells_what_the_file_is(nasty_bundle: str) -> None:
    modules = closure("nasty.entry", NASTY, "nasty")
    head = nasty_bundle.split(FUTURE)[0]
    assert "GENERATED by `histofold kernel entry`" in head
    assert source_digest(modules) in head
    assert re.findall(r"^#   (nasty\.\w+)$", head, re.MULTILINE) == [module.name for module in modules]


def test_modules_come_after_what_they_need_and_the_entry_last() -> None:
    names = [module.name for module in closure("nasty.entry", NASTY, "nasty")]
    assert sorted(names) == sorted(f"nasty.{path.stem}" for path in NASTY.glob("*.py") if path.stem != "__init__")
    assert names[-1] == "nasty.entry"
    for module in closure("nasty.entry", NASTY, "nasty"):
        assert all(names.index(need) < names.index(module.name) for need in module.needs)


def test_modules_named_first_go_before_all_that_they_do_not_need(tmp_path: Path) -> None:
    files = {"a.py": "A = 1\n", "b.py": "B = 2\n", "c.py": "from bad.b import B\nC = B\n"}
    files["entry.py"] = "from bad.a import A\nfrom bad.c import C\nprint(A, C)\n"
    root = write_package(tmp_path, files)
    for first, expected in (((), "abc"), (("bad.b",), "bac"), (("bad.b", "bad.c"), "bca"), (("bad.c",), "abc")):
        names = [module.name for module in closure("bad.entry", root, "bad", first=first)]
        assert names == [*(f"bad.{name}" for name in expected), "bad.entry"]
    text = bundle("bad.entry", root, "bad", first=("bad.b", "bad.c"))
    assert run_bundle(text, tmp_path / "elsewhere").stdout == "1 2\n"


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
        "a.py": "import numpy\nimport json as j\nA = j.dumps(1)\n",
        "entry.py": "import json\nfrom bad.a import A\nprint(json.dumps(A))\n",
    },
    "the same import moved here and kept in a block there": {
        "a.py": "try:\n    import json\nfinally:\n    A = 1\n",
        "entry.py": "import json\nfrom bad.a import A\nprint(json.dumps(A))\n",
    },
    "a function under its own name in another scope": {
        "a.py": "def area():\n    return 1\n",
        "entry.py": (
            "from bad.a import area\n\nclass B:\n    area = 2\n\n    def get(self):\n        from bad.a import area\n"
            "        return area() + self.area\n\ndef other(area=3):\n    return area\n\n"
            "print(area(), other(), B().get())\n"
        ),
    },
    "no newline at the end, tabs, form feed": {
        "a.py": "\f\nimport os; A = 1",
        "entry.py": "def f():\n\tfrom bad.a import A\n\treturn A\nif '__main__' == __name__: print(f())",
    },
    "an import continued into an empty line": {
        "a.py": "import os \\\n\nA = os.sep\n",
        "entry.py": "from bad.a import A; print(A)",
    },
    "only imports": {
        "a.py": '"""Doc."""\nimport os\n',
        "b.py": "B = 1\n",
        "entry.py": "from bad.b import B\nprint(B)\n",
    },
    "a docstring of control characters": {
        "entry.py": '"""Bell \\a, return \\r, surrogate \\ud800.\\n\\nimport os\\x0cimport sys"""\nprint(1)\n',
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
    "submodule": ({"entry.py": "from bad import a\n"}, "bad/entry.py:1", "bad is a package"),
    "subpackage": (
        {"sub/b.py": "B = 1\n", "entry.py": "from bad.sub import b\n"},
        "bad/entry.py:1",
        "bad.sub is a package",
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
    "missing name for the checker": (
        {"entry.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bad.a import nothing\n"},
        "bad/entry.py:3",
        "no top-level name `nothing`",
    ),
    "same function": ({"entry.py": "from bad.a import SCALE\ndef area(): ...\n"}, "bad/entry.py:2", "`area` is also"),
    "same class": ({"entry.py": "from bad.a import SCALE\nclass area: ...\n"}, "bad/entry.py:2", "`area` is also"),
    "same constant": ({"entry.py": "from bad.a import area\nSCALE = 3\n"}, "bad/entry.py:2", "bad/a.py:5"),
    "same annotated": ({"entry.py": "from bad.a import area\nSCALE: int = 3\n"}, "bad/entry.py:2", "`SCALE`"),
    "same in a tuple": ({"entry.py": "from bad.a import area\nx, [*SCALE] = 3, 4\n"}, "bad/entry.py:2", "`SCALE`"),
    "same in an if": ({"entry.py": "from bad.a import area\nif area:\n    SCALE = 3\n"}, "bad/entry.py:3", "`SCALE`"),
    "same in a try": (
        {"entry.py": "from bad.a import area\ntry:\n    pass\nexcept OSError as SCALE:\n    pass\n"},
        "bad/entry.py:4",
        "`SCALE`",
    ),
    "same in a with": ({"entry.py": "from bad.a import area\nwith area() as SCALE: pass\n"}, "bad/entry.py:2", "SCALE"),
    "same in a for": ({"entry.py": "from bad.a import area\nfor SCALE in (): pass\n"}, "bad/entry.py:2", "SCALE"),
    "same walrus": ({"entry.py": "from bad.a import area\n[(SCALE := x) for x in ()]\n"}, "bad/entry.py:2", "SCALE"),
    "same match": (
        {"entry.py": "from bad.a import area\nmatch area:\n    case [SCALE]: pass\n"},
        "bad/entry.py:3",
        "SCALE",
    ),
    "same through global": (
        {"entry.py": "from bad.a import area\ndef f():\n    global SCALE\n    SCALE = 3\n"},
        "bad/entry.py:3",
        "SCALE",
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
    "two imports under one name in one module": (
        {"entry.py": "import numpy as np\nfrom x import np\n"},
        "bad/entry.py:1",
        "bound otherwise in the same module",
    ),
    "an import rebound in its module": (
        {"entry.py": "import json\njson = None\n"},
        "bad/entry.py:2",
        "put both into one `try:`",
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
        "bad/entry.py:1",
        "circular import bad.b -> bad.entry -> bad.b",
    ),
    "circle through a function": (
        {"b.py": "def f():\n    from bad.entry import E\n", "entry.py": "from bad.b import f\nE = 1\n"},
        "bad/entry.py:1",
        "move what both need into a third module",
    ),
    "circle of one": ({"entry.py": "E = 1\ndef f():\n    from bad.entry import E\n"}, "bad/entry.py:3", "circular"),
    "other future": (
        {"entry.py": "from __future__ import annotations, division\n"},
        "bad/entry.py:1",
        "only annotations may come from __future__",
    ),
    "shadowed by a parameter": (
        {"entry.py": "def f(area):\n    from bad.a import area\n"},
        "bad/entry.py:2",
        "`area` is imported in a function and also bound in f()",
    ),
    "shadowed by a star parameter": (
        {"entry.py": "def f(*, x, **area):\n    from bad.a import area\n"},
        "bad/entry.py:2",
        "rename the parameter",
    ),
    "shadowed by a local": (
        {"entry.py": "def f():\n    from bad.a import area\n    for x, area in []: pass\n"},
        "bad/entry.py:2",
        "bound in f()",
    ),
    "shadowed by a nested function": (
        {"entry.py": "def f():\n    from bad.a import area\n    def area(): ...\n"},
        "bad/entry.py:2",
        "bound in f()",
    ),
    "shadowed by an outside import": (
        {"entry.py": "def f():\n    from bad.a import area\n    import area\n"},
        "bad/entry.py:2",
        "bound in f()",
    ),
    "shadowed by an outer function": (
        {"entry.py": "def outer():\n    area = 1\n    def f():\n        from bad.a import area\n"},
        "bad/entry.py:4",
        "bound in outer()",
    ),
    "in a class body": ({"entry.py": "class C:\n    from bad.a import area\n"}, "bad/entry.py:2", "class body"),
    "in a try that catches it": (
        {"entry.py": "try:\n    from bad.a import area\nexcept (OSError, ImportError):\n    pass\n"},
        "bad/entry.py:2",
        "in the kernel it cannot fail",
    ),
    "late import": (
        {"entry.py": "import os\nos.environ['A'] = '1'\nimport json\n"},
        "bad/entry.py:3",
        "put the imports first",
    ),
    "late internal import": (
        {"entry.py": "print()\nfrom bad.a import area\n"},
        "bad/entry.py:2",
        "put the imports first",
    ),
    "__name__": ({"entry.py": "NAME = __name__\n"}, "bad/entry.py:1", "`__name__` differs"),
    "__file__ in a function": ({"entry.py": "def f():\n    return __file__\n"}, "bad/entry.py:2", "`__file__` differs"),
    "__doc__": ({"entry.py": '"""Doc."""\nprint(__doc__)\n'}, "bad/entry.py:2", "`__doc__` differs"),
    "__all__ used": ({"entry.py": "__all__ = []\n__all__.append('x')\n"}, "bad/entry.py:2", "only assign it"),
    "globals": ({"entry.py": "globals()['x'] = 1\n"}, "bad/entry.py:1", "globals()"),
    "module __getattr__": ({"entry.py": "def __getattr__(name): ...\n"}, "bad/entry.py:1", "__getattr__"),
    "main guard elsewhere": (
        {"b.py": "B = 1\nif __name__ == '__main__':\n    print()\n", "entry.py": "from bad.b import B\n"},
        "bad/b.py:2",
        "move it to the entry",
    ),
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
        "write the options out",
    ),
    "unknown cache": ({"entry.py": "from numba import njit\nf = njit(cache=C)\n"}, "bad/entry.py:2", "not a literal"),
    "rebound by a function": (
        {
            "b.py": "count = 0\ndef up():\n    global count\n    count += 1\n",
            "entry.py": "from bad.b import count\n",
        },
        "bad/entry.py:1",
        "rebound by a function of bad.b",
    ),
    "banner": ({"entry.py": "A = 1\n# === bad.fake ===\n"}, "bad/entry.py:2", "banner"),
    "syntax": ({"entry.py": "def f(:\n"}, "bad/entry.py:1", "not Python"),
    "syntax of a needed module": (
        {"b.py": "\nx = = 1\n", "entry.py": "from bad.b import x\n"},
        "bad/b.py:2",
        "not Python",
    ),
    "an __init__ that works": (
        {"__init__.py": "import os\nos.environ['A'] = '1'\n", "entry.py": "A = 1\n"},
        "bad/__init__.py:2",
        "the kernel leaves out",
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
    assert bundle("bad.entry", root, "bad", forbidden=())


def test_a_similar_name_is_not_forbidden(tmp_path: Path) -> None:
    root = write_package(tmp_path, {"entry.py": "import tifffile\nimport sklearn_extra\n"})
    assert "import sklearn_extra" in bundle("bad.entry", root, "bad")


def test_all_violations_come_at_once_in_the_order_of_their_places(tmp_path: Path) -> None:
    files = {
        "a.py": A,
        "b.py": "import sklearn\nfrom bad.a import area as a\nSCALE = 1\nNAME = __name__\n",
        "entry.py": (
            "import bad.a\nfrom bad.b import NAME\nfrom bad.a import volume\ndef f(area):\n    from bad.a import area\n"
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
    root = write_package(tmp_path, {"entry.py": f"A = '{'a' * 1_000_000}'\n"})
    with pytest.raises(BundleError, match=r"bytes, more than the 1000000 that Kaggle takes"):
        bundle("bad.entry", root, "bad")
    assert len(bundle("bad.entry", root, "bad", limit=2_000_000)) > 1_000_000


def test_a_path_of_this_machine_is_refused(tmp_path: Path) -> None:
    root = write_package(tmp_path, {"entry.py": f"A = {str(tmp_path.resolve() / 'bad')!r}\n"})
    with pytest.raises(BundleError, match="a path of this machine"):
        bundle("bad.entry", root, "bad")
