"""What is laid over a picture of a slide, as small PNG files that let it through: truth, probabilities and errors."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib import colormaps
from PIL import Image

from histofold.report.pictures.overlays import FALSE_RGB, MISSED_RGB, PREDICTION_RGB, TRUTH_RGB

_CASING = (24, 24, 32, 255)
_CLEAR = (0, 0, 0, 0)
_FILL, _ERROR_FILL, _LINE = 40, 150, 255  # opacities
_COLOUR_MAP = "cividis"
"""Even to the eye, and the same to all colour blind people (Nunez et al., PLoS ONE 13(7), 2018)."""


class Layers(NamedTuple):
    """PNG files of the size of a picture."""

    truth: bytes
    """The truth, outlined and lightly filled."""
    probability: bytes | None
    """Probabilities, which cover the picture; None where they are not known."""
    errors: bytes
    """The mask outlined, what it misses and what it finds falsely filled."""


def slide_layers(truth_HW: np.ndarray, mask_HW: np.ndarray, levels_HW: np.ndarray | None, levels: int) -> Layers:
    """The layers of a slide.

    Args:
        truth_HW: The truth at the size of the picture, bool (h, w).
        mask_HW: What was found, bool (h, w).
        levels_HW: Steps of the probability of each pixel, uint8 (h, w).
        levels: The highest step.
    """
    probability = None
    if levels_HW is not None:
        probability = indexed_png(levels_HW, probability_colours(levels))
    index_HW = np.zeros(truth_HW.shape, np.uint8)
    index_HW[truth_HW & ~mask_HW], index_HW[mask_HW & ~truth_HW] = 1, 2
    colours = [_CLEAR, (*MISSED_RGB, _ERROR_FILL), (*FALSE_RGB, _ERROR_FILL), _CASING, (*PREDICTION_RGB, _LINE)]
    errors = indexed_png(_outlined(index_HW, mask_HW, 3), colours)
    outlined_HW = _outlined(truth_HW.astype(np.uint8), truth_HW, 2)
    truth = indexed_png(outlined_HW, [_CLEAR, (*TRUTH_RGB, _FILL), _CASING, (*TRUTH_RGB, _LINE)])
    return Layers(truth, probability, errors)


def probability_colours(levels: int) -> list[tuple[int, int, int, int]]:
    """The colour of each step of a probability, from 0 to `levels`."""
    rgb_P3 = np.rint(colormaps[_COLOUR_MAP](np.arange(levels + 1) / levels)[:, :3] * 255).astype(int)
    return [(*colour, 255) for colour in rgb_P3.tolist()]


def _outlined(index_HW: np.ndarray, mask_HW: np.ndarray, casing: int) -> np.ndarray:
    """Indices with the inner edge of a mask as `casing` + 1, and a dark line around it as `casing`."""
    mask_u8 = mask_HW.astype(np.uint8)
    square = np.ones((3, 3), np.uint8)
    index_HW = index_HW.copy()
    index_HW[(cv2.dilate(mask_u8, square) > 0) & ~mask_HW] = casing
    # Beyond the picture's border lies more of the mask, as far as anybody knows: no line is drawn along it.
    index_HW[mask_HW & (cv2.erode(mask_u8, square, iterations=2) == 0)] = casing + 1
    return index_HW


def indexed_png(index_HW: np.ndarray, colours: Sequence[tuple[int, int, int, int]]) -> bytes:
    """A picture of few colours as the bytes of a PNG file.

    Args:
        index_HW: Place of each pixel's colour, uint8 (h, w).
        colours: Red, green, blue and opacity, 0-255 each.
    """
    image = Image.frombytes("P", index_HW.shape[::-1], index_HW.tobytes())
    image.putpalette([value for colour in colours for value in colour[:3]])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(colour[3] for colour in colours))
    return buffer.getvalue()
