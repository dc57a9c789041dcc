"""The kernel as a notebook: its cells, run in order with nothing of this project, give the bytes of the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from histofold.kaggle.bundle.kernels import KERNELS, write_kernel
from histofold.kaggle.metadata.kernel import check_kernel_metadata
from histofold.kaggle.metadata.report import read_metadata
from histofold.kaggle.wheel import build_wheel
from histofold.kernels.hubmap_2022 import run_hubmap_2022
from small_kaggle import make_kaggle

pytestmark = pytest.mark.slow
RUNNER = Path(__file__).with_name("run_alone.py")
RUN_CELLS = """
from __future__ import annotations
import json, sys

space = globals()  # as in a notebook, the names of __main__
for cell in json.load(open(sys.argv[2], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        # IPython keeps what a cell takes from __future__ for the cells after it.
        exec(compile("".join(cell["source"]), "cell", "exec", annotations.compiler_flag), space)
"""


@pytest.mark.parametrize("name", KERNELS)
def test_its_cells_explain_and_configure(name, tmp_path):
    path = write_kernel(name, tmp_path, True, "someone/weights-of-mine")
    assert path.stat().st_size < 1_000_000
    faults, notices = check_kernel_metadata(read_metadata(path.parent / "kernel-metadata.json"), path.parent)
    assert not faults
    assert all("your-kaggle-name" in notice for notice in notices)
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text())["cells"]]
    texts = [text for kind, text in cells if kind == "markdown"]
    codes = [text for kind, text in cells if kind == "code"]
    answer = "answer.json" if name == "vrdl_nuclei" else "submission.csv"
    for word in (name, "someone/weights-of-mine", answer, "Inputs", "manifest.json"):
        assert word in texts[0]
    assert texts[1].startswith("## histofold.kernels.configuration\n\nConfiguration: where the kernel finds")
    assert [line.split(" = ")[0] for line in codes[1].splitlines()] == [
        *("KERNEL_INPUTS", "KERNEL_WORKING", "KERNEL_LIMIT_S", "KERNEL_LOG_LEVEL")
    ]
    assert texts[-1] == "## Run"
    assert codes[-2].startswith("kernel_summary = start_kernel(")
    assert codes[-1] == "show_summary(kernel_summary)"


def test_the_cells_give_the_bytes_of_the_package(small_package, tmp_path):
    """And so those of the script, which gives them too."""
    (tmp_path / "cells.py").write_text(RUN_CELLS)
    ours, kaggle = (make_kaggle(tmp_path / name, small_package, ["10", "007"]) for name in ("ours", "kaggle"))
    run_hubmap_2022(ours / "input", ours / "working", 3600)
    notebook = write_kernel("hubmap_2022", kaggle / "kernels", True, "your-kaggle-name/histofold-weights")
    build_wheel("segmentation-models-pytorch", kaggle / "input" / "weights")
    done = subprocess.run(
        [sys.executable, "-I", str(RUNNER), str(tmp_path / "cells.py"), str(notebook)],
        env={**os.environ, "HISTOFOLD_KAGGLE_ROOT": str(kaggle), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "summary: 2 images" in done.stderr
    wanted, got = ((folder / "working" / "submission.csv").read_bytes() for folder in (ours, kaggle))
    assert got == wanted
    assert b"1 1\n" not in got
