"""How slides are predicted: settings of an experiment that travel with the weights, and test-time views by name.

hflip              mirrored
identity@0.8       the image 0.8 times as large
rot90@1.25~h1.1e0.9    turned, 1.25 times as large, with 1.1 times the haematoxylin and 0.9 times the other stain
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

NETWORK_MULTIPLE = 32
"""Sides of tiles are multiples of it, for the five halvings of an encoder."""
VIEW_NAMES = ("identity", "hflip", "vflip", "rot180", "transpose", "rot90", "rot270", "antitranspose")
"""The eight symmetries of the square."""
VIEW_FORM = re.compile(r"([a-z0-9]+)(?:@(\d+(?:\.\d+)?))?(?:~h(\d+(?:\.\d+)?)e(\d+(?:\.\d+)?))?")
ZOOM_RANGE = (0.25, 4.0)
STAIN_RANGE = (0.25, 4.0)


@dataclass(frozen=True)
class View:
    """What one view does to an image."""

    square: str = "identity"
    """Symmetry of the square."""
    zoom: float = 1.0
    """Pixels of the view for a pixel of the network's usual scale."""
    stain: tuple[float, float] = (1.0, 1.0)
    """Factors of the amounts of haematoxylin and of the second stain (eosin, and DAB alike)."""


def parse_view(name: str) -> View:
    """The view of a name.

    Raises:
        ValueError: If it is none; the message gives the form.
    """
    found = VIEW_FORM.fullmatch(name)
    if found is None or not _is_view(name):
        raise ValueError(f"unknown view {name!r}: a symmetry of the square, NAME@0.8 (zoom) or NAME~h1.1e0.9 (stain)")
    stain = float(found[3] or 1), float(found[4] or 1)
    view = View(found[1], float(found[2] or 1), stain)
    for value, (low, high) in ((view.zoom, ZOOM_RANGE), (stain[0], STAIN_RANGE), (stain[1], STAIN_RANGE)):
        if not low <= value <= high:
            raise ValueError(f"view {name!r}: {value} must lie in [{low}, {high}]")
    return view


def _is_view(name: str) -> bool:
    found = VIEW_FORM.fullmatch(name)
    return found is not None and found[1] in VIEW_NAMES


def check_views(views: Sequence[str]) -> None:
    """Refuse unknown, repeated and no views.

    Raises:
        ValueError: Naming the known views.
    """
    unknown = [name for name in views if not _is_view(name)]
    if unknown:
        known = ", ".join(VIEW_NAMES)
        raise ValueError(f"unknown views {unknown}: known are {known}, each also as NAME@0.8 (zoom) or NAME~h1.1e0.9")
    parsed = [parse_view(view) for view in views]
    if len(set(parsed)) < len(parsed):
        raise ValueError(f"views {tuple(views)} repeat one: a repeated view only costs time")
    if not views:
        raise ValueError("views must not be empty: write at least identity")


def views_by_zoom(views: Sequence[str]) -> dict[float, tuple[str, ...]]:
    """The views of each zoom, zooms in the order of their first view."""
    groups: dict[float, tuple[str, ...]] = {}
    for name in views:
        zoom = parse_view(name).zoom
        groups[zoom] = (*groups.get(zoom, ()), name)
    return groups


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """How slides are predicted: in validation, out-of-fold and, through the manifest, in the kernel.

    A mask is cleaned after the threshold in the order hysteresis, holes, small components.
    """

    tile: int = 0
    """Tile side in network pixels (physical mode), of a shorter image its own, up to the next multiple of 32. 0: as
    large as what the network was trained on, `augment.crop` or else `tiles.size`, and at least four times the halo."""
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
        if self.halo < 0:
            raise ValueError(f"halo={self.halo} must not be negative")
        if self.tile:  # else it is checked where it is decided
            self.check_tile()
        if self.batch < 1:
            raise ValueError(f"batch={self.batch} must be at least 1")
        for name in ("max_hole_um2", "min_area_um2"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be a finite number, 0 (off) or more")
        if not 0 <= self.seed_threshold < 1:
            raise ValueError(f"seed_threshold={self.seed_threshold} must be a probability below 1, or 0 (off)")
        check_views(self.views)

    def check_tile(self) -> None:
        """Refuse a tile that no network takes, and a halo or a stride that leaves gaps.

        Raises:
            ValueError: Naming the rule.
        """
        if self.tile < NETWORK_MULTIPLE or self.tile % NETWORK_MULTIPLE:
            raise ValueError(f"tile={self.tile} must be a multiple of 32, for the encoder's five halvings")
        if self.tile <= 2 * self.halo:
            raise ValueError(f"tile={self.tile} px must exceed twice the halo ({self.halo} px)")
        largest = self.tile if self.blend else self.tile - 2 * self.halo
        if not 0 <= self.stride <= largest:
            raise ValueError(f"stride={self.stride} must lie in [1, {largest}], or be 0 for the default")
