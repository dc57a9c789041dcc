"""What every adapter offers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from histofold.core.faults import Fault, ImageError, InputError
from histofold.core.rle.runs import Masks, Runs
from histofold.schema.sample import Sample

Split = Literal["train", "test"]
IMAGE_SUFFIXES = (".tiff", ".tif", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Score:
    """The host's score of a set of predictions: the mean, and each image's share of it."""

    mean: float
    by_id: dict[str, float]


class Truth(Protocol):
    """What knows the truth of samples."""

    name: str
    """Name of the adapter, as manifests hold it."""
    never_empty: bool
    """Whether an empty row is never right."""

    def target(self, sample: Sample) -> Masks:
        """The truth of a training sample."""
        ...


class Competition(Truth, Protocol):
    """An adapter: the only home of column names, organ names, RLE dialect, metric and output format."""

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

    def score(self, predictions: Mapping[str, Runs], targets: Mapping[str, Runs]) -> Score:
        """The host's metric, exactly."""
        ...

    def row(self, runs: Runs) -> str:
        """One image's prediction as the host's text."""
        ...


class KernelCompetition(Competition, Protocol):
    """A competition whose hidden test set a kernel predicts."""

    def test_samples(self, root: Path) -> list[Sample]:
        """What sample_submission.csv asks for; raises InputError where that file cannot be used."""
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


def submission_columns(competition: Competition, classes: Sequence[str]) -> tuple[str, ...]:
    """The columns of a submission of some classes: id and row, or id, class and row where there are several.

    Raises:
        InputError: If there are several and the host takes one mask an image.
    """
    if len(classes) < 2:
        return competition.columns
    if not competition.class_column:
        rule = f"{competition.name} takes one mask an image, and there are {len(classes)} classes: {', '.join(classes)}"
        raise InputError([Fault("classes", competition.name, rule, "take weights of one class")])
    return (competition.columns[0], competition.class_column, competition.columns[1])
