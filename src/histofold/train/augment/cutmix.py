"""CutMix within an organ: a rectangle of one training example replaced by that of another.

After Yun et al., CutMix, arXiv:1905.04899, with two differences that segmentation asks for: the mask is cut like the
image, so that no label has to be mixed, and the other tile shows the same organ, so that the organ stays true. It comes
from another slide, since a neighbour on the same slide shows the same stain and often the same pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CUTMIX_AREA = 0.5
"""Largest share of an example that is replaced."""
_OWN_STREAM = 1
"""A fourth number after (seed, epoch, position) keeps these draws apart from those of the augmentation."""


class Cut(NamedTuple):
    """What replaces a piece of an example."""

    partner: int
    """The tile that it is taken from."""
    key: tuple[int, int, int]
    """The key that the partner is augmented with."""
    y: slice
    """Rows of the rectangle, in both examples."""
    x: slice
    """Columns of it."""


class CutMix:
    """Draws partners and rectangles; a draw depends on the tile and its key alone, never on workers.

    Tiles without an organ are left alone where others have one; where none has one, all show the same.
    """

    def __init__(
        self, organs: Sequence[str], slides: Sequence[str], *, probability: float, area: float = CUTMIX_AREA
    ) -> None:
        """Prepare.

        Args:
            organs: Organ of each tile of the training fold, empty where it is unknown.
            slides: Id of the slide of each tile.
            probability: Share of the examples that are cut, among those that have a partner.
            area: Largest share of an example that is replaced, 0 to 1.
        """
        self._probability, self._area = probability, area
        names, organ_N = np.unique(np.asarray(organs, dtype=str), return_inverse=True)
        _, slide_N = np.unique(np.asarray(slides, dtype=str), return_inverse=True)
        # Sorted by organ and then slide, so that the partners of a tile are a stretch around that of its own slide.
        self._order = np.lexsort((slide_N, organ_N))
        self._organ_spans = _spans(organ_N, self._order)
        self._slide_spans = _spans(organ_N * (len(organs) + 1) + slide_N, self._order)
        self._partners = np.diff(self._organ_spans)[:, 0] - np.diff(self._slide_spans)[:, 0]
        if len(names) > 1:
            self._partners[names[organ_N] == ""] = 0

    @property
    def tiles_with_partner(self) -> int:
        """Number of tiles of whose organ another slide has tiles too."""
        return int((self._partners > 0).sum())

    def draw(self, tile: int, key: tuple[int, int, int], shape_hw: tuple[int, int]) -> Cut | None:
        """What replaces a piece of an example.

        Args:
            tile: The example's tile.
            key: (seed, epoch, position) of the example.
            shape_hw: Height and width of the augmented examples.

        Returns:
            The cut, None where the example stays whole: by chance, or since its organ has no other slide.
        """
        generator = np.random.default_rng((*key, _OWN_STREAM))
        if not self._partners[tile] or generator.random() >= self._probability:
            return None
        partner = self._partner(tile, int(generator.integers(self._partners[tile])))
        own_key = (int(generator.integers(2**63)), *key[1:])
        # Both sides shrink alike, as in the paper; the rectangle lies inside whole, so that its area is as drawn.
        ratio = float(np.sqrt(generator.uniform(0, self._area)))
        y, x = (_place(side, max(1, round(side * ratio)), generator) for side in shape_hw)
        return Cut(partner, own_key, y, x)

    def _partner(self, tile: int, number: int) -> int:
        """The partner of a number among the tiles of the same organ on other slides."""
        place = self._organ_spans[tile, 0] + number
        start, stop = self._slide_spans[tile]
        return int(self._order[place + (stop - start if place >= start else 0)])


def _place(side: int, length: int, generator: np.random.Generator) -> slice:
    """A stretch of a length somewhere within a side."""
    start = int(generator.integers(side - length + 1))
    return slice(start, start + length)


def _spans(codes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Where each tile's equals begin and end in a sorted order, int64 (number of tiles, 2)."""
    ordered = codes[order]
    spans = np.empty((len(codes), 2), np.int64)
    spans[order, 0] = np.searchsorted(ordered, ordered, side="left")
    spans[order, 1] = np.searchsorted(ordered, ordered, side="right")
    return spans
