"""Test-time views by name: a symmetry of the square, a zoom, a change of stain, or several of them at once.

hflip              mirrored
identity@0.8       the image 0.8 times as large
rot90@1.25~h1.1e0.9    turned, 1.25 times as large, with 1.1 times the haematoxylin and 0.9 times the other stain
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

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
