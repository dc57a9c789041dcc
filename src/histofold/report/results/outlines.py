"""Outlines as GeoJSON, as QuPath reads it (File > Import objects from file), and how sure the network is of each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histofold.core.jit import njit
from histofold.core.rle.rings import Component, trace_components
from histofold.core.rle.runs import Masks, class_runs
from histofold.schema.files import written_whole
from histofold.schema.preprocessing import has_pixel_size

CLASS_COLOURS = ((255, 205, 0), (0, 229, 255), (255, 72, 0), (0, 158, 115), (204, 121, 167), (0, 98, 255))
"""RGB of each class, in turn."""
_SLAB_PX = 1 << 18  # pixels whose sums are made at once


class ColumnSums:
    """Sums of probabilities down the columns, kept where runs begin and end: enough for the mean of any component.

    Places are 32 bits wide: no image that is opened has 2**32 pixels (`MAX_PIXELS` of `imaging/slide`).

    Args:
        shape_hw: Height and width of the image.
        cut: The threshold of the mask.
    """

    def __init__(self, shape_hw: tuple[int, int], cut: float) -> None:
        self._height, self._rows = shape_hw[0], 0
        self._cut = np.float32(cut)  # as numpy compares it with float32, and so the mask
        self._sums_W = np.zeros(shape_hw[1])
        self._last_W = np.zeros(shape_hw[1], bool)
        self._places: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._is_sorted = False

    def add(self, probs_HW: np.ndarray) -> None:
        """Take the next rows, float32 (h, W)."""
        step = max(1, _SLAB_PX // probs_HW.shape[1])
        places, values = np.empty(step * probs_HW.shape[1], np.uint32), np.empty(step * probs_HW.shape[1])
        for top in range(0, len(probs_HW), step):
            slab_HW = np.ascontiguousarray(probs_HW[top : top + step])
            count = _gather_jit(
                slab_HW, self._cut, self._sums_W, self._last_W, self._rows, self._height, places, values
            )
            self._places.append(places[:count].copy())
            self._values.append(values[:count].copy())
            self._rows += len(slab_HW)

    def mean(self, component: Component) -> float | None:
        """The mean probability of a component; None for one that does not begin and end where the mask does."""
        self.sort()
        columns, tops = np.divmod(component.pieces.starts, self._height)
        bottoms = tops + component.pieces.lengths
        total = float((self._down_to(columns, bottoms) - self._down_to(columns, tops)).sum())
        return None if math.isnan(total) else total / component.pieces.area

    def sort(self) -> None:
        """Bring what was kept band by band into the order of columns, once; best before a mask is traced."""
        if not self._is_sorted:
            places, self._places = np.concatenate([np.zeros(0, np.uint32), *self._places]), []
            order = places.argsort(kind="stable")
            self._places = [places[order]]
            values, self._values = np.concatenate([np.zeros(0), *self._values]), []
            self._values = [values[order]]
            self._is_sorted = True

    def _down_to(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The sums of columns above rows where the mask begins or ends; NaN elsewhere."""
        if not len(self._places[0]):
            return np.full(len(rows), np.nan)
        wanted = (columns * self._height + rows).astype(np.uint32)
        at = self._places[0].searchsorted(wanted).clip(max=len(self._places[0]) - 1)
        found = np.where(self._places[0][at] == wanted, self._values[0][at], np.nan)
        found = np.where(rows >= self._rows, self._sums_W[columns], found)
        return np.where(rows == 0, 0.0, found)


@njit
def _gather_jit(
    probs_HW: np.ndarray,
    cut: np.float32,
    sums_W: np.ndarray,
    last_W: np.ndarray,
    first_row: int,
    height: int,
    places: np.ndarray,
    values: np.ndarray,
) -> int:
    """Add rows to the sums of their columns, and keep these where the mask begins or ends; gives how many were kept."""
    count = 0
    for row in range(probs_HW.shape[0]):
        for column in range(probs_HW.shape[1]):
            prob = probs_HW[row, column]
            if (prob >= cut) != last_W[column]:
                last_W[column] = not last_W[column]
                places[count] = column * height + first_row + row
                values[count] = sums_W[column]
                count += 1
            sums_W[column] += prob
    return count


def write_outlines(
    path: Path,
    masks: Masks,
    classes: Sequence[str],
    pixel_size_um: float | None,
    sums: Sequence[ColumnSums] = (),
) -> None:
    """Write the components of an image as annotations of QuPath, each a polygon with holes.

    Args:
        path: The file, which is replaced whole or not at all.
        masks: The mask, or those of each class.
        classes: Names of the classes.
        pixel_size_um: Pixel size; where it is unknown areas are given in pixels alone.
        sums: The probabilities of each class; without them the outlines have none.
    """
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write('{"type": "FeatureCollection", "features": [')
        for number, feature in enumerate(outline_features(masks, classes, pixel_size_um, sums)):
            stream.write(("," if number else "") + "\n" + json.dumps(feature))
        stream.write("\n]}\n")


def outline_features(
    masks: Masks, classes: Sequence[str], pixel_size_um: float | None, sums: Sequence[ColumnSums] = ()
) -> Iterator[dict[str, Any]]:
    """What `write_outlines` writes, feature by feature, as plain data; the arguments are the same."""
    for place, (runs, name) in enumerate(zip(class_runs(masks), classes, strict=True)):
        classification = {"name": name, "color": CLASS_COLOURS[place % len(CLASS_COLOURS)]}
        for each in sums[place : place + 1]:
            each.sort()
        for component in trace_components(runs):
            mean = sums[place].mean(component) if sums else None
            rings = [ring.tolist() for ring in component.rings]
            yield {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]},
                "properties": {
                    "objectType": "annotation",
                    "classification": classification,
                    "measurements": _measured(component, pixel_size_um, mean),
                },
            }


def _measured(component: Component, pixel_size_um: float | None, mean: float | None) -> dict[str, float]:
    area_px = component.pieces.area
    measured: dict[str, float] = {"area_px": area_px}
    if has_pixel_size(pixel_size_um):
        measured["area_um2"] = round(area_px * float(pixel_size_um or 1) ** 2, 3)
    if mean is not None:
        measured["probability"] = round(mean, 4)
    return measured
