"""What every inference kernel does: find its inputs, leave a legal file at once, predict; and its command line."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from histoseg.competitions.base import Competition
from histoseg.core.log import logger
from histoseg.kernels.inputs import find_competition_folder, find_packages, use_wheels
from histoseg.kernels.runner import RunSummary, run_submission
from histoseg.predict.journal import csv_text
from histoseg.schema.atomic import write_atomically


def run_kernel(competition: Competition, image_folder: str, inputs: Path, working: Path, limit_s: float) -> RunSummary:
    """Write WORKING/submission.csv for the hidden test set found below INPUTS.

    Args:
        competition: The adapter.
        image_folder: Name of the folder of test images beside sample_submission.csv.
        inputs: What is searched for the competition and for weights.
        working: Where the submission goes.
        limit_s: Seconds that the whole may take.

    Raises:
        InputError: If the competition or weights are not found, or a file of the weights is missing or changed.
    """
    started = time.monotonic()
    root = find_competition_folder(inputs, competition.columns, image_folder, competition.slug)
    samples = competition.samples(root, "test")
    out = working / "submission.csv"
    # A legal file stands before the weights are even looked for.
    write_atomically(out, csv_text(competition.columns, [(s.id, competition.fallback_row) for s in samples]))
    packages = find_packages(inputs, competition.name)
    for folder, _ in packages:
        use_wheels(folder)
    logger.info("%d images in %s, %d packages of weights", len(samples), root, len(packages))
    return run_submission(competition, samples, packages, out, limit_s - (time.monotonic() - started))


def start_kernel(run: Callable[[Path, Path, float], RunSummary], limit_s: float) -> None:
    """Run on Kaggle; for a rehearsal elsewhere HISTOSEG_KAGGLE_ROOT replaces /kaggle and HISTOSEG_LIMIT_S the limit.

    Args:
        run: The kernel: inputs, working folder and limit in seconds.
        limit_s: Seconds that the host allows.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    inputs, working = Path("/kaggle/input"), Path("/kaggle/working")
    if "HISTOSEG_KAGGLE_ROOT" in os.environ:
        root = Path(os.environ["HISTOSEG_KAGGLE_ROOT"])
        inputs, working = root / "input", root / "working"
    summary = run(inputs, working, float(os.environ.get("HISTOSEG_LIMIT_S", limit_s)))
    logger.info(
        "%d rows predicted, %d taken over, %d fallback rows, %.0f s",
        summary.done,
        summary.taken_over,
        len(summary.failed),
        summary.seconds,
    )
    for sample_id, reason in summary.failed.items():
        logger.warning("fallback row: %s: %s", sample_id, reason)
