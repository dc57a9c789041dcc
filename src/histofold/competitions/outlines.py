"""Named outlines in slide pixels, from the GeoJSON-like features that QuPath exports."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger

OutlineRing = list[list[float]]
"""A closed ring: points [x, y] in slide pixels, the last one equal to the first."""


def read_outlines(path: Path, sample_id: str) -> dict[str, list[OutlineRing]]:
    """Read the polygons of a file by the name of their class.

    The file holds a list of features, a FeatureCollection, or one feature, each with a geometry of type Polygon or
    MultiPolygon. Holes are rings like the others: filled by the even-odd rule, the rings of a name give its region.
    Features that are no named polygons are left out with a warning: they cost a region, never the slide.

    Args:
        path: The json file.
        sample_id: What its fault is filed under.

    Returns:
        For each name, in the order of the file, its rings; open ones are closed.

    Raises:
        InputError: If the file is no JSON or holds no list of features.
    """
    remedy = "export or download the outlines again"
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError([Fault(sample_id, str(path), f"not JSON ({error})", remedy)]) from error
    features = data.get("features", [data]) if isinstance(data, dict) else data
    if not isinstance(features, list):
        raise InputError([Fault(sample_id, str(path), "no list of features", remedy)])
    outlines: dict[str, list[OutlineRing]] = {}
    odd = []
    for number, feature in enumerate(features, 1):
        try:
            name, rings = _named_rings(feature)
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
            odd.append(f"feature {number}: {error or type(error).__name__}")
            continue
        outlines.setdefault(name, []).extend(rings)
    if odd:
        logger.warning("%s: %d of %d features are left out (%s)", path, len(odd), len(features), odd[0])
    return outlines


def _named_rings(feature: Any) -> tuple[str, list[OutlineRing]]:
    """Name and rings of a feature; raises whatever its nesting makes Python raise, or ValueError in words."""
    properties = feature["properties"]
    name = (properties.get("classification") or properties)["name"]
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"its class has the name {name!r}")
    return name.strip(), geometry_rings(feature["geometry"])


def geometry_rings(geometry: Any) -> list[OutlineRing]:
    """The rings of a Polygon or MultiPolygon of GeoJSON, closed; raises as `_named_rings`."""
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"its geometry is a {kind}, not a Polygon or MultiPolygon")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    rings = [_closed_ring(points) for polygon in polygons for points in polygon]
    if not rings:
        raise ValueError("its geometry has no rings")
    return rings


def _closed_ring(points: Any) -> OutlineRing:
    ring = [[_coordinate(point[0]), _coordinate(point[1])] for point in points]
    if ring and ring[0] != ring[-1]:
        ring.append([*ring[0]])
    if len(ring) < 4:
        raise ValueError(f"a ring of {len(points)} points has no area")
    return ring


def _coordinate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no coordinate")
    return float(value)
