"""What `histofold predict` writes of single objects: a label image, outlines with scores, a picture."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.core.rle.rings import trace_components
from histofold.report.results.masks import BAND_PX, write_png
from histofold.report.results.outlines import CLASS_COLOURS
from histofold.schema.files import written_whole
from histofold.schema.preprocessing import has_pixel_size

MOST_LABELS = 65535
_GOLDEN = 0.618034  # of a turn of hues: neighbours in rank look unlike


def write_labels(path: Path, detections: Detections) -> None:
    """Write objects as a grey PNG of 16 bits: k is the k-th of them, 0 none; where they overlap the first is on top.

    Args:
        path: The file, which is replaced whole or not at all.
        detections: By descending score; those beyond the 65535th are left out.
    """
    objects = detections.objects.select(np.arange(min(len(detections), MOST_LABELS)))
    height, width = objects.shape_hw
    step = max(1, BAND_PX // width)
    bands = (_labels(objects, slice(top, min(top + step, height))).astype(">u2") for top in range(0, height, step))
    write_png(path, objects.shape_hw, 16, (band_HW.view(np.uint8) for band_HW in bands))


def _labels(objects: Objects, rows: slice) -> np.ndarray:
    """Some rows of the label image, uint16 (h, W)."""
    labels_HW = np.zeros((rows.stop - rows.start, objects.shape_hw[1]), np.uint16)
    seen = np.flatnonzero((objects.boxes[:, 0] < rows.stop) & (objects.boxes[:, 2] > rows.start))
    for index in seen[::-1].tolist():
        top, left, bottom, right = objects.boxes[index].tolist()
        y, x = slice(max(top, rows.start), min(bottom, rows.stop)), slice(left, right)
        window_HW = labels_HW[y.start - rows.start : y.stop - rows.start, x]
        window_HW[objects[index].to_window(y, x)] = index + 1
    return labels_HW


def write_object_outlines(path: Path, detections: Detections, name: str, pixel_size_um: float | None) -> None:
    """Write each object as a detection of QuPath with its score.

    Args:
        path: The file, which is replaced whole or not at all.
        detections: The objects.
        name: Name of their class.
        pixel_size_um: Pixel size; where it is unknown areas are given in pixels alone.
    """
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write('{"type": "FeatureCollection", "features": [')
        for number, feature in enumerate(object_features(detections, name, pixel_size_um)):
            stream.write(("," if number else "") + "\n" + json.dumps(feature))
        stream.write("\n]}\n")


def object_features(detections: Detections, name: str, pixel_size_um: float | None) -> Iterator[dict[str, Any]]:
    """What `write_object_outlines` writes, feature by feature, as plain data; the arguments are the same.

    Parts of an object that touch at a corner alone are polygons of their own.
    """
    for runs, score in zip(detections.objects, detections.scores.tolist(), strict=True):
        rings = [[ring.tolist() for ring in part.rings] for part in trace_components(runs)]
        polygons = [[[*ring, ring[0]] for ring in of_part] for of_part in rings]
        measured: dict[str, float] = {"score": round(score, 6), "area_px": runs.area}
        if has_pixel_size(pixel_size_um):
            measured["area_um2"] = round(runs.area * float(pixel_size_um or 1) ** 2, 3)
        alone = len(polygons) == 1
        yield {
            "type": "Feature",
            "geometry": {
                "type": "Polygon" if alone else "MultiPolygon",
                "coordinates": polygons[0] if alone else polygons,
            },
            "properties": {
                "objectType": "detection",
                "classification": {"name": name, "color": CLASS_COLOURS[0]},
                "measurements": measured,
            },
        }


def object_colour(place: int) -> tuple[int, int, int]:
    """RGB of the object of a place: bright, and unlike its neighbours'."""
    red, green, blue = colorsys.hsv_to_rgb(place * _GOLDEN % 1, 0.85, 1)
    return round(255 * red), round(255 * green), round(255 * blue)
