"""Outlines as truth, a file for each image: GeoJSON as QuPath exports it, labelme's JSON, Aperio ImageScope's XML."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np

from histofold.competitions.outlines import geometry_rings
from histofold.core.faults import Fault, InputError
from histofold.core.regions import split_runs
from histofold.core.rle.runs import Runs, runs_from_mask
from histofold.core.rle.sets import fill_rings, subtract_runs, union_runs

IGNORED_CLASS = "Ignore*"
"""The class by which QuPath users mark what shall not count."""
_CORNERS = 180  # of a circle or an ellipse


@dataclass(frozen=True)
class Outline:
    """One object."""

    label: str
    """Name of its class; empty where it has none."""
    rings: list[np.ndarray]
    """Float (P, 2), x and y in pixels; filled by the even-odd rule."""
    is_hole: bool = False
    """Whether it is taken from the others of its class."""


def read_outline_file(path: Path) -> tuple[list[Outline], tuple[int, int] | None]:
    """The objects of a file, and the height and width of the image as far as it says them.

    Raises:
        InputError: If the file cannot be read, or with every object that is no outline.
    """
    label = path.stem
    try:
        if path.suffix.lower() == ".xml":
            root = ElementTree.fromstring(path.read_bytes())
            if root.tag != "Annotations" or (root.find(".//Region") is None and root.find("Annotation") is None):
                raise ValueError(f"its root is {root.tag}")
            return _collected(path, "region", _aperio_regions(root)), None
        data = json.loads(path.read_text(encoding="utf-8-sig"))
        if isinstance(data, dict) and isinstance(data.get("shapes"), list):
            height, width = data.get("imageHeight"), data.get("imageWidth")
            shape_hw = (height, width) if isinstance(height, int) and isinstance(width, int) else None
            return _collected(path, "shape", [(_labelme_outline, shape) for shape in data["shapes"]]), shape_hw
        if not isinstance(data, (dict, list)) or not isinstance(_members(data), list):
            raise ValueError("no list of features")
        features = list(_single_features(data))
    except InputError:
        raise  # of single objects, in words already
    except (ValueError, OSError, RecursionError, LookupError, ElementTree.ParseError) as error:  # of an encoding
        rule = f"no outlines of QuPath (GeoJSON), labelme or ImageScope ({error})"
        remedy = "export the outlines as one of these; boxes are none"
        raise InputError([Fault(label, str(path), rule, remedy)]) from error
    return _collected(path, "feature", [(_geojson_outline, feature) for feature in features]), None


def _members(item: Any) -> Any:
    """What a list or a collection of features holds; a single feature as a list."""
    return item.get("features", [item]) if isinstance(item, dict) else item


def _single_features(data: Any) -> Iterator[Any]:
    """The features of collections, also of those within collections; each geometry of a collection on its own."""
    for item in _members(data):
        geometry = item.get("geometry") if isinstance(item, dict) else None
        if isinstance(item, dict) and isinstance(item.get("features"), list):
            yield from _single_features(item)
        elif isinstance(geometry, dict) and isinstance(geometry.get("geometries"), list):
            yield from _single_features([item | {"geometry": each} for each in geometry["geometries"]])
        else:
            yield item


Maker = Callable[[Any], Outline]


def _collected(path: Path, word: str, items: Sequence[tuple[Maker, Any]]) -> list[Outline]:
    """The outlines that makers make of items; raises InputError with each that is none."""
    outlines, faults = [], []
    for number, (make, item) in enumerate(items, 1):
        try:
            with np.errstate(all="ignore"):  # a ring of no numbers is refused in words
                outlines.append(make(item))
        except (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError, cv2.error) as error:
            words = f"has no {error.args[0]}" if isinstance(error, KeyError) else f"is malformed ({error!r})"
            rule = f"{word} {number}: {error if isinstance(error, ValueError) else words}"
            faults.append(Fault(path.stem, str(path), rule, "draw it as a closed outline, or delete it"))
    if faults:
        raise InputError(faults)
    return outlines


def _geojson_outline(feature: Any) -> Outline:
    properties = feature.get("properties") or {}
    named = next((properties[key] for key in ("classification", "class", "label") if properties.get(key)), "")
    label = named if isinstance(named, str) else named.get("name") or ": ".join(named["names"])
    return Outline(label.strip(), [np.asarray(ring, float) for ring in geometry_rings(feature["geometry"])])


def _labelme_outline(shape: Any) -> Outline:
    points_P2 = np.asarray(shape["points"], float).reshape(-1, 2)
    kind = shape.get("shape_type") or "polygon"
    if kind == "rectangle":
        ring_P2 = _box_ring(points_P2)
    elif kind == "circle":
        middle, radius = points_P2[0], math.dist(points_P2[0], points_P2[1])
        ring_P2 = _ellipse_ring(middle - radius, middle + radius)
    elif kind == "polygon":
        ring_P2 = points_P2
    elif kind == "mask":
        return Outline(str(shape["label"]).strip(), _mask_rings(shape["mask"], points_P2))
    else:
        raise ValueError(f"a {kind} has no area")
    return Outline(str(shape["label"]).strip(), [_checked_ring(ring_P2)])


def _mask_rings(picture: str, points_P2: np.ndarray) -> list[np.ndarray]:
    """The pixels of labelme's drawn mask, a PNG as text that begins at its first point, as boxes of one column each."""
    mask_HW = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_GRAYSCALE)
    if mask_HW is None:
        raise ValueError("its mask is no picture")
    columns = split_runs(runs_from_mask(mask_HW > 0))
    left, top = np.rint(points_P2.min(axis=0))
    x, y = left + columns.starts // mask_HW.shape[0], top + columns.starts % mask_HW.shape[0]
    corners = zip(x, y, y + columns.lengths, strict=True)
    return [np.array([[x0, y0], [x0 + 1, y0], [x0 + 1, y1], [x0, y1]]) for x0, y0, y1 in corners]


