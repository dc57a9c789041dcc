"""Names of the test-time views, known where settings are checked."""

from __future__ import annotations

from collections.abc import Sequence

VIEW_NAMES = ("identity", "hflip", "vflip", "rot180", "transpose", "rot90", "rot270", "antitranspose")


def check_views(views: Sequence[str]) -> None:
    """Refuse unknown, repeated and no views.

    Raises:
        ValueError: Naming the known views.
    """
    unknown = [view for view in views if view not in VIEW_NAMES]
    if unknown:
        raise ValueError(f"unknown views {unknown}: known are {', '.join(VIEW_NAMES)}")
    if len(set(views)) < len(views):
        raise ValueError(f"views {tuple(views)} repeat one: a repeated view only costs time")
    if not views:
        raise ValueError("views must not be empty: write at least identity")
