"""Chances and numbers of one example that depend on its key alone."""

from __future__ import annotations

import numpy as np

AUGMENT_STEPS = (
    "crop",
    "hflip",
    "vflip",
    "rotate90",
    "affine",
    "pixel_size",
    "elastic",
    "grid",
    "sharpness",
    "colour",
    "hed",
    "stain_transfer",
    "stain_template",
    "thickness",
    "grey",
    "clahe",
    "detail",
    "noise",
    "jpeg",
    "cutout",
)
"""A step's place here is part of its seed: new ones come last, so that the draws of the others stay."""


class ExampleDraws:
    """The randomness of one example; each step has a stream of its own, so that none disturbs another's numbers."""

    def __init__(self, key: tuple[int, ...]) -> None:
        """Prepare.

        Args:
            key: Non-negative numbers that identify the example, such as (seed, epoch, position).
        """
        self._key = key
        self._chances = np.random.default_rng(key).random(len(AUGMENT_STEPS))

    def of(self, step: str, probability: float | None) -> np.random.Generator | None:
        """The stream of a step where it happens, else None.

        Args:
            step: Of `AUGMENT_STEPS`.
            probability: Of its happening, 0 to 1, of settings whose fields are all given.
        """
        assert probability is not None, "the settings must be resolved"
        place = AUGMENT_STEPS.index(step)
        if self._chances[place] >= probability:
            return None
        return np.random.default_rng(np.random.SeedSequence(self._key, spawn_key=(place,)))