def _aperio_regions(root: ElementTree.Element) -> list[tuple[Maker, Any]]:
    """The regions of ImageScope's annotation layers, each with the name of its layer."""

    def make(item: tuple[str, ElementTree.Element]) -> Outline:
        label, region = item
        points_P2 = np.array([[float(v.attrib["X"]), float(v.attrib["Y"])] for v in region.iter("Vertex")]).reshape(
            -1, 2
        )
        kind = region.get("Type", "0")
        if kind not in ("0", "1", "2"):
            raise ValueError(f"a region of type {kind} has no area")
        if kind == "1":
            points_P2 = _box_ring(points_P2)
        elif kind == "2":
            points_P2 = _ellipse_ring(points_P2.min(axis=0), points_P2.max(axis=0))
        return Outline(label, [_checked_ring(points_P2)], is_hole=region.get("NegativeROA") == "1")

    return [
        (make, (_layer_name(layer), region)) for layer in root.iter("Annotation") for region in layer.iter("Region")
    ]


def _layer_name(layer: ElementTree.Element) -> str:
    """The name of a layer: its own, else that of its first attribute that says something."""
    attributes = layer.findall("./Attributes/Attribute")
    names = [layer.get("Name"), *(each.get("Value") for each in attributes), *(each.get("Name") for each in attributes)]
    return next((name.strip() for name in names if name and name.strip() not in ("", "Description")), "")


def _box_ring(points_P2: np.ndarray) -> np.ndarray:
    (left, top), (right, bottom) = points_P2.min(axis=0), points_P2.max(axis=0)
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _ellipse_ring(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    turns = np.arange(_CORNERS) * 2 * np.pi / _CORNERS
    return (low + high) / 2 + (high - low) / 2 * np.stack([np.cos(turns), np.sin(turns)], axis=1)


def _checked_ring(ring_P2: np.ndarray) -> np.ndarray:
    if len(ring_P2) < 3 or not np.isfinite(ring_P2).all():
        raise ValueError(f"a ring of {len(ring_P2)} points, or of points that are no numbers, has no area")
    return ring_P2


def draw_outlines(outlines: Iterator[Outline] | Sequence[Outline], shape_hw: tuple[int, int]) -> Runs:
    """The pixels of any of the outlines, but for those of holes; each is filled by the even-odd rule.

    Raises:
        ValueError: If one lies within the first pixel, or further than a side of the image beyond it, or if most have
            no pixel of it: then they are in another unit, or of another image or size.
    """
    parts: dict[bool, list[Runs]] = {False: [], True: []}
    sides_xy = np.array(shape_hw[::-1], float)
    for outline in outlines:
        points_P2 = np.concatenate([np.zeros((0, 2)), *outline.rings])
        # The first pixel itself is drawn on whole numbers, as `trace_components` does.
        if (points_P2 >= 0).all() and (points_P2 <= 1).all() and (points_P2 % 1).any():
            raise ValueError("an outline lies within the first pixel: are its numbers shares of the image's sides?")
        if (points_P2 < -sides_xy).any() or (points_P2 > 2 * sides_xy).any():
            raise ValueError(f"an outline lies far outside the image of {tuple(shape_hw)} (H, W) pixels")
        parts[outline.is_hole].append(fill_rings(outline.rings, shape_hw))
    lost = sum(not runs.area for runs in parts[False])
    if 2 * lost > len(parts[False]):
        raise ValueError(
            f"{lost} of {len(parts[False])} outlines have no pixel of the image of {tuple(shape_hw)} (H, W) pixels: "
            "another origin, or y that grows upwards?"
        )
    nothing = fill_rings([], shape_hw)
    drawn, holes = (union_runs([nothing, *parts[is_hole]]) for is_hole in (False, True))
    return subtract_runs(drawn, holes)
