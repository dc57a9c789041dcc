"""What every adapter offers, and the reading of tables that they share."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pandas as pd

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.core.rle.runs import Masks, Runs, class_runs
from histofold.imaging.errors import ImageError
from histofold.schema.sample import Sample

Split = Literal["train", "test"]
IMAGE_SUFFIXES = (".tiff", ".tif", ".png", ".jpg", ".jpeg")
CLASS_KEYS = ("id", "class")
"""What tells the rows of a table of several classes apart; of a table without classes it is the id alone."""
_CSV_FIELD_LIMIT = 1 << 30  # characters; the rle of one slide may be many megabytes


@dataclass(frozen=True)
class Score:
    """The host's score of a set of predictions: the mean, and each image's share of it."""

    mean: float
    by_id: dict[str, float]


class Competition(Protocol):
    """An adapter: the only home of column names, organ names, RLE dialect, metric and output format."""

    name: str
    """Name of the adapter, as manifests hold it."""
    slug: str
    """Name of the competition on Kaggle, empty where there is none."""
    classes: tuple[str, ...]
    """Mask classes."""
    columns: tuple[str, str]
    """Columns of the submission: id and row."""
    class_column: str
    """Column between them that names the class, in a submission of several; empty where the host takes one alone."""
    fallback_row: str
    """Legal row for an image that cannot be read."""
    never_empty: bool
    """Whether an empty row is never right."""
    visible_test_images: int
    """Images of the test set that everybody can see, which the hidden one replaces when the host scores; 0: none."""
    hidden_test_images: int
    """Images of the hidden test set, as far as is known; 0 where there is none."""
    hidden_image_side: int
    """Side in pixels of a square of as many pixels as the largest hidden image, as far as is known."""

    def inspect(self, root: Path, split: Split) -> tuple[list[Sample], list[Fault]]:
        """The samples of a split, as far as they can be made out, and every fault of the tables."""
        ...

    def samples(self, root: Path, split: Split) -> list[Sample]:
        """The samples of a split; raises InputError with every fault of the tables."""
        ...

    def target(self, sample: Sample) -> Masks:
        """The truth of a training sample."""
        ...

    def score(self, predictions: Mapping[str, Runs], targets: Mapping[str, Runs]) -> Score:
        """The host's metric, exactly."""
        ...

    def row(self, runs: Runs) -> str:
        """One image's prediction as the host's text."""
        ...


def faultless(found: tuple[list[Sample], list[Fault]]) -> list[Sample]:
    """The samples of an inspection that found no faults.

    Raises:
        InputError: With all faults, where there are any.
    """
    samples, faults = found
    if faults:
        raise InputError(faults)
    return samples


def read_table(path: Path, required: Sequence[str]) -> pd.DataFrame:
    """As `scan_table`, for tables that must be without fault.

    Raises:
        InputError: If the file is missing or is no csv, or with every fault of its rows and columns.
    """
    table, faults = scan_table(path, required)
    if faults:
        raise InputError(faults)
    return table


def scan_table(path: Path, required: Sequence[str], keys: Sequence[str] = ("id",)) -> tuple[pd.DataFrame, list[Fault]]:
    """Read a csv as far as it can be made out: every value as it stands, as text.

    Cells that are not there are empty strings, empty lines and surplus empty fields are dropped. Of rows of one id
    (of one key), and of columns of one name, the first is kept.

    Args:
        path: The file.
        required: Columns that must be there; one that is not is a fault and stays absent from the table.
        keys: The id and, where an id may have several rows, what tells them apart.

    Returns:
        The table, and its faults: missing or repeated columns, rows without or of one id, rows longer than the header.

    Raises:
        InputError: If the file is missing, empty, or no csv.
    """
    (_, names), *lines = _csv_table_lines(path)
    faults = _table_header_faults(path, names, required)
    place = names.index("id") if "id" in names else None
    places = [names.index(name) for name in keys if name in names]
    seen: dict[str, int] = {}
    rows = []
    for number, fields in lines:
        cells = (fields + [""] * len(names))[: len(names)]
        key = "" if place is None else cells[place]
        if any(fields[len(names) :]):
            rule = f"line {number} has {len(fields)} fields and the header {len(names)}"
            remedy = "take the surplus out, or quote the text that holds a comma"
            faults.append(Fault(key or f"line {number}", str(path), rule, remedy))
        if place is not None:
            if not key:
                faults.append(Fault(f"line {number}", str(path), "row without an id", "write its id, or drop the row"))
                continue
            full = " ".join(cells[each] for each in places)
            seen[full] = seen.get(full, 0) + 1
            if seen[full] > 1:
                continue
        rows.append(cells)
    key_words = " and ".join(name for name in keys if name in names)
    rule, remedy = f"duplicate {key_words}", f"keep one row an {key_words}"
    faults += [Fault(key, str(path), rule, remedy) for key, count in seen.items() if count > 1]
    table = pd.DataFrame(rows, columns=names, dtype=str)
    return table.loc[:, ~table.columns.duplicated()], faults


