"""A tiny folder of images and masks: pink discs on a pale ground, for the `folder` competition."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def make_blobs_folder(root: Path, n: int, seed: int = 0) -> list[str]:
    """Write images/blobNN.png (RGB) and masks/blobNN.png (0 or 255) of 96 to 128 pixels a side, H != W; their names."""
    names = [f"blob{index:02d}" for index in range(n)]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        image_HWC, mask_HW = draw_blobs(np.random.default_rng([seed, index]))
        cv2.imwrite(str(root / "images" / f"{name}.png"), image_HWC[..., ::-1])
        cv2.imwrite(str(root / "masks" / f"{name}.png"), mask_HW)
    return names


def draw_blobs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) uint8 RGB and its mask (H, W) uint8, 0 or 255; at least two blobs."""
    height, width = int(rng.integers(96, 112)), int(rng.integers(113, 129))
    mask_HW = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(2, 6))):
        y, x = (int(value) for value in rng.uniform(0.15, 0.85, 2) * (height, width))
        cv2.circle(mask_HW, (x, y), int(rng.integers(8, 18)), 255, -1)
    soft_HW1 = cv2.GaussianBlur(mask_HW / 255, (0, 0), 0.8)[..., np.newaxis]
    ground, blob = np.array([232, 214, 226]), np.array([168, 84, 150])
    image_HWC = ground + soft_HW1 * (blob - ground) + rng.normal(0, 6, (height, width, 1))
    return np.clip(np.rint(image_HWC), 0, 255).astype(np.uint8), mask_HW
