"""What every inference kernel does: find its inputs by content, leave a legal file at once, predict."""

from __future__ import annotations

import csv
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from histofold.competitions.base import Competition, KernelCompetition, find_image
from histofold.competitions.tables import submission_ids
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kernels.configuration import KERNEL_INPUTS, KERNEL_LIMIT_S, KERNEL_LOG_LEVEL, KERNEL_WORKING
from histofold.predict.submission.rows import MaskRows, RowsFactory
from histofold.predict.submission.runner import RunSummary, run_submission
from histofold.predict.submission.summary import summary_lines
from histofold.schema.files import write_atomically
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
        except (ValueError, RecursionError):
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


def find_competition_folder(root: Path, columns: tuple[str, ...], image_folder: str, slug: str) -> Path:
    """The folder of a sample_submission.csv with the right columns beside its image folder.

    Where several fit, the one on a path that names the competition wins over datasets that copy its layout.

    Raises:
        InputError: If there is none.
    """
    candidates = []
    for path in walk_files(root, "sample_submission.csv"):
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            header = next(csv.reader([stream.readline()]), [])
        if tuple(header[: len(columns)]) == columns:
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


@dataclass(frozen=True)
class HiddenTest:
    """The hidden test set."""

    root: Path
    """Its folder."""
    listed: list[Sample]
    """Its ids in order and their images, as far as the table of ids alone says it."""
    out: Path
    """Where the submission goes."""


def run_kernel(
    competition: KernelCompetition,
    image_folder: str,
    inputs: Path,
    working: Path,
    limit_s: float,
    make_rows: RowsFactory = MaskRows,
) -> RunSummary:
    """Write WORKING/submission.csv for the hidden test set found below INPUTS.

    Args:
        competition: The adapter.
        image_folder: Name of the folder of test images beside sample_submission.csv.
        inputs: What is searched for the competition and for weights.
        working: Where the submission goes.
        limit_s: Seconds that the whole may take.
        make_rows: What makes the rows.

    Raises:
        InputError: If the competition or weights are not found, or a file of the weights is missing or changed.
    """
    end = time.monotonic() + limit_s
    root = find_competition_folder(inputs, competition.columns, image_folder, competition.slug)
    ids = submission_ids(root / "sample_submission.csv", competition.columns)
    samples = [Sample(id=key, image_path=find_image(root / image_folder, key)) for key in ids]
    return predict_hidden(competition, HiddenTest(root, samples, working / "submission.csv"), inputs, end, make_rows)


def predict_hidden(
    competition: KernelCompetition, hidden: HiddenTest, inputs: Path, end: float, make_rows: RowsFactory
) -> RunSummary:
    """Predict a hidden test set with the weights found below INPUTS, up to a reading of the monotonic clock."""
    # A legal file stands before any other table is read and before the weights are even looked for.
    fallbacks = {sample.id: competition.fallback(sample) for sample in hidden.listed}
    write_atomically(hidden.out, competition.submission_text(fallbacks, competition.classes))
    samples = _test_samples(competition, hidden)
    packages = find_packages(inputs, competition.name)
    for folder, _ in packages:
        use_wheels(folder)
    logger.info("%d images in %s, %d packages of weights", len(samples), hidden.root, len(packages))
    # A hang that ends the process is no failure of the kernel: the rows that it made are to be scored.
    left_s = end - time.monotonic()
    return run_submission(competition, samples, packages, hidden.out, left_s, hang_status=0, make_rows=make_rows)


def _test_samples(competition: KernelCompetition, hidden: HiddenTest) -> list[Sample]:
    """The samples of the test split; of tables that break the adapter, the ids and images alone.

    The hidden tables are seen by nobody: one of them at fault may cost organs and pixel sizes, never the submission.
    """
    try:
        samples = competition.test_samples(hidden.root)
    except Exception:
        logger.exception("the tables beside the ids cannot be used: predicted without them")
        samples = []
    same = [sample.id for sample in samples] == [sample.id for sample in hidden.listed]
    return samples if same else hidden.listed


def kernel_places() -> tuple[Path, Path, float]:
    """Inputs, working folder, seconds: the configuration, or HISTOFOLD_KAGGLE_ROOT and HISTOFOLD_LIMIT_S elsewhere."""
    inputs, working = Path(KERNEL_INPUTS), Path(KERNEL_WORKING)
    if "HISTOFOLD_KAGGLE_ROOT" in os.environ:
        root = Path(os.environ["HISTOFOLD_KAGGLE_ROOT"])
        inputs, working = root / "input", root / "working"
    return inputs, working, float(os.environ.get("HISTOFOLD_LIMIT_S", KERNEL_LIMIT_S))


def start_kernel(
    competition: Competition, run: Callable[[Path, Path, float], RunSummary], answer: str = "submission.csv"
) -> RunSummary | None:
    """Run on Kaggle; a fault ends in words, and the legal file stays as it is.

    The kernel ends with an error only where nothing is lost by it: before a legal file stands, or while every row in it
    is a fallback row, or on the visible images, where a fault is to be seen before the hidden ones are run. A hidden
    run that fails midway ends well, so that the rows that it made are scored.

    Args:
        competition: The adapter.
        run: The kernel: inputs, working folder and limit in seconds.
        answer: Name of the file that it writes into its working folder.

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
    out = working / answer
    rows, made = (competition.count_rows(out.read_text(encoding="utf-8")) if out.is_file() else None) or (0, 0)
    logger.error("%s has %d rows, %d of them predicted and all others fallback rows", answer, rows, made)
    if made == 0 or rows <= competition.visible_test_images:
        raise SystemExit(status)
    logger.error("the kernel ends without an error nevertheless, so that the predicted rows are scored")
    return None


def show_summary(summary: RunSummary | None) -> None:
    """Log the table of a run; whatever is wrong with it, the submission stands and the kernel ends well."""
    try:
        for line in summary_lines(summary) if summary is not None else ["no summary: the kernel failed midway"]:
            logger.info("%s", line)
    except Exception:
        logger.exception("no summary")
