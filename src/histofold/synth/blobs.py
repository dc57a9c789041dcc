"""A tiny folder of images and masks: pink discs on a pale ground, for the `folder` competition."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from histofold.schema.atomic import write_bytes_atomically
from histofold.synth.drawing.canvas import blob_outline, fractal_noise, paint
from histofold.synth.files import png_bytes


def make_blobs_folder(root: Path, n: int, seed: int = 0) -> list[str]:
    """Write images/blobNN.png (RGB) and masks/blobNN.png (0 or 255) of 96 to 128 pixels a side, H != W.

    Args:
        root: Folder to fill; made if missing.
        n: Count of images, at least 1.
        seed: Same seed, same bytes. Not negative.

    Returns:
        The names without suffix, in order.

    Raises:
        ValueError: `n` or `seed` is too small.
    """
    if n < 1 or seed < 0:
        raise ValueError(f"n={n} must be at least 1 and seed={seed} at least 0")
    names = [f"blob{index:02d}" for index in range(n)]
    for index, name in enumerate(names):
        image_HWC, mask_HW = _draw_blobs(np.random.default_rng(np.random.SeedSequence([seed, index])))
        write_bytes_atomically(root / "images" / f"{name}.png", png_bytes(image_HWC))
        write_bytes_atomically(root / "masks" / f"{name}.png", png_bytes(mask_HW))
    return names


def _draw_blobs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) uint8 RGB and its mask (H, W) uint8, 0 or 255; at least one blob."""
    shape_hw = int(rng.integers(96, 112)), int(rng.integers(113, 129))
    mask = np.zeros(shape_hw, dtype=np.float32)
    for _ in range(int(rng.integers(2, 6))):
        centre = rng.uniform(0.15, 0.85, 2) * shape_hw
        paint(mask, blob_outline(rng, (centre[0], centre[1]), rng.uniform(8, 18), wobble=0.12), 1.0)
    texture = 8 * fractal_noise(rng, shape_hw, 24) + 3 * rng.standard_normal(shape_hw, dtype=np.float32)
    soft = cv2.GaussianBlur(mask, (0, 0), 0.8)[..., None]
    ground, blob = np.array([232, 214, 226], dtype=np.float32), np.array([168, 84, 150], dtype=np.float32)
    image = ground + soft * (blob - ground) + texture[..., None]
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), (mask > 0.5).astype(np.uint8) * 255
