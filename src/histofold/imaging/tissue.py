"""Where an image shows tissue and where it is blank.

A pixel is tissue if, after a 5 x 5 mean against noise, it is stained: its saturation (largest less smallest channel,
over the largest) is at least 7 %, or its largest channel is below 190. Glass is near-grey and bright (white, pale grey,
faint green), so it fails both, under H&E, PAS and DAB with haematoxylin alike. Black padding, whose largest channel
stays below 16, is not tissue either: the darkest nuclei are brighter than that. The thresholds are fixed and not fitted
to the image, so that a tile does not depend on what else its slide shows.
"""

from __future__ import annotations

import cv2
import numpy as np

TISSUE_SATURATION_PERCENT = 7
"""Pixels of at least this saturation are stained."""
TISSUE_DARKER_THAN = 190
"""Pixels whose largest channel is smaller are tissue whatever their saturation."""
PADDING_DARKER_THAN = 16
"""Pixels whose largest channel is smaller are padding."""


def tissue_mask(image_HWC: np.ndarray) -> np.ndarray:
    """Mark the pixels of a uint8 RGB image (H, W, 3) that show tissue, bool (H, W).

    Raises:
        ValueError: If the image is not uint8 (H, W, 3).
    """
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
        raise ValueError(f"image is {image_HWC.dtype} {image_HWC.shape}: give uint8 RGB of shape (H, W, 3)")
    if image_HWC.size == 0:
        return np.zeros(image_HWC.shape[:2], bool)
    red_HW, green_HW, blue_HW = cv2.split(cv2.blur(image_HWC, (5, 5)))
    largest_HW = cv2.max(cv2.max(red_HW, green_HW), blue_HW)
    smallest_HW = cv2.min(cv2.min(red_HW, green_HW), blue_HW)
    # (largest - smallest) / largest >= 7 %, as a look-up of the smallest difference for each largest channel
    least = np.array([-(-TISSUE_SATURATION_PERCENT * value // 100) for value in range(256)], np.uint8)
    is_stained = cv2.subtract(largest_HW, smallest_HW) >= cv2.LUT(largest_HW, least)
    mask_HW: np.ndarray = (is_stained | (largest_HW < TISSUE_DARKER_THAN)) & (largest_HW >= PADDING_DARKER_THAN)
    return mask_HW


def tissue_fraction(image_HWC: np.ndarray) -> float:
    """Share of the pixels that show tissue, 0 to 1; 0 for an image without pixels.

    Raises:
        ValueError: If the image is not uint8 (H, W, 3).
    """
    mask_HW = tissue_mask(image_HWC)
    return np.count_nonzero(mask_HW) / mask_HW.size if mask_HW.size else 0.0
