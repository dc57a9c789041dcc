"""Logits as colours."""

from __future__ import annotations

import cv2
import numpy as np
from matplotlib import colormaps

COLOUR_LIMIT = 6.0
"""Logits of this size and beyond have the darkest colours."""


def draw_logits(logits_HW: np.ndarray, shape_hw: tuple[int, int]) -> np.ndarray:
    """Logits in blue (background), white (undecided) and red (structure).

    Args:
        logits_HW: float, any size.
        shape_hw: Height and width of the picture in pixels.

    Returns:
        RGB uint8, (h, w, 3).
    """
    resized_HW = cv2.resize(logits_HW.astype(np.float32), shape_hw[::-1], interpolation=cv2.INTER_LINEAR)
    shares_HW = np.clip((resized_HW / COLOUR_LIMIT + 1) / 2, 0, 1)
    colours_HWC = colormaps["RdBu_r"](shares_HW)[..., :3]
    return np.rint(colours_HWC * 255).astype(np.uint8)
