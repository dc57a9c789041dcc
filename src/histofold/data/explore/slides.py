"""What is to be seen of each slide at a glance: a thumbnail read in thin bands, colours, focus, labels."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace

import cv2
import numpy as np

from histofold.core.objects.instances import Objects
from histofold.core.regions import component_areas, fill_holes, label_runs, split_runs
from histofold.core.rle.runs import Runs
from histofold.data.cleaning import OUTSIDE_SIDE, outside_mask
from histofold.data.duplicates import fingerprint
from histofold.data.explore.label_fit import FIT_SIDE, LabelFit, fit_labels, line_continuity, other_order
from histofold.data.thumbnails import fitting_shape, small_mask, thumbnail
from histofold.imaging.slide import Slide
from histofold.imaging.tissue import tissue_mask
from histofold.schema.sample import Sample

FOCUS_TILE = 256
"""Side of the tiles that sharpness is measured on, in pixels of the slide."""
_FOCUS_TILES = 3  # an axis
_LEAST_FOCUS_TISSUE = 0.5
_THIN_PX = 4  # median length of a run


@dataclass(frozen=True, kw_only=True, eq=False)
class SlideFacts:
    """What one look at a slide gives; NaN and None where there was no image to look at."""

    sample: Sample
    """The slide."""
    shape_hw: tuple[int, int]
    """Height and width in pixels."""
    mask_fraction: float
    """Labelled share of the pixels."""
    objects: int
    """Connected pieces of the labels; of labels of single objects these."""
    object_area_px: float
    """Median area of a piece or object in pixels; NaN without one."""
    border_labelled: float
    """Labelled share of the pixels at the border."""
    continuity: tuple[float, float]
    """As `line_continuity` gives it."""
    extent_yx: tuple[float, float] = (float("nan"),) * 2
    """Where the labels end, as shares of the height and of the width."""
    enclosed: float = 0.0
    """Background that thin lines of labels enclose, over the area of the lines; 0 where labels are no thin lines."""
    digest: int = 0
    """The same for labels that are equal to the pixel; 0 where there are none."""
    blank_fraction: float = float("nan")
    """Share of the image that shows no tissue."""
    blank_labelled: float = float("nan")
    """Share of the image that is labelled glass around the tissue."""
    inside_lab: tuple[float, float, float] = (float("nan"),) * 3
    """Mean CIE L*, a*, b* of the labelled tissue."""
    outside_lab: tuple[float, float, float] = (float("nan"),) * 3
    """The same of the other tissue."""
    brightest: float = float("nan")
    """The largest value of any channel, 0 to 255, of the image at the size of a picture."""
    focus: float = float("nan")
    """Sharpness: spread of the Laplacian over the spread of the grey values, median of some tiles of tissue."""
    fit: LabelFit | None = None
    """How the labels fit the image."""
    fingerprint: np.ndarray | None = None
    """For near-duplicates."""
    object_areas_px: np.ndarray | None = None
    """Area of each object in pixels, int64 (M,), of labels of single objects; None for masks."""

    @property
    def colour_contrast(self) -> float:
        """Distance of the mean colours inside and outside the labels (CIE 1976)."""
        return float(np.linalg.norm(np.subtract(self.inside_lab, self.outside_lab)))


def label_facts(sample: Sample, runs: Runs) -> SlideFacts:
    """What is known from the labels alone."""
    pieces = split_runs(runs)
    areas = component_areas(pieces, label_runs(pieces))
    return SlideFacts(
        sample=sample,
        shape_hw=runs.shape_hw,
        mask_fraction=runs.area / (runs.shape_hw[0] * runs.shape_hw[1]),
        objects=len(areas),
        object_area_px=float(np.median(areas)) if len(areas) else float("nan"),
        border_labelled=_border_labelled(runs),
        continuity=line_continuity(runs),
        extent_yx=_extent(pieces),
        enclosed=_enclosed(pieces),
        digest=zlib.crc32(runs.lengths.tobytes(), zlib.crc32(runs.starts.tobytes())) if len(areas) else 0,
    )


def with_objects(fact: SlideFacts, objects: Objects) -> SlideFacts:
    """Facts whose objects are those that people labelled one by one, and not connected pieces: objects may touch."""
    areas = objects.areas[objects.areas > 0]
    median = float(np.median(areas)) if len(areas) else float("nan")
    return replace(fact, objects=len(areas), object_area_px=median, object_areas_px=areas)


def _extent(pieces: Runs) -> tuple[float, float]:
    """Where runs of single lines end, as shares of height and width."""
    if len(pieces) == 0:
        return float("nan"), float("nan")
    length, (height, width) = pieces.line_length, pieces.shape_hw
    along = float((pieces.starts % length + pieces.lengths).max()) / length
    across = float(pieces.starts.max() // length + 1) / (height * width // length)
    return (along, across) if pieces.order == "F" else (across, along)


def _enclosed(pieces: Runs) -> float:
    """Background within thin lines over the lines' area, as where outlines were drawn and not filled."""
    if len(pieces) == 0 or np.median(pieces.lengths) > _THIN_PX:
        return 0.0
    return (fill_holes(pieces, math.inf).area - pieces.area) / pieces.area


