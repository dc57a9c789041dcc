"""Inference kernel of HuBMAP + HPA - Hacking the Human Body (2022)."""

from __future__ import annotations

from pathlib import Path

from histoseg.competitions.hubmap_2022 import Hubmap2022
from histoseg.kernels.entry import run_kernel, start_kernel
from histoseg.kernels.runner import RunSummary

# The host allows 9 hours. Everything else (scale, tiles, views, thresholds) stands in the manifest beside the weights.
HUBMAP_2022_LIMIT_S = 9 * 3600.0


def run_hubmap_2022(inputs: Path, working: Path, limit_s: float) -> RunSummary:
    """Write WORKING/submission.csv for the hidden test set found below INPUTS; see `run_kernel`."""
    return run_kernel(Hubmap2022(), "test_images", inputs, working, limit_s)


if __name__ == "__main__":
    start_kernel(run_hubmap_2022, HUBMAP_2022_LIMIT_S)
