"""Inference kernel of HuBMAP + HPA - Hacking the Human Body (2022)."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from histoseg.competitions.hubmap_2022 import Hubmap2022
from histoseg.core.log import logger
from histoseg.kernels.inputs import find_competition_folder, find_packages, use_wheels
from histoseg.kernels.runner import RunSummary, run_submission
from histoseg.predict.journal import csv_text
from histoseg.schema.atomic import write_atomically

# The host allows 9 hours. Everything else (scale, tiles, views, thresholds) stands in the manifest beside the weights.
HUBMAP_2022_LIMIT_S = 9 * 3600.0


def run_hubmap_2022(inputs: Path, working: Path, limit_s: float) -> RunSummary:
    """Write WORKING/submission.csv for the hidden test set found below INPUTS."""
    started = time.monotonic()
    competition = Hubmap2022()
    root = find_competition_folder(inputs, competition.columns, "test_images", competition.slug)
    samples = competition.samples(root, "test")
    out = working / "submission.csv"
    # A legal file stands before the weights are even looked for.
    write_atomically(out, csv_text(competition.columns, [(s.id, competition.fallback_row) for s in samples]))
    packages = find_packages(inputs, competition.name)
    for folder, _ in packages:
        use_wheels(folder)
    logger.info("%d images in %s, %d packages of weights", len(samples), root, len(packages))
    return run_submission(competition, samples, packages, out, limit_s - (time.monotonic() - started))


def main() -> None:
    """Run on Kaggle; HISTOSEG_KAGGLE_ROOT stands in for /kaggle in a rehearsal elsewhere."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    inputs, working = Path("/kaggle/input"), Path("/kaggle/working")
    if "HISTOSEG_KAGGLE_ROOT" in os.environ:
        root = Path(os.environ["HISTOSEG_KAGGLE_ROOT"])
        inputs, working = root / "input", root / "working"
    limit_s = float(os.environ.get("HISTOSEG_LIMIT_S", HUBMAP_2022_LIMIT_S))
    summary = run_hubmap_2022(inputs, working, limit_s)
    logger.info(
        "%d rows predicted, %d taken over, %d fallback rows, %.0f s",
        summary.done,
        summary.taken_over,
        len(summary.failed),
        summary.seconds,
    )
    for sample_id, reason in summary.failed.items():
        logger.warning("fallback row: %s: %s", sample_id, reason)


if __name__ == "__main__":
    main()
