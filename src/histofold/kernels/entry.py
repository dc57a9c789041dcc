"""What every inference kernel does: find its inputs, leave a legal file at once, predict; and its command line."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from histofold.competitions.base import Competition, KernelCompetition, find_image
from histofold.competitions.tables import submission_ids
from histofold.core.faults import InputError
from histofold.core.log import logger
from histofold.kernels.configuration import KERNEL_INPUTS, KERNEL_LIMIT_S, KERNEL_LOG_LEVEL, KERNEL_WORKING
from histofold.kernels.inputs import find_competition_folder, find_packages, use_wheels
from histofold.predict.submission.runner import RunSummary, run_submission
from histofold.predict.submission.summary import summary_lines
from histofold.schema.files import csv_text, write_atomically
from histofold.schema.sample import Sample


def run_kernel(
    competition: KernelCompetition, image_folder: str, inputs: Path, working: Path, limit_s: float
) -> RunSummary:
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
    ids = submission_ids(root / "sample_submission.csv", competition.columns)
    out = working / "submission.csv"
    # A legal file stands before any other table is read and before the weights are even looked for.
    write_atomically(out, csv_text(competition.columns, [(key, competition.fallback_row) for key in ids]))
    samples = _test_samples(competition, root, image_folder, ids)
    packages = find_packages(inputs, competition.name)
    for folder, _ in packages:
        use_wheels(folder)
    logger.info("%d images in %s, %d packages of weights", len(samples), root, len(packages))
    left_s = limit_s - (time.monotonic() - started)
    # A hang that ends the process is no failure of the kernel: the rows that it made are to be scored.
    return run_submission(competition, samples, packages, out, left_s, hang_status=0)


def _test_samples(competition: KernelCompetition, root: Path, image_folder: str, ids: list[str]) -> list[Sample]:
    """The samples of the test split; of tables that break the adapter, the ids and images alone.

    The hidden tables are seen by nobody: one of them at fault may cost organs and pixel sizes, never the submission.
    """
    try:
        samples = competition.test_samples(root)
    except Exception:
        logger.exception("the tables beside sample_submission.csv cannot be used: predicted without them")
        samples = []
    if [sample.id for sample in samples] == ids:
        return samples
    return [Sample(id=key, image_path=find_image(root / image_folder, key)) for key in ids]


def kernel_places() -> tuple[Path, Path, float]:
    """Inputs, working folder, seconds: the configuration, or HISTOFOLD_KAGGLE_ROOT and HISTOFOLD_LIMIT_S elsewhere."""
    inputs, working = Path(KERNEL_INPUTS), Path(KERNEL_WORKING)
    if "HISTOFOLD_KAGGLE_ROOT" in os.environ:
        root = Path(os.environ["HISTOFOLD_KAGGLE_ROOT"])
        inputs, working = root / "input", root / "working"
    return inputs, working, float(os.environ.get("HISTOFOLD_LIMIT_S", KERNEL_LIMIT_S))


def start_kernel(competition: Competition, run: Callable[[Path, Path, float], RunSummary]) -> RunSummary | None:
    """Run on Kaggle; a fault ends in words, and the legal submission.csv stays as it is.

    The kernel ends with an error only where nothing is lost by it: before a legal file stands, or while every row in it
    is a fallback row, or on the visible images, where a fault is to be seen before the hidden ones are run. A hidden
    run that fails midway ends well, so that the rows that it made are scored.

    Args:
        competition: The adapter.
        run: The kernel: inputs, working folder and limit in seconds.

    Returns:
        What became of the images, or None where the kernel failed midway.

    Raises:
        SystemExit: With status 2 where inputs are at fault, 1 where the kernel is.
    """
    logging.basicConfig(level=KERNEL_LOG_LEVEL, format="%(asctime)s %(levelname)s %(message)s")
    inputs, working, limit_s = kernel_places()
    try:
        return run(inputs, working, limit_s)
    except InputError as error:
        logger.error("the inputs are at fault: %s", error)
        status = 2
    except Exception:
        logger.exception("the kernel failed")
        status = 1
    rows, made = _count_rows(working / "submission.csv", competition.fallback_row)
    logger.error("submission.csv has %d rows, %d of them predicted and all others fallback rows", rows, made)
    if made == 0 or rows <= competition.visible_test_images:
        raise SystemExit(status)
    logger.error("the kernel ends without an error nevertheless, so that the predicted rows are scored")
    return None


def _count_rows(path: Path, fallback_row: str) -> tuple[int, int]:
    """Rows of a submission of one class, and how many of them are more than the fallback; none without a file."""
    if not path.is_file():
        return 0, 0
    rows = path.read_text(encoding="utf-8").splitlines()[1:]
    return len(rows), sum(row.rpartition(",")[2] != fallback_row for row in rows)


def show_summary(summary: RunSummary | None) -> None:
    """Log the table of a run; whatever is wrong with it, the submission stands and the kernel ends well."""
    try:
        for line in summary_lines(summary) if summary is not None else ["no summary: the kernel failed midway"]:
            logger.info("%s", line)
    except Exception:
        logger.exception("no summary")
