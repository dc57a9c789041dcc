"""How slides are predicted: settings of an experiment that travel with the weights, in their manifest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from histofold.schema.views import check_views


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """How slides are predicted: in validation, out-of-fold and, through the manifest, in the kernel.

    A mask is cleaned after the threshold in the order hysteresis, holes, small components.
    """

    tile: int = 512
    """Tile side in network pixels (physical mode)."""
    halo: int = 32
    """Network pixels on each side that are read but not written."""
    blend: bool = False
    """Blend overlapping tiles by a smooth weight instead of cutting at the halo."""
    stride: int = 0
    """Distance of tile origins; 0 means tile less twice the halo, or half a tile when blending."""
    views: tuple[str, ...] = ("identity", "hflip", "vflip", "rot180")
    """Views that are averaged: symmetries of the square, each also zoomed (hflip@0.8) or restained (hflip~h1.1e0.9)."""
    average: Literal["probabilities", "logits"] = "probabilities"
    """What members and views are averaged in."""
    skip_blank: bool = False
    """Leave tiles out that show nothing but bare glass; their probability is 0. Refused by `evaluate` where that costs
    truth."""
    batch: int = 4
    """Tiles of a forward pass."""
    min_area_um2: float = 0.0
    """Components below so many square micrometres are dropped; without a pixel size nothing is dropped."""
    max_hole_um2: float = 0.0
    """Holes of at most so many square micrometres are filled."""
    seed_threshold: float = 0.0
    """Hysteresis: a component is kept only where a pixel of it reaches this probability; 0 switches it off."""

    def __post_init__(self) -> None:
        if self.tile < 32 or self.tile % 32:
            raise ValueError(f"tile={self.tile} must be a multiple of 32, for the encoder's five halvings")
        if self.halo < 0 or self.tile <= 2 * self.halo:
            raise ValueError(f"tile={self.tile} px must exceed twice the halo ({self.halo} px)")
        largest = self.tile if self.blend else self.tile - 2 * self.halo
        if not 0 <= self.stride <= largest:
            raise ValueError(f"stride={self.stride} must lie in [1, {largest}], or be 0 for the default")
        if self.batch < 1:
            raise ValueError(f"batch={self.batch} must be at least 1")
        for name in ("max_hole_um2", "min_area_um2"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be a finite number, 0 (off) or more")
        if not 0 <= self.seed_threshold < 1:
            raise ValueError(f"seed_threshold={self.seed_threshold} must be a probability below 1, or 0 (off)")
        check_views(self.views)
