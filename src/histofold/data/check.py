"""A competition folder checked whole: tables, every pixel of every image, folds; and what deserves a look."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from histofold.competitions.base import Competition, image_error_fault
from histofold.competitions.registry import find_competition
from histofold.core.faults import Fault, ImageError, InputError
from histofold.core.log import logger
from histofold.core.rle.runs import Masks, class_runs
from histofold.data.explore.folder import Exploration, Explorer
from histofold.data.explore.notices import table_notices
from histofold.data.folds_file import read_folds
from histofold.data.leaks import find_leaks, patients_in_words
from histofold.imaging.slide import Slide, open_sample
from histofold.imaging.volume import read_slice
from histofold.schema.sample import Sample

BAND_PIXELS = 16_000_000
LIGHT_SEGMENT_BYTES = 100_000_000
"""Most that is decoded in one piece here: looking at a folder takes less than 400 MB, whatever a header claims."""
TEST_FOLDERS = ("test_images", "test", "stage1_test")
SlideVisitor = Callable[[Sample, Slide, Masks], None]
"""What looks at a slide and its labels, decoding every pixel: `Explorer.look`."""


def audit_folder(
    competition: Competition, root: Path, decode: bool = False, look: SlideVisitor | None = None
) -> tuple[list[Sample], list[Fault]]:
    """The training samples of a folder and all its faults: of the tables, and of the images that they name.

    Args:
        competition: The adapter.
        root: The competition folder.
        decode: Decode every pixel; else only headers are read.
        look: Shown every slide whose tables are right; see `audit_images`.
    """
    samples, faults = competition.inspect(root, "train")
    return samples, faults + audit_images(competition, samples, decode, look)


def audit_test_images(competition: Competition, root: Path) -> list[Fault]:
    """Find test images that are missing or cannot be decoded; no faults where there is no test split to look at.

    Without a sample_submission.csv only an adapter that lists the folder itself has one. Sizes in test.csv are not held
    against the images: predictions go by the file's own size.
    """
    if not any((root / name).is_dir() for name in TEST_FOLDERS):
        return []
    samples, faults = competition.inspect(root, "test")
    if not (root / "sample_submission.csv").is_file() and not samples:
        return []
    for sample in tqdm(samples, desc="check test images", unit="image", dynamic_ncols=True):
        try:
            slide, light = _open_lightly(competition, sample)
            with slide:
                if light:
                    _decode(slide)
        except ImageError as error:
            faults.append(image_error_fault(sample.id, sample.image_path, error))
    return faults


def audit_images(
    competition: Competition, samples: Sequence[Sample], decode: bool, look: SlideVisitor | None = None
) -> list[Fault]:
    """Find images that are missing, unreadable, or not of the size that their table or mask says.

    Args:
        competition: The adapter that gave the samples; truth that it does not have was a fault of the tables.
        samples: What to look at.
        decode: Decode every pixel, in bands; else only headers are read.
        look: Shown every slide that is as its table says, with its labels. It decodes the slide, so that this is not
            done twice.
    """
    faults: list[Fault] = []
    for sample in tqdm(samples, desc="check images", unit="image", dynamic_ncols=True):
        try:
            slide, light = _open_lightly(competition, sample) if decode or look else (open_sample(sample), True)
            with slide:
                found, target = _table_faults(competition, sample, slide.shape_hw)
                if look is not None and target is not None and light:
                    look(sample, slide, target)
                elif decode and light:
                    _decode(slide)
            faults += found
        except ImageError as error:
            faults.append(image_error_fault(sample.id, sample.image_path, error))
    return faults


def _open_lightly(competition: Competition, sample: Sample) -> tuple[Slide, bool]:
    """A slide, and whether its pixels can be decoded in small pieces; of one that cannot only the header is held."""
    if competition.task == "volumes":
        read_slice(sample.image_path)  # opened with its neighbours it would be mended from them
    try:
        return open_sample(sample, max_segment_bytes=LIGHT_SEGMENT_BYTES), True
    except ImageError:
        slide = open_sample(sample)  # what is wrong beside its pieces is said here
        megabytes = LIGHT_SEGMENT_BYTES // 1_000_000
        words = "%s: only its header was checked: a piece of it decodes to over %d MB"
        logger.warning(words, sample.image_path, megabytes)
        return slide, False


def _decode(slide: Slide) -> None:
    """Decode every pixel, in bands, and forget it."""
    height, width = slide.shape_hw
    rows = max(1, BAND_PIXELS // width)
    for y in range(0, height, rows):
        slide.read(slice(y, min(y + rows, height)), slice(0, width))


def _table_faults(
    competition: Competition, sample: Sample, shape_hw: tuple[int, int]
) -> tuple[list[Fault], Masks | None]:
    """Where the tables disagree with an image, and its labels if they do not."""
    if sample.shape_hw is not None and sample.shape_hw != shape_hw:
        rule = f"image is {shape_hw} (H, W) pixels and its table says {sample.shape_hw}"
        remedy = "correct img_height and img_width, or the image"
        return [Fault(sample.id, str(sample.image_path), rule, remedy)], None
    try:
        target: Masks = competition.target(sample)
    except InputError as error:
        return error.faults, None
    wrong = [runs.shape_hw for runs in class_runs(target) if runs.shape_hw != shape_hw]
    if wrong:
        rule = f"mask is {wrong[0]} and image is {shape_hw} (H, W) pixels"
        return [Fault(sample.id, str(sample.image_path), rule, "correct the mask or the image")], None
    return [], target


LABEL_IMAGES = ("train_images", "train")
"""Folders of images that adapters want beside a table of labels; empty ones where the table is all there is."""


@dataclass(frozen=True, kw_only=True)
class CheckedFolder:
    """What a check found."""

    competition: Competition
    """The adapter."""
    samples: Sequence[Sample]
    """The training samples, as far as they can be made out."""
    faults: Sequence[Fault]
    """What must be mended."""
    exploration: Exploration
    """What was seen of the slides; its notices deserve a look and are no faults."""
    folds: pd.DataFrame | None
    """The folds.csv that the samples were held against, where there is one without fault."""
    leaks: Sequence[str]
    """What the folds let leak."""
    patients: str
    """What is not known of patients, in words."""

    @property
    def notices(self) -> int:
        """How many things deserve a look."""
        return len(self.exploration.notices) + len(self.leaks)


def check_folder(path: Path, competition: str = "", folds_path: Path | None = None) -> CheckedFolder:
    """Hold a competition folder's tables and images against each other, both splits, every pixel decoded.

    Args:
        path: The folder; or its table of labels alone, plain or gzipped: then no images are looked for.
        competition: Name of the adapter; detected where it is empty.
        folds_path: A folds.csv to hold the samples against.

    Raises:
        InputError: If it is no competition's folder, or the table cannot be read.
    """
    if path.is_dir() or not path.exists():
        return _check(path, find_competition(competition, path), folds_path)
    with labels_as_folder(path) as root:
        try:
            checked = _check(root, find_competition(competition, root), folds_path, has_images=False)
        except InputError as error:
            raise InputError([_fault_of_table(fault, path, root) for fault in error.faults]) from None
        return replace(checked, faults=[_fault_of_table(fault, path, root) for fault in checked.faults])


def _check(root: Path, competition: Competition, folds_path: Path | None, has_images: bool = True) -> CheckedFolder:
    explorer = Explorer(competition)
    if has_images:
        samples, faults = audit_folder(competition, root, decode=True, look=explorer.look)
        explorer.notices += table_notices(competition.notices)
        faults += audit_test_images(competition, root)
    else:
        samples, faults = competition.inspect(root, "train")
        explorer.notices += table_notices(competition.notices)
        for sample in samples:
            with contextlib.suppress(InputError):  # a label that is at fault is among the faults already
                explorer.look_at_labels(sample, competition.target(sample))
    folds, leaks, exploration = None, [], explorer.finish()
    if samples and not faults and not any(fact.objects for fact in exploration.facts):
        faults.append(nothing_labelled(root))
    if folds_path is not None:
        try:
            folds = read_folds(folds_path, samples)
            leaks = find_leaks(folds, samples, clusters=exploration.clusters).notices
        except InputError as error:
            faults += error.faults
    patients = patients_in_words({sample.id: sample.group for sample in samples}, folds)
    if patients and not faults:
        logger.warning("%s", patients)
    return CheckedFolder(
        competition=competition,
        samples=samples,
        faults=faults,
        exploration=exploration,
        folds=folds,
        leaks=leaks,
        patients=patients,
    )


def nothing_labelled(root: Path) -> Fault:
    """The fault of a folder without a single label: an export went wrong, or nothing was drawn yet."""
    rule = "not one pixel of any image is labelled: there is nothing to learn"
    return Fault("labels", str(root), rule, "look at the masks, and export them again")


@contextlib.contextmanager
def labels_as_folder(table: Path) -> Iterator[Path]:
    """A table of labels as a competition folder without images, for as long as the context lasts.

    Args:
        table: A train.csv under any name, plain or gzipped.

    Raises:
        InputError: If it is gzipped but broken.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for images in LABEL_IMAGES:
            (root / images).mkdir()
        opened = gzip.open if table.suffix == ".gz" else open
        try:
            with opened(table, "rb") as source, (root / "train.csv").open("wb") as target:
                shutil.copyfileobj(source, target)
        except (OSError, EOFError, zlib.error) as error:
            rule = f"cannot be read ({error})"
            raise InputError([Fault(table.stem, str(table), rule, "download it again")]) from error
        yield root


def _fault_of_table(fault: Fault, table: Path, root: Path) -> Fault:
    """A fault of `labels_as_folder` as one of the table that the user gave."""
    if not Path(fault.file).is_relative_to(root):
        return fault
    return replace(fault, file=str(table), id=table.stem if fault.id == root.name else fault.id)
