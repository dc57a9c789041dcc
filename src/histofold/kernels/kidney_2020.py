"""Inference kernel of HuBMAP - Hacking the Kidney (2020)."""

from __future__ import annotations

from pathlib import Path

from histofold.competitions.kidney_2020 import Kidney2020
from histofold.kernels.entry import run_kernel, show_summary, start_kernel
from histofold.predict.submission.runner import RunSummary


def run_kidney_2020(inputs: Path, working: Path, limit_s: float) -> RunSummary:
    """Write WORKING/submission.csv for the hidden test set found below INPUTS; see `run_kernel`."""
    return run_kernel(Kidney2020(), "test", inputs, working, limit_s)


if __name__ == "__main__":
    kernel_summary = start_kernel(Kidney2020(), run_kidney_2020)
    show_summary(kernel_summary)
