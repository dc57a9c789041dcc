"""The images of a folder held against their tables: every fault found, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from histoseg.competitions.base import Competition
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
    without_truth = {fault.id for fault in faults}
    return samples, faults + audit_images(competition, samples, without_truth, decode)


def audit_images(
    competition: Competition, samples: Sequence[Sample], without_truth: set[str], decode: bool
) -> list[Fault]:
    """Find images that are missing, unreadable, or not of the size that their table or mask says.

    Args:
        competition: The adapter that gave the samples.
        samples: What to look at.
        without_truth: Samples whose truth is known to be at fault and is not looked at again.
        decode: Decode every pixel, in bands; else only headers are read.
    """
    faults: list[Fault] = []
    for sample in tqdm(samples, desc="check images", unit="image", dynamic_ncols=True):
        try:
            with open_slide(sample.image_path) as slide:
                shape_hw = slide.shape_hw
                if decode:
                    rows = max(1, BAND_PIXELS // shape_hw[1])
                    for y in range(0, shape_hw[0], rows):
                        slide.read(slice(y, min(y + rows, shape_hw[0])), slice(0, shape_hw[1]))
        except ImageError as error:
            faults.append(Fault(sample.id, str(sample.image_path), str(error), "download or export the image again"))
            continue
        if sample.shape_hw is not None and sample.shape_hw != shape_hw:
            rule = f"image is {shape_hw} (H, W) pixels and its table says {sample.shape_hw}"
            remedy = "correct img_height and img_width, or the image"
            faults.append(Fault(sample.id, str(sample.image_path), rule, remedy))
            continue
        if sample.id not in without_truth:
            faults += _target_faults(competition, sample, shape_hw)
    return faults


def _target_faults(competition: Competition, sample: Sample, shape_hw: tuple[int, int]) -> list[Fault]:
    try:
        runs = competition.target(sample)
    except InputError as error:
        return error.faults
    if runs.shape_hw != shape_hw:
        rule = f"mask is {runs.shape_hw} and image is {shape_hw} (H, W) pixels"
        return [Fault(sample.id, str(sample.image_path), rule, "correct the mask or the image")]
    return []
