"""Inference kernel of SenNet + HOA - Hacking the Human Vasculature in 3D (2024)."""

from __future__ import annotations

from pathlib import Path

from histofold.competitions.sennet_2024 import Sennet2024
from histofold.kernels.entry import run_kernel, show_summary, start_kernel
from histofold.predict.submission.runner import RunSummary
from histofold.predict.submission.volumes import VolumeRows


def run_sennet_2024(inputs: Path, working: Path, limit_s: float) -> RunSummary:
    """Write WORKING/submission.csv for the hidden test set found below INPUTS; see `run_kernel`."""
    return run_kernel(Sennet2024(), "test", inputs, working, limit_s, VolumeRows)


if __name__ == "__main__":
    kernel_summary = start_kernel(Sennet2024(), run_sennet_2024)
    show_summary(kernel_summary)
