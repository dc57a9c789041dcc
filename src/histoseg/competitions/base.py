"""What every adapter offers, and the reading of tables that they share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pandas as pd

from histoseg.core.faults import Fault, InputError
from histoseg.core.rle import Runs
from histoseg.schema.sample import Sample

Split = Literal["train", "test"]
IMAGE_SUFFIXES = (".tiff", ".tif", ".png", ".jpg", ".jpeg")


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
    fallback_row: str
    """Legal row for an image that cannot be read."""
    never_empty: bool
    """Whether an empty row is never right."""

    def inspect(self, root: Path, split: Split) -> tuple[list[Sample], list[Fault]]:
        """The samples of a split, as far as they can be made out, and every fault of the tables."""
        ...

    def samples(self, root: Path, split: Split) -> list[Sample]:
        """The samples of a split; raises InputError with every fault of the tables."""
        ...

    def target(self, sample: Sample) -> Runs:
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
    """Read a csv with every value as it stands, as text; cells that are not there are empty strings.

    Raises:
        InputError: If the file is missing or is no csv, or with one fault for each missing column and duplicate id.
    """
    if not path.is_file():
        raise InputError([Fault(path.stem, str(path), "no such file", "check the folder; the host's name is needed")])
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False, encoding="utf-8-sig")
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError([Fault(path.stem, str(path), f"not a csv table ({error})", "download it again")]) from error
    known = ", ".join(table.columns)
    faults = [
        Fault(column, str(path), "missing column", f"add it; the file has: {known}")
        for column in required
        if column not in table.columns
    ]
    if "id" in table.columns:
        repeated = table["id"][table["id"].duplicated()].unique()
        faults += [Fault(key, str(path), "duplicate id", "keep one row an id") for key in repeated]
    if faults:
        raise InputError(faults)
    return table


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
    """The image of an id: the first suffix that exists, else the path where the host would put it."""
    for suffix in IMAGE_SUFFIXES:
        path = folder / f"{sample_id}{suffix}"
        if path.is_file():
            return path
    return folder / f"{sample_id}{IMAGE_SUFFIXES[0]}"


def mean_dice_score(predictions: Mapping[str, Runs], targets: Mapping[str, Runs]) -> Score:
    """Mean over images of Dice, from runs; an image without a prediction counts as an empty one.

    Raises:
        InputError: If a prediction and its truth differ in size.
    """
    by_id = {}
    for key, truth in targets.items():
        prediction = predictions.get(key)
        if prediction is not None and prediction.shape_hw != truth.shape_hw:
            rule = f"prediction is {prediction.shape_hw} and truth is {truth.shape_hw} pixels"
            raise InputError([Fault(key, "predictions", rule, "predict at the image's own size")])
        by_id[key] = runs_dice(prediction, truth)
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
