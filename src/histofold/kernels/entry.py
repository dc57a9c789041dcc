"""What every inference kernel does: find its inputs by content, leave a legal file at once, predict."""

from __future__ import annotations

import csv
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from histofold.competitions.base import Competition, KernelCompetition, find_image
from histofold.competitions.tables import submission_ids
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kernels.configuration import KERNEL_INPUTS, KERNEL_LIMIT_S, KERNEL_LOG_LEVEL, KERNEL_WORKING
from histofold.predict.submission.runner import RunSummary, run_submission
from histofold.predict.submission.summary import summary_lines
from histofold.schema.files import csv_text, write_atomically
from histofold.schema.manifest import MANIFEST_FORMAT, MANIFEST_NAME, Manifest, load_manifest
from histofold.schema.sample import Sample


def walk_files(root: Path, name: str) -> Iterator[Path]:
    """Every file of a name below a folder, in sorted order; links are followed, folders of images are not entered."""
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(f for f in folders if f not in ("train_images", "test_images", "train_annotations"))
        if name in files:
            yield Path(folder) / name


def find_packages(root: Path, competition: str) -> list[tuple[Path, Manifest]]:
    """Every weight folder of the competition below a root, its files checked against their SHA-256.

    A dataset that is mounted at two paths counts once.

    Raises:
        InputError: If there is none, or a file is missing or changed.
    """
    packages: list[tuple[Path, Manifest]] = []
    for path in walk_files(root, MANIFEST_NAME):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if not isinstance(data, dict) or data.get("format") != MANIFEST_FORMAT:
            continue
        if data.get("competition") != competition:
            logger.warning("%s is of %s, not of %s: left out", path, data.get("competition"), competition)
            continue
        manifest = load_manifest(path.parent)
        if any(manifest == found for _, found in packages):
            logger.warning("%s is a package that was found before: left out", path)
            continue
        packages.append((path.parent, manifest))
    if not packages:
        rule = f"no {MANIFEST_NAME} of format {MANIFEST_FORMAT} and competition {competition}"
        raise InputError([Fault(competition, str(root), rule, "add the weights' dataset to the kernel")])
    return packages


def find_competition_folder(root: Path, columns: tuple[str, str], image_folder: str, slug: str) -> Path:
    """The folder of a sample_submission.csv with the right columns beside its image folder.

    Where several fit, the one on a path that names the competition wins over datasets that copy its layout.

    Raises:
        InputError: If there is none.
    """
    candidates = []
    for path in walk_files(root, "sample_submission.csv"):
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            header = next(csv.reader([stream.readline()]), [])
        if tuple(header[:2]) == columns:
            candidates.append(path.parent)
    candidates.sort(key=lambda folder: slug not in folder.parts)
    for folder in candidates:
        if (folder / image_folder).is_dir():
            return folder
    if candidates:
        logger.warning("no %s beside any sample_submission.csv: every row will be a fallback", image_folder)
        return candidates[0]
    rule = f"no sample_submission.csv with the columns {', '.join(columns)}"
    raise InputError([Fault("sample_submission.csv", str(root), rule, "add the competition to the kernel's inputs")])


def use_wheels(folder: Path) -> None:
    """Put the pure-Python wheels beside the weights on the import path: they are what the weights were made with."""
    for wheel in sorted(folder.glob("*.whl")):
        if str(wheel) not in sys.path:
            sys.path.insert(0, str(wheel))


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