def _border_labelled(runs: Runs) -> float:
    """Labelled share of the first and last rows and columns."""
    (height, width), everything = runs.shape_hw, slice(None)
    sides = [(slice(row, row + 1), everything) for row in (0, height - 1)]
    sides += [(everything, slice(column, column + 1)) for column in (0, width - 1)]
    return float(np.concatenate([runs.to_window(*side).ravel() for side in sides]).mean())


def slide_facts(sample: Sample, slide: Slide, runs: Runs) -> SlideFacts:
    """What is known from slide and labels; every pixel of the slide is decoded.

    Args:
        sample: What the tables say.
        slide: The opened image.
        runs: Its labels, of the slide's size.

    Raises:
        ImageError: If the slide cannot be decoded.
    """
    image_HWC, mask_HW = thumbnail(slide, runs, OUTSIDE_SIDE)
    outside_HW = outside_mask(image_HWC, mask_HW)
    small_hw = fitting_shape(slide.shape_hw, FIT_SIDE)
    small_HWC = cv2.resize(image_HWC, dsize=small_hw[::-1], interpolation=cv2.INTER_AREA)
    small_HW = small_mask(runs, small_hw)
    other_HW = small_mask(other_order(runs), small_hw)
    glass_HW = cv2.resize(outside_HW.astype(np.uint8), dsize=small_hw[::-1], interpolation=cv2.INTER_NEAREST) > 0
    inside_lab, outside_lab = _mean_colours(small_HWC, small_HW)
    return replace(
        label_facts(sample, runs),
        blank_fraction=float(1 - tissue_mask(image_HWC).mean()),
        brightest=float(image_HWC.max()),
        blank_labelled=float((outside_HW & mask_HW).mean()),
        inside_lab=inside_lab,
        outside_lab=outside_lab,
        focus=_focus(slide),
        fit=fit_labels(small_HWC, small_HW, other_HW, glass_HW),
        fingerprint=fingerprint(image_HWC),
    )


def _mean_colours(
    image_HWC: np.ndarray, mask_HW: np.ndarray
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean CIE L*, a*, b* of the tissue inside and outside the labels; NaN where there is none."""
    lab_HWC = cv2.cvtColor(image_HWC.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    tissue_HW = tissue_mask(image_HWC)
    means = []
    for part_HW in (tissue_HW & mask_HW, tissue_HW & ~mask_HW):
        mean = lab_HWC[part_HW].mean(axis=0) if part_HW.any() else np.full(3, np.nan)
        means.append((float(mean[0]), float(mean[1]), float(mean[2])))
    return means[0], means[1]


def _focus(slide: Slide) -> float:
    """Median sharpness of some tiles of tissue at the slide's own resolution; NaN where none shows tissue."""
    sharpness = []
    for y in _tile_starts(slide.shape_hw[0]):
        for x in _tile_starts(slide.shape_hw[1]):
            bottom, right = min(y + FOCUS_TILE, slide.shape_hw[0]), min(x + FOCUS_TILE, slide.shape_hw[1])
            tile_HWC = slide.read(slice(y, bottom), slice(x, right))
            if tissue_mask(tile_HWC).mean() >= _LEAST_FOCUS_TISSUE:
                grey_HW = cv2.cvtColor(tile_HWC, cv2.COLOR_RGB2GRAY).astype(np.float32)
                spread = float(grey_HW.std())
                sharpness.append(float(cv2.Laplacian(grey_HW, cv2.CV_32F).std()) / spread if spread > 0 else 0.0)
    return float(np.median(sharpness)) if sharpness else float("nan")


def _tile_starts(length: int) -> list[int]:
    """First pixels of tiles spread evenly over an axis."""
    last = max(0, length - FOCUS_TILE)
    return sorted({last * (2 * tile + 1) // (2 * _FOCUS_TILES) for tile in range(_FOCUS_TILES)})
