"""Inference kernel of HuBMAP + HPA - Hacking the Human Body (2022)."""

from __future__ import annotations

from pathlib import Path

from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.kernels.entry import run_kernel, show_summary, start_kernel
from histofold.predict.submission.runner import RunSummary


def run_hubmap_2022(inputs: Path, working: Path, limit_s: float) -> RunSummary:
    """Write WORKING/submission.csv for the hidden test set found below INPUTS; see `run_kernel`."""
    return run_kernel(Hubmap2022(), "test_images", inputs, working, limit_s)


if __name__ == "__main__":
    kernel_summary = start_kernel(Hubmap2022(), run_hubmap_2022)
    show_summary(kernel_summary)
