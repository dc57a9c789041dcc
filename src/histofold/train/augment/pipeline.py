"""Augmentation that depends on the key of an example alone, never on workers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import albumentations as A
import numpy as np

from histofold.data.tiles.files import reflected
from histofold.schema.augment import AugmentConfig
from histofold.train.augment.own import OwnPipeline
from histofold.train.augment.stain import ColourTemplates
from histofold.train.augment.steps import Preset


class Augmented(NamedTuple):
    """A training example."""

    image_HWC: np.ndarray  # noqa: N815
    """uint8 (S, S, C), C-contiguous."""
    mask_HW: np.ndarray  # noqa: N815
    """uint8 or uint16 (S, S), C-contiguous: the mask's values, bits or labels, as they were, at other places."""
    log_zoom: float
    """Natural logarithm of the pixel size shown over the tile's own: -ln z where structures are z times as large."""


class Augmenter:
    """Turns a tile and its mask into a training example, reproducibly."""

    def __init__(
        self, config: AugmentConfig, size: int, templates: Sequence[ColourTemplates] = (), *, labels: bool = False
    ) -> None:
        """Build the pipeline.

        Args:
            config: Probabilities and strengths; what is not given is as its preset says.
            size: Side of the tiles; the examples have `config.crop` pixels where that is set and smaller.
            templates: Colours of the training tiles, where `config.stain_template` is above 0.
            labels: Whether masks hold labels of objects, uint16, instead of bits.

        Raises:
            ValueError: If templates are wanted and there are none.
        """
        config = config.resolved()
        if config.stain_template > 0 and not templates:
            raise ValueError(
                f"stain_template={config.stain_template} needs the colours of the training tiles: fit templates, "
                "or set it to 0 where all tiles are blank"
            )
        self.size = min(config.crop or size, size)
        self._own = OwnPipeline(config.pipeline, self.size, labels) if config.pipeline else None
        steps = [Preset(config, self.size, templates), *([self._own.compose] if self._own else [])]
        self._compose = A.Compose(steps, is_check_shapes=False)

    def __call__(self, image_HWC: np.ndarray, mask_HW: np.ndarray, key: tuple[int, ...]) -> Augmented:
        """Augment one example.

        Args:
            image_HWC: uint8 tile; reflected where it is smaller than the example.
            mask_HW: uint8 mask of any values, or uint16 labels.
            key: Non-negative numbers, (seed, epoch, position): the same key always gives the same result.
        """
        # Not by a seed, which albumentations would hand to each step alike: all of one probability would go together.
        self._compose.set_random_state(np.random.default_rng(key), random.Random(repr(key)))
        image_HWC, mask_HW = reflected(image_HWC, self.size), reflected(mask_HW, self.size)
        example = self._compose(image=image_HWC, mask=mask_HW, log_zoom=0.0)
        if self._own:
            self._own.refuse_changed_kind(example, (self.size, self.size, image_HWC.shape[2]), mask_HW)
        return Augmented(
            np.ascontiguousarray(example["image"]), np.ascontiguousarray(example["mask"]), example["log_zoom"]
        )
