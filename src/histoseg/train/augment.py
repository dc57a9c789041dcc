"""Augmentation that depends on (seed, epoch, position) alone, never on workers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from histoseg.core.stain import DENSITY_OF_VALUE, map_in_bands, stain_jitter_map
from histoseg.schema.experiment import AugmentConfig
from histoseg.train.stain_augment import ColourTemplates, shift_to_template, transfer_stain


class Augmenter:
    """Turns a tile and its mask into a training example, reproducibly."""

    def __init__(self, config: AugmentConfig, size: int, templates: Sequence[ColourTemplates] = ()) -> None:
        """Build the pipeline.

        Args:
            config: Probabilities and strengths.
            size: Side of the tiles; the examples have `config.crop` pixels where that is set and smaller.
            templates: Colours of the training tiles, where `config.stain_template` is above 0.

        Raises:
            ValueError: If templates are wanted and there are none.
        """
        if config.stain_template > 0 and not templates:
            raise ValueError(
                f"stain_template={config.stain_template} needs the colours of the training tiles: fit templates, "
                "or set it to 0 where all tiles are blank"
            )
        self._templates = tuple(templates)
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
        image_HWC = self._restain(image_HWC, generator)
        return np.ascontiguousarray(image_HWC), np.ascontiguousarray(result["mask"])

    def _restain(self, image_HWC: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Other stains, other colours, or none, each at its probability."""
        config = self._config
        if generator.random() < config.stain_transfer:
            image_HWC = transfer_stain(image_HWC, config.stain_transfer_strength, generator)
        if generator.random() < config.stain_template:
            image_HWC = shift_to_template(image_HWC, self._templates, config.stain_template_spread, generator)
        if generator.random() < config.grey:
            image_HWC = cv2.cvtColor(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        return image_HWC


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
    affine = np.hstack([matrix.T, offset[:, None]]).astype(np.float32)

    def jitter(band_HWC: np.ndarray) -> np.ndarray:
        jittered_HWC = cv2.transform(cv2.LUT(band_HWC, DENSITY_OF_VALUE), affine)
        values_HWC = cv2.exp(-jittered_HWC) * 256 - 1
        return np.clip(np.rint(values_HWC), 0, 255).astype(np.uint8)

    return map_in_bands(image_HWC, jitter)
