"""Augmentation that depends on (seed, epoch, position) alone, never on workers."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np

from histoseg.core.stain import stain_jitter_map
from histoseg.schema.experiment import AugmentConfig


class Augmenter:
    """Turns a tile and its mask into a training example, reproducibly."""

    def __init__(self, config: AugmentConfig, size: int) -> None:
        """Build the pipeline.

        Args:
            config: Probabilities and strengths.
            size: Side of the tiles; the examples have `config.crop` pixels where that is set and smaller.
        """
        self.size = min(config.crop or size, size)
        self._config = config
        self._compose = _build_compose(config, self.size)

    def __call__(
        self, image_HWC: np.ndarray, mask_HW: np.ndarray, key: tuple[int, int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment one example.

        Args:
            image_HWC: uint8 tile.
            mask_HW: uint8 mask, 0 or 1.
            key: (seed, epoch, position): the same key always gives the same result.

        Returns:
            uint8 image (size, size, 3) and uint8 mask (size, size), both C-contiguous.
        """
        generator = np.random.default_rng(key)
        # albumentations would draw the same numbers in every worker and epoch; its seed is set for each example.
        self._compose.set_random_seed(int(generator.integers(2**31)))
        result = self._compose(image=image_HWC, mask=mask_HW)
        image_HWC = result["image"]
        if generator.random() < self._config.hed:
            image_HWC = jitter_stains(image_HWC, self._config.hed_strength, generator)
        return np.ascontiguousarray(image_HWC), np.ascontiguousarray(result["mask"])


def _build_compose(config: AugmentConfig, size: int) -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks PyPI for its version at import
    import albumentations as A

    jitter = config.colour_strength
    return A.Compose(
        [
            # Scaling and turning first, so that what the crop cuts off hides the reflected border.
            A.Affine(
                scale=(1 - config.scale, 1 + config.scale),
                rotate=(-config.rotate, config.rotate),
                shear=(-5, 5),
                interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_NEAREST,
                border_mode=cv2.BORDER_REFLECT_101,
                p=config.affine,
            ),
            A.RandomCrop(size, size),
            A.HorizontalFlip(p=config.flip),
            A.VerticalFlip(p=config.flip),
            A.RandomRotate90(p=config.rotate90),
            A.OneOf([A.Sharpen(p=1.0), A.GaussianBlur(blur_limit=(3, 5), p=1.0)], p=config.sharpness),
            A.ColorJitter(
                brightness=(1 - jitter, 1 + jitter),
                contrast=(1 - jitter, 1 + jitter),
                saturation=(1 - jitter, 1 + jitter),
                hue=(-jitter / 8, jitter / 8),
                p=config.colour,
            ),
        ]
    )


def jitter_stains(image_HWC: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Scale and shift the amounts of haematoxylin, eosin and DAB; uint8 in, uint8 out.

    The logarithm is a table of 256 values and the three stains one affine map, so that it costs one pass.
    """
    scales = 1 + generator.uniform(-strength, strength, 3)
    shifts = generator.uniform(-strength, strength, 3)
    matrix, offset = stain_jitter_map(scales, shifts)
    densities = _DENSITY_OF_VALUE[image_HWC]
    affine = np.hstack([matrix.T, offset[:, None]]).astype(np.float32)
    jittered = cv2.transform(densities, affine)
    values = cv2.exp(-jittered) * 256 - 1
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


_DENSITY_OF_VALUE = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
