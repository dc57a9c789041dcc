"""The runner of `histofold simulate`, where the tests of kernels look for it: `python -I run_alone.py kernel.py`."""

import runpy
from pathlib import Path

RUNNER = Path(__file__).resolve().parents[2] / "src" / "histofold" / "kaggle" / "simulate" / "alone.py"

if __name__ == "__main__":
    runpy.run_path(str(RUNNER), run_name="__main__")
