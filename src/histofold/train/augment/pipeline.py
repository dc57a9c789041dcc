"""Augmentation that depends on the key of an example alone, never on workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from histofold.schema.augment import AugmentConfig
from histofold.train.augment.geometry import ExampleDraws, move_tile
from histofold.train.augment.pixels import (
    add_noise,
    change_thickness,
    compress_jpeg,
    cut_out,
    equalise_locally,
    jitter_colours,
    jitter_stains,
    lose_detail,
    sharpen_or_blur,
    show_grey,
)
from histofold.train.augment.stain import ColourTemplates, shift_to_template, transfer_stain

STAIN_TRANSFER_STRENGTH = 1.0
"""How far transferred stains stray from the tile's own, 0 to 1."""
THICKNESS_RATIO = 2.0
"""Largest factor of the section's thickness, to either side; drawn log-uniformly."""
CLAHE_LIMIT = 3.0
"""Largest gain of contrast where neighbourhoods are equalised."""
DETAIL_RATIO = 3.0
"""Largest factor of the pixel size that detail is lost to; drawn log-uniformly."""
NOISE_STRENGTH = 0.04
"""Largest standard deviation of a camera's noise, as a share of white."""
CUTOUT_AREA = 0.15
"""Largest share of the tile that cutout's rectangles cover together."""


class Augmented(NamedTuple):
    """A training example."""

    image_HWC: np.ndarray  # noqa: N815
    """uint8 (S, S, 3), C-contiguous."""
    bits_HW: np.ndarray  # noqa: N815
    """uint8 (S, S), C-contiguous: the mask's values as they were, at other places."""
    log_zoom: float
    """Natural logarithm of the pixel size shown over the tile's own: -ln z where structures are z times as large."""


class Augmenter:
    """Turns a tile and its mask into a training example, reproducibly."""

    def __init__(self, config: AugmentConfig, size: int, templates: Sequence[ColourTemplates] = ()) -> None:
        """Build the pipeline.

        Args:
            config: Probabilities and strengths; what is not given is as its preset says.
            size: Side of the tiles; the examples have `config.crop` pixels where that is set and smaller.
            templates: Colours of the training tiles, where `config.stain_template` is above 0.

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
        self._config = config
        self._changes = _pixel_changes(config, tuple(templates))

    def __call__(self, image_HWC: np.ndarray, bits_HW: np.ndarray, key: tuple[int, ...]) -> Augmented:
        """Augment one example.

        Args:
            image_HWC: uint8 tile.
            bits_HW: uint8 mask of any values.
            key: Non-negative numbers, (seed, epoch, position): the same key always gives the same result.
        """
        draws = ExampleDraws(key)
        image_HWC, bits_HW, log_zoom = move_tile(image_HWC, bits_HW, self.size, self._config, draws)
        for step, change in self._changes:
            if (generator := draws.of(step, getattr(self._config, step))) is not None:
                image_HWC = change(image_HWC, generator=generator)
        return Augmented(np.ascontiguousarray(image_HWC), np.ascontiguousarray(bits_HW), log_zoom)


def _pixel_changes(
    config: AugmentConfig, templates: tuple[ColourTemplates, ...]
) -> tuple[tuple[str, Callable[..., np.ndarray]], ...]:
    """What changes grey levels, by the name of its probability, in the order of slide, stain, optics and camera."""
    assert config.colour_strength is not None
    assert config.hed_strength is not None
    return (
        ("sharpness", sharpen_or_blur),
        ("colour", partial(jitter_colours, strength=config.colour_strength)),
        ("hed", partial(jitter_stains, strength=config.hed_strength)),
        ("stain_transfer", partial(transfer_stain, strength=STAIN_TRANSFER_STRENGTH)),
        ("stain_template", partial(shift_to_template, templates=templates, spread=config.stain_template_spread)),
        ("thickness", partial(change_thickness, ratio=THICKNESS_RATIO)),
        ("grey", show_grey),
        ("clahe", partial(equalise_locally, limit=CLAHE_LIMIT)),
        ("detail", partial(lose_detail, ratio=DETAIL_RATIO)),
        ("noise", partial(add_noise, strength=NOISE_STRENGTH)),
        ("jpeg", partial(compress_jpeg, quality=config.jpeg_quality)),
        ("cutout", partial(cut_out, area=CUTOUT_AREA)),
    )
