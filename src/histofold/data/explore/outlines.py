"""The host's outlines against its run lengths: where both are given, they should be the same drawing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from histofold.competitions.base import Competition
from histofold.core.faults import InputError
from histofold.core.metrics import dice
from histofold.core.rle.runs import Runs
from histofold.data.thumbnails import fitting_shape, small_mask
from histofold.schema.sample import Sample

POLYGON_SIDE = 1024
"""Longer side at which outlines and run lengths are compared, in pixels."""
_SUBPIXEL_BITS = 4


def polygon_dice(competition: Competition, sample: Sample, runs: Runs) -> float | None:
    """Dice of a sample's run lengths and its outlines; None where it has none.

    Outlines of hubmap_2022 leave holes out, so the run lengths are tried with and without theirs filled.

    Args:
        competition: The adapter; where it has `objects`, these are the outlines.
        sample: The sample.
        runs: Its run lengths.

    Raises:
        InputError: If the outlines cannot be read.
    """
    rings = _sample_rings(competition, sample)
    if not rings:
        return None
    scaled_hw = fitting_shape(runs.shape_hw, POLYGON_SIDE)
    drawn_HW = draw_rings(rings, runs.shape_hw, scaled_hw)
    mask_HW = small_mask(runs, scaled_hw)
    return max(dice(drawn_HW, mask_HW), dice(drawn_HW, _without_holes(mask_HW)))


def draw_rings(rings: list[Any], shape_hw: tuple[int, int], scaled_hw: tuple[int, int]) -> np.ndarray:
    """Outlines filled one by one at another size, bool (h, w).

    Args:
        rings: Each a list of [x, y] in pixels of the slide.
        shape_hw: Size of the slide.
        scaled_hw: Size wanted.
    """
    zoom_xy = np.array([scaled_hw[1] / shape_hw[1], scaled_hw[0] / shape_hw[0]])
    drawn_HW = np.zeros(scaled_hw, np.uint8)
    for ring in rings:
        points_xy = (np.asarray(ring, float) + 0.5) * zoom_xy - 0.5
        fixed = np.rint(points_xy * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(drawn_HW, [fixed[:, np.newaxis]], color=1, shift=_SUBPIXEL_BITS)
    return drawn_HW > 0


def _sample_rings(competition: Competition, sample: Sample) -> list[Any]:
    """All outlines of a sample; none where there is no file."""
    objects = getattr(competition, "object_outlines", None)
    if objects is not None:
        return [ring for rings in objects(sample).values() for ring in rings]
    path = sample.image_path.parent.parent / "train_annotations" / f"{sample.id}.json"
    return _read_rings(path) if path.is_file() else []


def _read_rings(path: Path) -> list[Any]:
    """The rings of a file of hubmap_2022: a list of lists of [x, y].

    Raises:
        InputError: If it holds anything else.
    """
    try:
        rings = json.loads(path.read_text(encoding="utf-8"))
        for ring in rings:
            array = np.asarray(ring, float)
            if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all() or np.abs(array).max() > 2**24:
                raise ValueError("a ring that is no list of [x, y]")
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise InputError(f"{path}: outlines cannot be read ({error})") from error
    return list(rings)


def _without_holes(mask_HW: np.ndarray) -> np.ndarray:
    contours, _ = cv2.findContours(mask_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled_HW = np.zeros(mask_HW.shape, np.uint8)
    cv2.drawContours(filled_HW, contours, -1, color=1, thickness=cv2.FILLED)
    return filled_HW > 0
