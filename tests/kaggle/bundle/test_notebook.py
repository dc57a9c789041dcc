"""A notebook of a bundle is well formed, tells what it is, and runs as the file does, however its cells are run."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import pytest

import histofold
from histofold.core.faults import InputError
from histofold.kaggle.bundle import kernels
from histofold.kaggle.bundle.bundler import Bundle, bundle, closure, gather
from histofold.kaggle.bundle.kernels import to_notebook
from small_bundles import NASTY, run_bundle, run_package, run_python, write_package

EXEC_CELLS = """
from __future__ import annotations
import json, sys
space = globals()  # as in a notebook, the names of __main__
for cell in json.load(open(sys.argv.pop(), encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        # IPython keeps what a cell takes from __future__ for the cells after it.
        exec(compile("".join(cell["source"]), "cell", "exec", annotations.compiler_flag), space)
"""


def cells_of(notebook: str, kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(notebook)["cells"] if cell["cell_type"] == kind]


@pytest.fixture(scope="module")
def nasty_bundle() -> Bundle:
    return gather("nasty.entry", NASTY, "nasty")


def test_the_format_is_that_of_a_notebook(nasty_bundle: Bundle) -> None:
    notebook = json.loads(to_notebook(nasty_bundle))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        optional = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert set(cell) == {"id", "cell_type", "metadata", "source"} | optional
        assert all(isinstance(line, str) for line in cell["source"])


def test_joined_and_one_by_one_the_cells_run_as_the_package_does(nasty_bundle: Bundle, tmp_path: Path) -> None:
    notebook = to_notebook(nasty_bundle)
    expected = run_package(NASTY, "nasty.entry", tmp_path).stdout
    joined = run_bundle("\n".join(cells_of(notebook, "code")), tmp_path / "elsewhere")
    assert (joined.returncode, joined.stdout) == (0, expected), joined.stderr
    (tmp_path / "kernel.ipynb").write_text(notebook, encoding="utf-8")
    single = run_python(["-I", "-X", "utf8", "-c", EXEC_CELLS, "kernel.ipynb"], tmp_path)
    assert (single.returncode, single.stdout) == (0, expected), single.stderr


def test_a_heading_stands_before_each_module_and_strings_make_none(nasty_bundle: Bundle) -> None:
    notebook = to_notebook(nasty_bundle, "# Title\n\nWords.\n")
    names = [module.name for module in closure("nasty.entry", NASTY, "nasty")]
    headings = cells_of(notebook, "markdown")
    assert [heading.split("\n")[0] for heading in headings] == ["# Title", *(f"## {name}" for name in names), "## Run"]
    assert headings[0].startswith("# Title\n\nWords.\n\n```text\nInference kernel entry")
    assert "GENERATED" in headings[0]
    assert "Contents" not in headings[0]
    kinds = [cell["cell_type"] for cell in json.loads(notebook)["cells"]]
    assert kinds == [*["markdown", "code"] * (len(names) + 2), "code"], "two statements run as a program"


def test_summaries_become_text_and_comments_stay_in_the_code(tmp_path: Path) -> None:
    files = {
        "a.py": '"""What it is.\n\nMore of it."""\n\n# why\nA = 1  # how\n',
        "b.py": "# a comment that is no docstring\nB = 2\n",
        "entry.py": "from bad.a import A\nfrom bad.b import B\n\nprint(A, B)\n",
    }
    notebook = to_notebook(gather("bad.entry", write_package(tmp_path, files), "bad"))
    assert cells_of(notebook, "markdown")[1:] == ["## bad.a\n\nWhat it is.", "## bad.b", "## bad.entry"]
    assert cells_of(notebook, "code")[1:] == [
        "# why\nA = 1  # how",
        "# a comment that is no docstring\nB = 2",
        "print(A, B)",
    ]


def test_what_the_file_runs_has_cells_of_its_own_and_one_a_statement(tmp_path: Path) -> None:
    guard = 'if __name__ == "__main__":\n    value = f()\n    # shown\n    print("""x\n  y""", value)\n'
    code = f"from bad.a import A\n\n\ndef f():\n    return A\n\n\n{guard}"
    root = write_package(tmp_path, {"a.py": "A = 1\n", "entry.py": code})
    notebook, text = to_notebook(gather("bad.entry", root, "bad")), bundle("bad.entry", root, "bad")
    assert cells_of(notebook, "markdown")[-1] == "## Run"
    assert cells_of(notebook, "code")[-2:] == ["value = f()\n# shown", 'print("""x\n  y""", value)']
    (tmp_path / "kernel.ipynb").write_text(notebook, encoding="utf-8")
    single = run_python(["-I", "-c", EXEC_CELLS, "kernel.ipynb"], tmp_path)
    assert single.stdout == run_bundle(text, tmp_path / "elsewhere").stdout != "", single.stderr


def test_each_cell_may_name_in_annotations_what_is_defined_later(tmp_path: Path) -> None:
    code = (
        "from dataclasses import dataclass\nfrom typing import get_type_hints\n\n\n"
        "@dataclass\nclass Tree:\n    next: Tree | None = None\n    late: list[Later] | None = None\n\n"
        "    def grow(self, *many: int, by: Later, **rest: str) -> Tree:\n        return self\n\n\n"
        "class Later:\n    pass\n\n\nprint(get_type_hints(Tree, globalns={**vars(), 'Tree': Tree, 'Later': Later}))\n"
    )
    root = write_package(tmp_path, {"entry.py": f"from __future__ import annotations\n\n{code}"})
    notebook, text = to_notebook(gather("bad.entry", root, "bad")), bundle("bad.entry", root, "bad")
    (tmp_path / "kernel.ipynb").write_text(notebook, encoding="utf-8")
    single = run_python(["-I", "-X", "utf8", "-c", EXEC_CELLS, "kernel.ipynb"], tmp_path)
    assert single.stdout == run_bundle(text, tmp_path / "elsewhere").stdout != "", single.stderr


def test_cells_are_deterministic_and_ids_follow_the_content(nasty_bundle: Bundle) -> None:
    first = to_notebook(nasty_bundle)
    assert to_notebook(nasty_bundle) == first
    modules = [kept._replace(body=kept.body.replace("float = 2.5", "float = 2.6")) for kept in nasty_bundle.modules]
    changed = json.loads(to_notebook(nasty_bundle._replace(modules=modules)))["cells"]
    moved = [a["id"] == b["id"] for a, b in zip(json.loads(first)["cells"], changed, strict=True)]
    assert moved.count(False) == 1


def test_one_that_is_too_large_is_refused(nasty_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LIMIT_BYTES", 1000)
    with pytest.raises(InputError, match="more than the 1000 that Kaggle takes"):
        to_notebook(nasty_bundle)


def test_a_kernels_cells_define_what_its_file_defines() -> None:
    """Cells run one by one leave the names of the file; nothing of it is lost between the cells."""
    entry, root = "histofold.kernels.hubmap_2022", Path(histofold.__file__).parent
    text = bundle(entry, root)
    joined = "\n".join(cells_of(to_notebook(gather(entry, root)), "code"))

    def names(source: str) -> list[str]:
        return [getattr(statement, "name", "") for statement in ast.parse(source).body]

    assert list(filter(None, names(joined))) == list(filter(None, names(text)))
    assert not re.search(r"cache\s*=\s*True", joined), "numba cannot cache what has no file"
    assert sys.getsizeof(text) < 1_000_000
