"""Which region of the anatomy a tile lies in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

Rings = Mapping[str, Sequence[Sequence[Sequence[float]]]]
"""Closed rings [[x, y], ...] in slide pixels of each region's name."""


class RegionMap:
    """The regions of a slide, asked for single points.

    A point lies in a region if one of the region's rings holds it; of several rings that hold it, the smallest counts,
    which is the innermost where regions are nested.
    """

    def __init__(self, rings: Rings) -> None:
        shapes = [(name, np.asarray(ring, np.float32)) for name, each in rings.items() for ring in each if len(ring)]
        self._shapes = sorted(shapes, key=lambda shape: cv2.contourArea(shape[1]))

    def region_at(self, y: float, x: float) -> str:
        """Name of the region at a point, in slide pixels; empty where there is none."""
        for name, ring_N2 in self._shapes:
            if cv2.pointPolygonTest(ring_N2, (float(x), float(y)), False) >= 0:
                return name
        return ""
