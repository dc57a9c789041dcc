"""The runner of `histoseg simulate`, where the tests of kernels look for it: `python -I run_alone.py kernel.py`."""

import runpy
from pathlib import Path

RUNNER = Path(__file__).resolve().parents[2] / "src" / "histoseg" / "kaggle" / "simulate_alone.py"

if __name__ == "__main__":
    runpy.run_path(str(RUNNER), run_name="__main__")
