"""Masks of large slides as runs: outlines object by object, moved masks, and the polygon files of 2020."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from histofold.core.regions import label_runs, merge_touching, split_runs
from histofold.core.rle.runs import Runs
from histofold.synth.hubmap_2022.image import mask_polygons

Ring = Sequence[Sequence[float]]
Polygon = list[Ring]


def runs_rings(runs: Runs) -> list[Ring]:
    """Outer outlines of a mask's pieces as rings of [x, y]; only one piece at a time is ever a mask.

    Raises:
        ValueError: If the runs are row-major.
    """
    if runs.order != "F":
        raise ValueError("outlines are made of column-major runs: encode the mask with order F")
    pieces = split_runs(runs)
    labels = label_runs(pieces)
    order = np.argsort(labels, kind="stable")
    firsts = np.searchsorted(labels[order], np.arange(labels.max(initial=-1) + 2))
    rings: list[Ring] = []
    for first, last in itertools.pairwise(firsts):
        mine = order[first:last]
        piece = Runs(pieces.starts[mine], pieces.lengths[mine], runs.shape_hw)
        columns, tops = np.divmod(piece.starts, runs.shape_hw[0])
        top, bottom = int(tops.min()), int((tops + piece.lengths).max())
        left, right = int(columns.min()), int(columns.max()) + 1
        found = mask_polygons(piece.to_window(slice(top, bottom), slice(left, right)))
        rings += [[[x + left, y + top] for x, y in ring] for ring in found]
    return rings


def shifted_runs(runs: Runs, dy: int, dx: int) -> Runs:
    """The mask moved down by `dy` and right by `dx` pixels; what leaves the frame is lost, what enters is empty.

    Raises:
        ValueError: If the runs are row-major.
    """
    if runs.order != "F":
        raise ValueError("columns are moved in column-major runs: encode the mask with order F")
    height, width = runs.shape_hw
    pieces = split_runs(runs)
    columns, tops = np.divmod(pieces.starts, height)
    columns = columns + dx
    bottoms = np.clip(tops + pieces.lengths + dy, 0, height)
    tops = np.clip(tops + dy, 0, height)
    seen = (bottoms > tops) & (columns >= 0) & (columns < width)
    return merge_touching(Runs((columns * height + tops)[seen], (bottoms - tops)[seen], runs.shape_hw))


def zone_polygons(zones: Mapping[str, Sequence[Ring]]) -> dict[str, list[Polygon]]:
    """Zones of a section as polygons with holes: a ring that lies within one of another zone is cut out of it.

    Args:
        zones: Rings of [x, y] round each zone; those of two zones are nested or beside each other.
    """
    polygons: dict[str, list[Polygon]] = {}
    for name, rings in zones.items():
        others = [ring for other, found in zones.items() if other != name for ring in found]
        polygons[name] = [[ring, *(other for other in others if _within(other, ring))] for ring in rings]
    return polygons


def polygon_area(polygon: Polygon) -> float:
    """Pixels within the first ring of [x, y] and in none of the others, which are its holes."""
    outer, *holes = (float(cv2.contourArea(np.array(ring, dtype=np.float32))) for ring in polygon)
    return outer - sum(holes)


def annotation_json(polygons_of_class: Mapping[str, Sequence[Polygon]]) -> bytes:
    """Polygons of each class, rings of [x, y] and their holes, as the host's list of GeoJSON features, rings closed."""
    features = [
        {
            "type": "Feature",
            "id": "PathAnnotationObject",
            "geometry": {"type": "Polygon", "coordinates": [_closed(ring) for ring in polygon]},
            "properties": {"classification": {"name": name}, "isLocked": False, "measurements": []},
        }
        for name, polygons in polygons_of_class.items()
        for polygon in polygons
    ]
    return json.dumps(features, separators=(",", ":")).encode()


def _within(inner: Ring, outer: Ring) -> bool:
    """Whether most corners of a ring, and so all of it where rings do not cross, lie within another and not on it."""
    edge = np.array(outer, dtype=np.float32)
    sides = [cv2.pointPolygonTest(edge, (float(x), float(y)), False) for x, y in inner]
    return sum(side > 0 for side in sides) * 2 > len(sides)


def _closed(ring: Ring) -> list[list[float]]:
    points = [[float(x) if x % 1 else int(x) for x in point] for point in ring]
    return points if points[0] == points[-1] else [*points, points[0]]
