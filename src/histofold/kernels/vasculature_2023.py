"""Inference kernel of HuBMAP - Hacking the Human Vasculature (2023)."""

from __future__ import annotations

from pathlib import Path

from histofold.competitions.vasculature_2023 import Vasculature2023
from histofold.kernels.entry import run_kernel, show_summary, start_kernel
from histofold.predict.objects.rows import ObjectRows
from histofold.predict.submission.runner import RunSummary


def run_vasculature_2023(inputs: Path, working: Path, limit_s: float) -> RunSummary:
    """Write WORKING/submission.csv for the hidden test set found below INPUTS; see `run_kernel`."""
    return run_kernel(Vasculature2023(), "test", inputs, working, limit_s, ObjectRows)


if __name__ == "__main__":
    kernel_summary = start_kernel(Vasculature2023(), run_vasculature_2023)
    show_summary(kernel_summary)
