"""What every adapter offers, what adapters share, and Dice of masks given as runs."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from histofold.core.faults import Fault, ImageError, InputError, InputNotice, parted
from histofold.core.metrics.ranked import ApRule
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import Masks, Runs, class_runs, runs_to_text
from histofold.core.rle.sets import pixels_within
from histofold.schema.files import csv_lines
from histofold.schema.sample import Sample, is_safe_id

Split = Literal["train", "test"]
Task = Literal["masks", "instances", "volumes"]
IMAGE_SUFFIXES = (".tiff", ".tif", ".png", ".jpg", ".jpeg")
CLUSTER_PREFIX = "near-"
"""Begins the name of a group that is a cluster of near-duplicates: it says nothing of patients."""
_LEAST_UM, _MOST_UM = 0.05, 20.0  # pixels of light microscopy, thumbnails of whole organs among them
_USUAL_RATIO = 100.0  # no two images of one folder differ so much in scale
_UNITS = {1e3: "millimetres", 1e-3: "nanometres", 1e6: "metres"}


@dataclass(frozen=True)
class Score:
    """The host's score of a set of predictions: the mean, and each image's share of it."""

    mean: float
    by_id: dict[str, float]


@dataclass(frozen=True)
class ObjectScore(Score):
    """The host's score of detections: `mean` is that of all images pooled, and that of an image is its own."""

    further: dict[str, float]
    """Other metrics of all images by name."""


class Truth(Protocol):
    """What knows the truth of samples."""

    name: str
    """Name of the adapter, as manifests hold it."""
    never_empty: bool
    """Whether an empty row is never right."""

    def target(self, sample: Sample) -> Masks:
        """The truth of a training sample."""
        ...

    def ignored(self, sample: Sample) -> Runs | None:
        """Pixels of a training sample that neither training nor a score counts; None where there are none."""
        ...


class Competition(Truth, Protocol):
    """An adapter: the only home of column names, organ names, RLE dialect, metric and output format."""

    slug: str
    """Name of the competition on Kaggle, empty where there is none."""
    task: Task
    """Whether an image's prediction is a mask, or single objects: then it is an `ObjectCompetition`."""
    classes: tuple[str, ...]
    """Mask classes."""
    columns: tuple[str, ...]
    """Columns of the submission: the id, and those of the row; a row is their cells, joined by commas."""
    class_column: str
    """Column between them that names the class, in a submission of several; empty where the host takes one alone."""
    fallback_row: str
    """Last cell of a row that is legal for an image that cannot be read."""
    visible_test_images: int
    """Images of the test set that everybody can see, which the hidden one replaces when the host scores; 0: none."""
    hidden_test_images: int
    """Images of the hidden test set, as far as is known; 0 where there is none."""
    hidden_image_side: int
    """Side in pixels of a square of as many pixels as the largest hidden image, as far as is known."""
    hidden_pixel_size_um: float
    """Pixel size that forecasts take hidden images to have; finer ones cost less at one physical scale."""

    notices: Sequence[Fault]
    """What the last call of `inspect` found to deserve a look."""

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

    def fallback(self, sample: Sample) -> str:
        """A legal row for an image that cannot be read."""
        ...

    def submission_text(self, rows: Mapping[str, str], classes: Sequence[str]) -> str:
        """The whole submission: of each id its row, of several classes a line for each."""
        ...

    def submission_pieces(self, rows: Iterable[tuple[str, str]], classes: Sequence[str]) -> Iterator[str]:
        """The same piece by piece, from ids and their rows in order: nothing is held longer than needed."""
        ...

    def count_rows(self, text: str, classes: Sequence[str] = ()) -> tuple[int, int] | None:
        """Rows of a submission, and how many of them are more than the fallback; None for a text that is none."""
        ...


