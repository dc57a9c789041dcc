"""Objects of an image of another size."""

from __future__ import annotations

import numpy as np

from histofold.core.objects.instances import ColumnRuns, Objects, unite_runs


def resize_objects(objects: Objects, shape_hw: tuple[int, int]) -> Objects:
    """Objects brought to another size: each pixel is that of the old image in which its middle lies.

    An object may lose all its pixels; it stays in its place, without any.

    Args:
        objects: Objects of an image.
        shape_hw: Height and width of the new image in pixels.
    """
    (height, width), (new_height, new_width) = objects.shape_hw, shape_hw
    if objects.shape_hw == tuple(shape_hw):
        return objects
    columns, rows = np.divmod(objects.starts, height)
    tops, bottoms = (_first_places(places, height, new_height) for places in (rows, rows + objects.lengths))
    lefts, rights = (_first_places(places, width, new_width) for places in (columns, columns + 1))
    copies = np.where(bottoms > tops, rights - lefts, 0)
    befores = np.cumsum(copies) - copies
    runs = ColumnRuns(
        np.repeat(np.repeat(np.arange(len(objects)), np.diff(objects.offsets)), copies),
        np.arange(copies.sum()) + np.repeat(lefts - befores, copies),
        np.repeat(tops, copies),
        np.repeat(bottoms - tops, copies),
    )
    return unite_runs(runs, len(objects), (int(new_height), int(new_width)))


def _first_places(places: np.ndarray, length: int, new_length: int) -> np.ndarray:
    """The first new pixel whose middle lies at or beyond the begin of each old one, in whole numbers."""
    return -((length - 2 * places * new_length) // (2 * length))
