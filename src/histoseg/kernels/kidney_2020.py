"""Inference kernel of HuBMAP - Hacking the Kidney (2020)."""

from __future__ import annotations

from pathlib import Path

from histoseg.competitions.kidney_2020 import Kidney2020
from histoseg.kernels.entry import run_kernel, start_kernel
from histoseg.kernels.runner import RunSummary

# The host allows 9 hours. Everything else (scale, tiles, views, thresholds) stands in the manifest beside the weights.
KIDNEY_2020_LIMIT_S = 9 * 3600.0


def run_kidney_2020(inputs: Path, working: Path, limit_s: float) -> RunSummary:
    """Write WORKING/submission.csv for the hidden test set found below INPUTS; see `run_kernel`."""
    return run_kernel(Kidney2020(), "test", inputs, working, limit_s)


if __name__ == "__main__":
    start_kernel(run_kidney_2020, KIDNEY_2020_LIMIT_S)
