"""Outlines as GeoJSON, as QuPath reads it (File > Import objects from file), and how sure the network is of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histofold.core.rle.rings import Component
from histofold.core.rle.runs import Runs
from histofold.schema.files import written_whole
from histofold.schema.preprocessing import has_pixel_size

CLASS_COLOURS = ((255, 205, 0), (0, 229, 255), (255, 72, 0), (0, 158, 115), (204, 121, 167), (0, 98, 255))
"""RGB of each class, in turn."""
_SLAB_PX = 1 << 21  # pixels whose sums are made at once


class ColumnSums:
    """Sums of probabilities down the columns, kept where runs begin and end: enough for the mean of any component.

    Args:
        shape_hw: Height and width of the image.
        cut: The threshold of the mask.
    """

    def __init__(self, shape_hw: tuple[int, int], cut: float) -> None:
        self._height, self._cut, self._rows = shape_hw[0], cut, 0
        self._sums_W = np.zeros(shape_hw[1])
        self._last_W = np.zeros(shape_hw[1], bool)
        self._places: list[np.ndarray] = []
        self._values: list[np.ndarray] = []

    def add(self, probs_HW: np.ndarray) -> None:
        """Take the next rows, float32 (h, W)."""
        step = max(1, _SLAB_PX // probs_HW.shape[1])
        for top in range(0, len(probs_HW), step):
            slab_HW = probs_HW[top : top + step]
            inside_HW = slab_HW >= self._cut
            above_HW = np.concatenate([self._last_W[None], inside_HW[:-1]])
            rows, columns = np.nonzero(inside_HW != above_HW)
            sums_HW = np.concatenate([self._sums_W[None], slab_HW]).cumsum(axis=0)  # float64, as the sums so far
            self._places.append(columns * self._height + self._rows + rows)
            self._values.append(sums_HW[rows, columns])
            self._sums_W, self._last_W = sums_HW[-1].copy(), inside_HW[-1]
            self._rows += len(slab_HW)

    def means(self, components: Sequence[Component]) -> np.ndarray:
        """The mean probability of each component, float64; NaN for one that does not end where the mask does."""
        places = np.concatenate(self._places or [np.zeros(0, np.int64)])
        order = places.argsort(kind="stable")
        self._places, self._values = [places[order]], [np.concatenate(self._values or [np.zeros(0)])[order]]
        return np.array([self._sum(each.pieces) / each.pieces.area for each in components])

    def _sum(self, pieces: Runs) -> float:
        columns, tops = np.divmod(pieces.starts, self._height)
        return float((self._down_to(columns, tops + pieces.lengths) - self._down_to(columns, tops)).sum())

    def _down_to(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The sums of columns above rows where the mask begins or ends; NaN elsewhere."""
        if not len(self._places[0]):
            return np.full(len(rows), np.nan)
        wanted = columns * self._height + rows
        at = self._places[0].searchsorted(wanted).clip(max=len(self._places[0]) - 1)
        found = np.where(self._places[0][at] == wanted, self._values[0][at], np.nan)
        found = np.where(rows >= self._rows, self._sums_W[columns], found)
        return np.where(rows == 0, 0.0, found)


def write_outlines(
    path: Path,
    traced: Sequence[Sequence[Component]],
    means: Sequence[np.ndarray],
    classes: Sequence[str],
    pixel_size_um: float | None,
) -> None:
    """Write the components of an image as annotations of QuPath, each a polygon with holes.

    Args:
        path: The file, which is replaced whole or not at all.
        traced: The components of each class.
        means: Their mean probabilities; one that is NaN is left out.
        classes: Names of the classes.
        pixel_size_um: Pixel size; where it is unknown areas are given in pixels alone.
    """
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write('{"type": "FeatureCollection", "features": [')
        for number, feature in enumerate(outline_features(traced, means, classes, pixel_size_um)):
            stream.write(("," if number else "") + "\n" + json.dumps(feature))
        stream.write("\n]}\n")


def outline_features(
    traced: Sequence[Sequence[Component]],
    means: Sequence[np.ndarray],
    classes: Sequence[str],
    pixel_size_um: float | None,
) -> Iterator[dict[str, Any]]:
    """What `write_outlines` writes, feature by feature, as plain data; the arguments are the same."""
    for place, (components, of_class, name) in enumerate(zip(traced, means, classes, strict=True)):
        classification = {"name": name, "color": CLASS_COLOURS[place % len(CLASS_COLOURS)]}
        for component, mean in zip(components, of_class, strict=True):
            area_px = component.pieces.area
            measured: dict[str, float] = {"area_px": area_px}
            if has_pixel_size(pixel_size_um):
                measured["area_um2"] = round(area_px * float(pixel_size_um or 1) ** 2, 3)
            if not np.isnan(mean):
                measured["probability"] = round(float(mean), 4)
            rings = [ring.tolist() for ring in component.rings]
            yield {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]},
                "properties": {
                    "objectType": "annotation",
                    "classification": classification,
                    "measurements": measured,
                },
            }
