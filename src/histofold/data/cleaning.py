"""Labels on blank pixels: found where the glass around the tissue is, and taken out of a mask on request.

A lumen or an alveolus is as white as glass and rightly labelled. So only blank regions that reach the border of the
image count, and of those only the ones whose rim of tissue is mostly unlabelled: a lumen that the border cuts has a
labelled wall. And glass is only where a large disc fits, so that a gland that opens to the outside stays whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from tqdm import tqdm

from histofold.core.faults import Fault, ImageError, InputError
from histofold.core.rle.runs import Masks, RunEncoder, Runs, class_runs
from histofold.data.thumbnails import thumbnail
from histofold.imaging.slide import Slide, open_sample
from histofold.imaging.tissue import PADDING_DARKER_THAN, tissue_mask
from histofold.schema.sample import Sample

OUTSIDE_SIDE = 1024
"""Longer side, in pixels, at which the outside is looked for."""
MAX_LABELLED_RIM = 0.5
"""A blank region of whose rim more is labelled is part of the tissue: a lumen at the border."""
MIN_OUTSIDE_SHARE = 0.002
"""Smaller blank regions, as shares of the image, are let be."""
_RIM_SHARE = 0.012  # of the longer side: width of the rim
_BALL_SHARE = 0.1  # of the longer side: only where a disc of this diameter fits is it glass, and not an open lumen
_GLASS_QUANTILE, _GLASS_SPREAD = 0.9, 14.0  # grey levels below the brightest of a blank region that are still glass
_VIGNETTING = 30.0  # grey levels by which the glass of one region may be darker than that of another
_EVEN_SIDE, _EVEN_SPREAD = 9, 5.0  # pixels of the thumbnail, grey levels
_BAND_PIXELS = 1 << 22


def outside_mask(image_HWC: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """Mark the glass (or padding) around the tissue.

    Args:
        image_HWC: The image or a thumbnail of it, uint8 RGB (H, W, 3).
        mask_HW: The labels at that size, (H, W), non-zero = labelled.

    Returns:
        bool (H, W).

    Raises:
        ValueError: If the sizes differ.
    """
    if mask_HW.shape != image_HWC.shape[:2]:
        raise ValueError(f"labels are {mask_HW.shape} and the image is {image_HWC.shape[:2]}: bring them to one size")
    glass_HW = _glass_mask(image_HWC)
    ball = max(1, round(max(glass_HW.shape) * _BALL_SHARE)) | 1
    # Beyond the border there is more of the same: what touches it must not be eroded from there.
    padded = cv2.copyMakeBorder(glass_HW.astype(np.uint8), ball, ball, ball, ball, cv2.BORDER_REPLICATE)
    opened = cv2.morphologyEx(padded, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (ball, ball)))
    opened = np.ascontiguousarray(opened[ball:-ball, ball:-ball])
    _, regions_HW = cv2.connectedComponents(opened, connectivity=4)
    border = np.concatenate([regions_HW[0], regions_HW[-1], regions_HW[:, 0], regions_HW[:, -1]])
    outside_HW = np.zeros(glass_HW.shape, bool)
    for region in np.unique(border[border > 0]):
        region_HW = regions_HW == region
        if region_HW.mean() >= MIN_OUTSIDE_SHARE and _labelled_rim(region_HW, glass_HW, mask_HW) <= MAX_LABELLED_RIM:
            outside_HW |= region_HW
    return outside_HW


def _labelled_rim(region_HW: np.ndarray, glass_HW: np.ndarray, mask_HW: np.ndarray) -> float:
    """Share of the tissue around a blank region that is labelled; 0 where there is none."""
    width = 2 * max(1, round(max(region_HW.shape) * _RIM_SHARE)) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    rim_HW = (cv2.dilate(region_HW.astype(np.uint8), disc) > 0) & ~region_HW & ~glass_HW
    return float((mask_HW[rim_HW] != 0).mean()) if rim_HW.any() else 0.0


def _glass_mask(image_HWC: np.ndarray) -> np.ndarray:
    """Blank pixels of even regions nearly as bright as the brightest, and padding: bool (H, W).

    Pale tissue passes for blank by its colour, but it has structure, or is darker than the glass beside it.
    """
    blank_HW = ~tissue_mask(image_HWC)
    grey_HW = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean_HW = cv2.blur(grey_HW, (_EVEN_SIDE, _EVEN_SIDE))
    variance_HW = cv2.blur(grey_HW * grey_HW, (_EVEN_SIDE, _EVEN_SIDE)) - mean_HW * mean_HW
    even_HW = (variance_HW < _EVEN_SPREAD**2) & blank_HW
    padding_HW = blank_HW & (grey_HW < PADDING_DARKER_THAN)
    bright = grey_HW[even_HW & ~padding_HW]
    if not bright.size:
        return padding_HW
    darkest = float(np.quantile(bright, _GLASS_QUANTILE)) - _VIGNETTING
    levels_HW = _level_by_region(even_HW, grey_HW)
    # The square of a pixel beside tissue reaches into it: widen what is even by that much, at the level beside it.
    levels_HW = cv2.dilate(levels_HW, np.ones((_EVEN_SIDE, _EVEN_SIDE), np.uint8))
    is_glass = (levels_HW > darkest) & (cv2.blur(grey_HW, (3, 3)) > levels_HW - _GLASS_SPREAD)
    return (blank_HW & is_glass) | padding_HW


def _level_by_region(even_HW: np.ndarray, grey_HW: np.ndarray) -> np.ndarray:
    """The brightness of each connected even region, float32 (H, W), 0 elsewhere: glass is not lit evenly all over."""
    count, regions_HW, stats, _ = cv2.connectedComponentsWithStats(even_HW.astype(np.uint8), connectivity=4)
    levels_HW = np.zeros(grey_HW.shape, np.float32)
    for region in range(1, count):
        x, y, width, height, area = stats[region]
        if area >= MIN_OUTSIDE_SHARE / 4 * even_HW.size:
            part = slice(y, y + height), slice(x, x + width)
            inside = regions_HW[part] == region
            levels_HW[part][inside] = np.quantile(grey_HW[part][inside], _GLASS_QUANTILE)
    return levels_HW


def remove_region(runs: Runs, region_HW: np.ndarray) -> Runs:
    """A mask without a region that is given at another size: each pixel asks the region's pixel that it lies in.

    Args:
        runs: The mask.
        region_HW: bool (h, w), of any size; both sizes show the same field.

    Returns:
        Runs of the same order; the mask is decoded in bands only.
    """
    height, width = runs.shape_hw
    rows_H = np.arange(height) * region_HW.shape[0] // height
    columns_W = np.arange(width) * region_HW.shape[1] // width
    step = max(1, _BAND_PIXELS // width)
    encoder = RunEncoder(runs.shape_hw, runs.order, axis="rows")
    for top in range(0, height, step):
        band = slice(top, min(top + step, height))
        encoder.add(runs.to_window(band, slice(0, width)) & ~region_HW[np.ix_(rows_H[band], columns_W)])
    return encoder.runs()


def cleaned_targets(samples: Sequence[Sample], targets: Mapping[str, Masks]) -> dict[str, Masks]:
    """The targets of samples without their labels on the glass around the tissue, each class by itself.

    Args:
        samples: What the targets are of.
        targets: By id.

    Raises:
        InputError: With every slide that cannot be decoded.
    """
    cleaned: dict[str, Masks] = {}
    faults = []
    for sample in tqdm(samples, desc="clean labels", unit="image", dynamic_ncols=True):
        try:
            with open_sample(sample) as slide:
                parts = tuple(clean_blank_labels(slide, runs) for runs in class_runs(targets[sample.id]))
        except ImageError as error:
            faults.append(Fault(sample.id, str(sample.image_path), error.rule, error.remedy))
            continue
        cleaned[sample.id] = parts if isinstance(targets[sample.id], tuple) else parts[0]
    if faults:
        raise InputError(faults)
    return cleaned


def clean_blank_labels(slide: Slide, runs: Runs) -> Runs:
    """A mask without its labels on the glass around the tissue; a mask that would lose everything stays as it is.

    Args:
        slide: The opened image.
        runs: Its labels, or a prediction of it.

    Returns:
        Runs of the same size and order.
    """
    outside_HW = outside_mask(*thumbnail(slide, runs, OUTSIDE_SIDE))
    if not outside_HW.any() or not len(runs):
        return runs
    cleaned = remove_region(runs, outside_HW)
    return cleaned if len(cleaned) else runs
