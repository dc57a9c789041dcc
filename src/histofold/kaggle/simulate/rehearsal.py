"""A kernel run alone beside our own prediction: both must give the same bytes."""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def rehearse_kernel(kernel: Path, competition: Path, weights: Path, submission: Path, log: Path) -> None:
    """Run a kernel alone, as Kaggle would, and hold its file against ours.

    Args:
        kernel: kernel.py.
        competition: The competition folder.
        weights: The packaged weights.
        submission: What `histofold predict` wrote of the same.
        log: Where to write what the kernel printed.

    Raises:
        RuntimeError: If the kernel fails, or its submission differs.
    """
    with tempfile.TemporaryDirectory() as folder:
        kaggle = Path(folder)
        (kaggle / "input").mkdir()
        (kaggle / "working").mkdir()
        for name, target in (("competition", competition), ("weights", weights)):
            (kaggle / "input" / name).symlink_to(target.resolve(), target_is_directory=True)
        done = subprocess.run(
            [sys.executable, "-I", str(kernel.resolve())],
            cwd=kaggle,
            env={**os.environ, "HISTOFOLD_KAGGLE_ROOT": str(kaggle)},
            capture_output=True,
            text=True,
            check=False,
        )
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
        if done.returncode:
            raise RuntimeError(f"the kernel failed, see {log}")
        if not filecmp.cmp(kaggle / "working" / "submission.csv", submission, shallow=False):
            raise RuntimeError(f"the kernel's submission differs from histofold predict's, see {log}")