class ObjectCompetition(Competition, Protocol):
    """An adapter of single objects. As one of masks, its truth is the union of them: so folds and tiles are made."""

    metric: str
    """The word that stands before a score: AP, AP50."""

    @property
    def ap_rule(self) -> ApRule:
        """By which rule it counts: what `score_objects` gives first is the average precision by it."""
        ...

    def objects(self, sample: Sample) -> Objects:
        """The true objects of a training sample."""
        ...

    def unsure(self, sample: Sample) -> Objects:
        """Objects of a training sample that neither training nor a score counts, where people were unsure."""
        ...

    def in_surroundings(self, sample: Sample, context_px: int) -> tuple[Objects, Runs]:
        """The truth of a training sample and of so many pixels around it: objects, and pixels that do not count."""
        ...

    def score_objects(self, predictions: Mapping[str, Detections], samples: Sequence[Sample]) -> ObjectScore:
        """The host's metric over training samples; one without a prediction counts as without a detection."""
        ...

    def object_row(self, sample_id: str, detections: Detections) -> str:
        """One image's detections as the host's text."""
        ...


class KernelCompetition(Competition, Protocol):
    """A competition whose hidden test set a kernel predicts."""

    def test_samples(self, root: Path) -> list[Sample]:
        """What sample_submission.csv asks for; raises InputError where that file cannot be used."""
        ...


class Adapter:
    """What adapters share: faults are collected, truth is kept by id, and the host scores the mean Dice of images."""

    name: str
    slug: str
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    task: Task = "masks"
    class_column = ""
    fallback_row = ""
    never_empty = False
    visible_test_images = 0
    hidden_test_images = 0
    hidden_image_side = 0
    hidden_pixel_size_um = 0.5
    notices: Sequence[Fault] = ()
    root_remedy = "give the competition's folder"
    """What to do where the folder is not there."""

    def __init__(self) -> None:
        self._targets: dict[str, Masks] = {}

    def _inspect(self, root: Path, split: Split) -> tuple[list[Sample], list[Fault]]:
        """The samples and faults of a folder that is there; what it raises is the one fault."""
        raise NotImplementedError

    def inspect(self, root: Path, split: Split) -> tuple[list[Sample], list[Fault]]:
        """The samples of a split, as far as they can be made out, and every fault of the tables."""
        self.notices = ()
        if not root.is_dir():
            return [], [Fault(root.name, str(root), "no such folder", self.root_remedy)]
        try:
            samples, found = self._inspect(root, split)
        except InputError as error:
            return [], error.faults
        # The host states the voxels of volumes, a hundred times as large as pixels of slides, and from 5 to 63 um.
        scales = scale_notices(samples) if self.task != "volumes" else []
        faults, self.notices = parted([*found, *scales])
        return samples, faults

    def samples(self, root: Path, split: Split) -> list[Sample]:
        """As `inspect`.

        Raises:
            InputError: With every fault of the tables.
        """
        samples, faults = self.inspect(root, split)
        if faults:
            raise InputError(faults)
        return samples

    def target(self, sample: Sample) -> Masks:
        """The truth of a training sample, as train.csv gives it; `inspect` or `samples` must have been called.

        Raises:
            InputError: Without further faults, if train.csv gave no truth that can be used.
        """
        if sample.id not in self._targets:
            raise InputError(f"{sample.id}: train.csv gave no truth: check the dataset first")
        return self._targets[sample.id]

    def ignored(self, sample: Sample) -> Runs | None:
        """None: only some truth of plain folders says of pixels that they do not count."""
        return None

    def score(self, predictions: Mapping[str, Masks], targets: Mapping[str, Masks]) -> Score:
        """Mean over images of Dice, of several classes of the mean over classes; 1 where both masks are empty."""
        return mean_dice_score(predictions, targets)

    def row(self, runs: Runs) -> str:
        """Runs as 1-based column-major `start length` pairs, empty for no runs."""
        return runs_to_text(runs)

    def fallback(self, sample: Sample) -> str:
        """A legal row for an image that cannot be read."""
        return self.fallback_row

    def submission_text(self, rows: Mapping[str, str], classes: Sequence[str] = ()) -> str:
        """The submission as the host takes it, which adapters write by `submission_pieces`."""
        return "".join(self.submission_pieces(rows.items(), classes))

    def submission_pieces(self, rows: Iterable[tuple[str, str]], classes: Sequence[str] = ()) -> Iterator[str]:
        """The submission as a csv, an id's rows together where there are several classes."""
        columns = submission_columns(self, classes)
        yield csv_lines([columns])
        for key, row in rows:
            if self.class_column in columns:
                yield csv_lines([(key, name, text) for name, text in zip(classes, row.split("\n"), strict=True)])
            else:
                yield csv_lines([(key, *row.split(",", len(columns) - 2))])

    def count_rows(self, text: str, classes: Sequence[str] = ()) -> tuple[int, int] | None:
        """Rows of a submission, and how many of them are more than the fallback; None for a text that is none."""
        header, *rows = text.splitlines() or [""]
        if header and header.strip() != ",".join(submission_columns(self, classes)):
            return None
        return len(rows), sum(row.rpartition(",")[2] != self.fallback_row for row in rows)