def _csv_table_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and fields of the header and of each row that is not empty.

    Raises:
        InputError: If the file is missing, empty, or no csv.
    """
    if not path.is_file():
        raise InputError([Fault(path.stem, str(path), "no such file", "check the path")])
    csv.field_size_limit(_CSV_FIELD_LIMIT)
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            # Strict, so that a quote that never ends is an error and does not swallow the rest of the table.
            reader = csv.reader(stream, strict=True)
            lines = [(reader.line_num, fields) for fields in reader if any(fields)]
    except (csv.Error, ValueError, OSError) as error:
        raise InputError([Fault(path.stem, str(path), f"not a csv table ({error})", "download it again")]) from error
    if not lines:
        raise InputError([Fault(path.stem, str(path), "the table is empty", "download it again")])
    broken = [number for number, fields in lines if any("\0" in field for field in fields)]
    if broken:
        rule = f"not a csv table (line {broken[0]} holds NUL bytes)"
        raise InputError([Fault(path.stem, str(path), rule, "download it again")])
    return lines


def _table_header_faults(path: Path, names: Sequence[str], required: Sequence[str]) -> list[Fault]:
    known = ", ".join(names)
    faults = [
        Fault(column, str(path), "missing column", f"add it; the file has: {known}")
        for column in required
        if column not in names
    ]
    repeated = dict.fromkeys(name for name in names if name and names.count(name) > 1)
    return faults + [Fault(name, str(path), "two columns of this name", "keep one") for name in repeated]


def rows_by_id(path: Path, required: Sequence[str]) -> tuple[dict[str, dict[str, str]], list[Fault]]:
    """The rows of a table that may be at fault or absent, by id, and its faults; no rows where it has no ids."""
    try:
        table, faults = scan_table(path, required)
    except InputError as error:
        return {}, error.faults
    if "id" not in table.columns:
        return {}, faults
    return {row["id"]: row for row in table.to_dict("records")}, faults


def submission_ids(path: Path, columns: Sequence[str]) -> list[str]:
    """The ids of sample_submission.csv, each once, in its order; faults of single rows are only logged.

    Where it has a column `class`, an id may have a row for each.

    Raises:
        InputError: If the file is missing, no csv, or lacks one of the columns.
    """
    table, faults = scan_table(path, columns, CLASS_KEYS)
    if not set(columns) <= set(table.columns):
        raise InputError(faults)
    log_faults(faults)
    return list(dict.fromkeys(table["id"]))


def log_faults(faults: Sequence[Fault]) -> None:
    """Warn of faults that do not keep a test split from being predicted."""
    for fault in faults:
        logger.warning("%s", fault)


def image_error_fault(key: str, path: Path, error: ImageError) -> Fault:
    """An image error as the fault of a sample: file, rule and remedy each once.

    Args:
        key: The sample.
        path: The file, where the error does not name it.
        error: What `open_slide`, a read, or `read_mask` raised.
    """
    return Fault(
        key, error.file or str(path), error.rule or str(error), error.remedy or "download or export the image again"
    )


def parse_pixel_size(text: str) -> float | None:
    """A pixel size in um, or None where the cell holds no finite positive number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def parse_side(text: str) -> int | None:
    """Pixels of one side, or None where the cell holds no whole positive number; `3000.0` counts as 3000."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if math.isfinite(value) and value >= 1 and value == int(value) else None


def find_image(folder: Path, sample_id: str) -> Path:
    """The image of an id: the first suffix that exists, else the path where the host would put it.

    Suffixes are tried as `.tif`, `.TIF` and `.Tif`. A name that no file can have counts as not found.
    """
    for suffix in IMAGE_SUFFIXES:
        for spelling in (suffix, suffix.upper(), f".{suffix[1:].capitalize()}"):
            path = folder / f"{sample_id}{spelling}"
            if os.path.isfile(path):  # unlike Path.is_file it does not raise on a name that is too long
                return path
    return folder / f"{sample_id}{IMAGE_SUFFIXES[0]}"


def mean_dice_score(predictions: Mapping[str, Masks], targets: Mapping[str, Masks]) -> Score:
    """Mean over images of Dice (the mean over classes), from runs; one without a prediction counts as an empty one.

    Raises:
        InputError: If a prediction and its truth differ in size.
    """
    by_id = {}
    for key, truth in targets.items():
        wanted = class_runs(truth)
        predicted = class_runs(predictions[key]) if key in predictions else (None,) * len(wanted)
        for prediction, runs in zip(predicted, wanted, strict=True):
            if prediction is not None and prediction.shape_hw != runs.shape_hw:
                rule = f"prediction is {prediction.shape_hw} and truth is {runs.shape_hw} pixels"
                raise InputError([Fault(key, "predictions", rule, "predict at the image's own size")])
        by_id[key] = sum(runs_dice(*pair) for pair in zip(predicted, wanted, strict=True)) / len(wanted)
    return Score(sum(by_id.values()) / max(1, len(by_id)), by_id)


def runs_dice(prediction: Runs | None, truth: Runs) -> float:
    """Dice of two masks given as runs of the same order, without decoding either; both empty counts as 1."""
    if prediction is None or prediction.area == 0 or truth.area == 0:
        empty = (prediction is None or prediction.area == 0) and truth.area == 0
        return 1.0 if empty else 0.0
    # `covered(x)` = mask pixels of the prediction before position x: whole runs before it, and part of one run.
    starts, lengths = prediction.starts, prediction.lengths
    before = lengths.cumsum() - lengths

    def covered(positions):  # type: ignore[no-untyped-def]
        run = starts.searchsorted(positions, side="right") - 1
        inside = (positions - starts[run]).clip(0, lengths[run])
        return (before[run] + inside) * (run >= 0)

    overlap = int((covered(truth.starts + truth.lengths) - covered(truth.starts)).sum())
    return 2 * overlap / (prediction.area + truth.area)
