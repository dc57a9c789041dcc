"""The images of a folder held against their tables: every fault found, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from histoseg.competitions.base import Competition, image_error_fault
from histoseg.core.faults import Fault, InputError
from histoseg.imaging.errors import ImageError
from histoseg.imaging.slide import open_slide
from histoseg.schema.sample import Sample

BAND_PIXELS = 16_000_000


def audit_folder(competition: Competition, root: Path, decode: bool = False) -> tuple[list[Sample], list[Fault]]:
    """The training samples of a folder and all its faults: of the tables, and of the images that they name.

    Args:
        competition: The adapter.
        root: The competition folder.
        decode: Decode every pixel; else only headers are read.
    """
    samples, faults = competition.inspect(root, "train")
    return samples, faults + audit_images(competition, samples, decode)


def audit_test_images(competition: Competition, root: Path) -> list[Fault]:
    """Find test images that are missing or cannot be decoded; no faults where there is no test split to look at.

    Sizes in test.csv are not held against the images: predictions go by the file's own size.
    """
    if not (root / "test_images").is_dir() or not (root / "sample_submission.csv").is_file():
        return []
    samples, faults = competition.inspect(root, "test")
    for sample in tqdm(samples, desc="check test images", unit="image", dynamic_ncols=True):
        try:
            _image_shape(sample, decode=True)
        except ImageError as error:
            faults.append(image_error_fault(sample.id, sample.image_path, error))
    return faults


def audit_images(competition: Competition, samples: Sequence[Sample], decode: bool) -> list[Fault]:
    """Find images that are missing, unreadable, or not of the size that their table or mask says.

    Args:
        competition: The adapter that gave the samples; truth that it does not have was a fault of the tables.
        samples: What to look at.
        decode: Decode every pixel, in bands; else only headers are read.
    """
    faults: list[Fault] = []
    for sample in tqdm(samples, desc="check images", unit="image", dynamic_ncols=True):
        try:
            shape_hw = _image_shape(sample, decode)
        except ImageError as error:
            faults.append(image_error_fault(sample.id, sample.image_path, error))
            continue
        if sample.shape_hw is not None and sample.shape_hw != shape_hw:
            rule = f"image is {shape_hw} (H, W) pixels and its table says {sample.shape_hw}"
            remedy = "correct img_height and img_width, or the image"
            faults.append(Fault(sample.id, str(sample.image_path), rule, remedy))
            continue
        faults += _target_faults(competition, sample, shape_hw)
    return faults


def _image_shape(sample: Sample, decode: bool) -> tuple[int, int]:
    """Height and width of an image as its header says, once its pixels were decoded where that is wanted."""
    with open_slide(sample.image_path) as slide:
        height, width = slide.shape_hw
        rows = max(1, BAND_PIXELS // width)
        for y in range(0, height if decode else 0, rows):
            slide.read(slice(y, min(y + rows, height)), slice(0, width))
        return height, width


def _target_faults(competition: Competition, sample: Sample, shape_hw: tuple[int, int]) -> list[Fault]:
    try:
        runs = competition.target(sample)
    except InputError as error:
        return error.faults
    if runs.shape_hw != shape_hw:
        rule = f"mask is {runs.shape_hw} and image is {shape_hw} (H, W) pixels"
        return [Fault(sample.id, str(sample.image_path), rule, "correct the mask or the image")]
    return []