class TableForm(Adapter):
    """The form of a submission as a csv, whatever the host's own is: rows of shards are such tables.

    Args:
        competition: The adapter whose columns it has.
    """

    def __init__(self, competition: Competition) -> None:
        super().__init__()
        self.columns, self.class_column = competition.columns, competition.class_column
        self.name, self.task, self.fallback_row = competition.name, competition.task, competition.fallback_row


def image_error_fault(key: str, path: Path, error: ImageError) -> Fault:
    """An image error as the fault of a sample: file, rule and remedy each once.

    Args:
        key: The sample.
        path: The file, where the error does not name it.
        error: What `open_slide`, a read, or `decode_mask` raised.
    """
    return Fault(
        key, error.file or str(path), error.rule or str(error), error.remedy or "download or export the image again"
    )


def scale_notices(samples: Sequence[Sample]) -> list[InputNotice]:
    """Pixel sizes that look like another unit, and images without one among others that have it."""
    sizes = {sample.id: size for sample in samples if (size := sample.pixel_size_um) is not None}
    if not sizes:
        return []
    usual = statistics.median(sizes.values())
    notices = []
    for key, size in sizes.items():
        if not (_LEAST_UM <= size <= _MOST_UM) or not 1 / _USUAL_RATIO < size / usual < _USUAL_RATIO:
            other = next((words for factor, words in _UNITS.items() if _LEAST_UM <= size * factor <= _MOST_UM), "")
            rule = f"a pixel size of {size:g} um, where the median is {usual:g}{other and f': is it {other}?'}"
            notices.append(InputNotice(key, "pixel_size", rule, "write micrometres per pixel"))
    without = [sample.id for sample in samples if sample.id not in sizes]
    if without:
        rule = f"no pixel size, which {len(sizes)} other images have"
        remedy = "write it: the image is read at the whole-image scale (preprocessing.whole_size) until then"
        notices += [InputNotice(key, "pixel_size", rule, remedy) for key in without]
    return notices


def find_image(folder: Path, sample_id: str) -> Path:
    """The image of an id: the first suffix that exists, else the path where the host would put it.

    Suffixes are tried as `.tif`, `.TIF` and `.Tif`. A name that no file can have, or that leads out of the folder,
    counts as not found.
    """
    if not is_safe_id(sample_id):
        return folder / "unsafe id"  # no such file: a table must not make us read beyond its folder
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
    if len(classes) < 2 or competition.task == "instances":  # of objects the further channels are no classes
        return competition.columns
    if not competition.class_column:
        rule = f"{competition.name} takes one mask an image, and there are {len(classes)} classes: {', '.join(classes)}"
        raise InputError([Fault("classes", competition.name, rule, "take weights of one class")])
    return (competition.columns[0], competition.class_column, *competition.columns[1:])


def runs_dice(prediction: Runs | None, truth: Runs) -> float:
    """Dice of two masks given as runs of the same order, without decoding either; both empty counts as 1."""
    if prediction is None or prediction.area == 0 or truth.area == 0:
        empty = (prediction is None or prediction.area == 0) and truth.area == 0
        return 1.0 if empty else 0.0
    return 2 * int(pixels_within(truth, prediction).sum()) / (prediction.area + truth.area)


def class_dice(prediction: Masks, truth: Masks) -> list[float]:
    """Dice of each class; a class that is empty in both counts as 1.

    Raises:
        ValueError: If they are not of as many classes.
    """
    return [runs_dice(*pair) for pair in zip(class_runs(prediction), class_runs(truth), strict=True)]


def masks_dice(prediction: Masks, truth: Masks) -> float:
    """Dice of an image: the mean over its classes."""
    by_class = class_dice(prediction, truth)
    return sum(by_class) / len(by_class)


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
