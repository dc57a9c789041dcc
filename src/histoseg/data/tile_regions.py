"""Which region of the anatomy a tile lies in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

Rings = Mapping[str, Sequence[Sequence[Sequence[float]]]]
"""Closed rings [[x, y], ...] in slide pixels of each region's name."""


class RegionMap:
    """The regions of a slide, asked for single points.

    A point lies in a region if an odd number of the region's rings hold it: a ring within a ring is a hole. Of several
    regions that hold it, the one whose ring around it is smallest counts, which is the innermost of nested ones.
    """

    def __init__(self, rings: Rings) -> None:
        shapes = [(name, np.asarray(ring, np.float32)) for name, each in rings.items() for ring in each if len(ring)]
        self._shapes = sorted(shapes, key=lambda shape: cv2.contourArea(shape[1]))

    def region_at(self, y: float, x: float) -> str:
        """Name of the region at a point, in slide pixels; empty where there is none."""
        around = Counter(name for name, ring_N2 in self._shapes if _is_inside(ring_N2, y, x))
        return next((name for name, count in around.items() if count % 2), "")


def _is_inside(ring_N2: np.ndarray, y: float, x: float) -> bool:
    return cv2.pointPolygonTest(ring_N2, (float(x), float(y)), False) >= 0
