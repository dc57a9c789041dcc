"""polygons.jsonl of the vessels of 2023: one line a tile, {"id", "annotations": [{"type", "coordinates": [ring]}]}.

What is repaired, each with one notice that counts:

- exact duplicates (same type, same corners) are dropped, as are polygons of fewer than three different corners;
- an open ring is closed; what lies beyond the tile is cut off;
- an outline that crosses itself, and further rings, are filled by the even-odd rule: a ring within a ring is a hole.

All else is refused with its line: no JSON, an unknown type or tile, a second line of a tile, corners that are no
numbers, no ring at all, a polygon wholly outside its tile.

The host's corners are those that skimage's find_contours gives of a mask, [x, y] midway between pixel middles, cut off
to whole numbers: 4.5 stands as 4. So an outline runs through the last pixels of its object below and on the right, and
one pixel beside it above and on the left, and no object has a pixel of the first row or column. They are drawn back by
that rule: of the 39 polygons at hand, find_contours of what is drawn gives 99.8% of the corners again. (OpenCV's
fillPoly on the corners as they stand would add a row and a column to each object.)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from histofold.core.faults import Fault, InputNotice
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import Runs
from histofold.core.rle.sets import fill_rings, is_simple_ring

_REPAIRS = {
    "duplicate": ("exact duplicates are dropped", "look at them: was another object meant?"),
    "empty": ("polygons of fewer than three different corners are dropped", "draw them anew if they are objects"),
    "open": ("open rings are closed", "look at them if their outlines are wrong"),
    "clipped": ("polygons reach beyond their tile and are cut off", "look whether they are of this tile"),
    "crossing": ("outlines cross themselves, and are filled by the even-odd rule", "draw them anew if that is wrong"),
    "rings": (
        "polygons have further rings, which are holes by the even-odd rule",
        "draw parts as polygons of their own",
    ),
}


@dataclass(frozen=True, eq=False)
class TilePolygon:
    """One outlined object of a tile."""

    kind: str
    """Its type."""
    rings: tuple[np.ndarray, ...]
    """Float32 (P, 2) each: x and y as the file has them, the first corner not repeated."""

    def draw(self, shape_hw: tuple[int, int]) -> Runs:
        """The pixels of the object in a tile of a height and width."""
        return fill_rings([ring_P2 + 1 for ring_P2 in self.rings], shape_hw)


def drawn_objects(polygons: Sequence[TilePolygon], shape_hw: tuple[int, int]) -> Objects:
    """The objects of a tile of a height and width that have a pixel, in the given order."""
    parts = [polygon.draw(shape_hw) for polygon in polygons]
    return Objects.from_runs([runs for runs in parts if runs.area], shape_hw)


@dataclass
class PolygonFile:
    """What a polygons.jsonl holds, as far as it can be made out."""

    by_tile: dict[str, list[TilePolygon]] = field(default_factory=dict)
    """The polygons of each tile that has a line, in the order of the file."""
    places: dict[str, str] = field(default_factory=dict)
    """For each of these tiles FILE:LINE."""
    faults: list[Fault] = field(default_factory=list)
    """What is refused, and notices of what was repaired."""


def read_polygons(path: Path, types: Collection[str], shape_of: Callable[[str], tuple[int, int] | None]) -> PolygonFile:
    """Read the polygons of all tiles.

    Args:
        path: The file.
        types: The known types.
        shape_of: Height and width of a tile by its id; None where there is no such tile.
    """
    found = PolygonFile()
    repairs: dict[str, list[str]] = {kind: [] for kind in _REPAIRS}
    try:
        for number, line in _lines(path):
            _read_line(found, repairs, f"{path}:{number}", line, types, shape_of)
    except (OSError, UnicodeError) as error:
        remedy = "download it again"
        found.faults.append(Fault(path.stem, str(path), f"cannot be read as text in UTF-8 ({error})", remedy))
    for kind, keys in repairs.items():
        if keys:
            words, remedy = _REPAIRS[kind]
            rule = f"{words}: {len(keys)}, in {len(set(keys))} tiles, the first in {keys[0]}"
            found.faults.append(InputNotice(path.stem, str(path), rule, remedy))
    return found


def outlined_tiles(path: Path) -> set[str]:
    """The tiles that have a line, whatever their polygons; lines that say no id are passed over."""
    found = set()
    for _, line in _lines(path):
        with suppress(ValueError):
            found.add(_tile_of(line)[0])
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty; the file is never held whole."""
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, line


def _read_line(
    found: PolygonFile,
    repairs: dict[str, list[str]],
    place: str,
    line: str,
    types: Collection[str],
    shape_of: Callable[[str], tuple[int, int] | None],
) -> None:
    """Add a line's tile to what was found, or what is wrong with it."""
    try:
        key, annotations = _tile_of(line)
    except ValueError as error:
        name = f"line {place.rpartition(':')[2]}"
        found.faults.append(Fault(name, place, str(error), "download the file again, or mend or drop the line"))
        return
    shape_hw = shape_of(key)
    if key in found.places:
        rule = f"a second line of this tile, the first is {found.places[key]}"
        found.faults.append(Fault(key, place, rule, "keep one, or join their annotations"))
        return
    if shape_hw is None:
        found.faults.append(Fault(key, place, "tile_meta.csv has no row of this tile", "add its row, or drop the line"))
        return
    found.places[key] = place
    polygons: list[TilePolygon] = []
    seen: Counter[tuple[str, bytes]] = Counter()
    for number, annotation in enumerate(annotations, 1):
        try:
            polygon, mended = _checked_polygon(annotation, types, shape_hw)
        except ValueError as error:
            found.faults.append(Fault(key, place, f"polygon {number}: {error}", "mend or drop the polygon"))
            continue
        mark = (polygon.kind, b"|".join(ring.tobytes() for ring in polygon.rings))
        seen[mark] += 1
        mended = {"duplicate"} if polygon.rings and seen[mark] > 1 else mended
        for kind in mended:
            repairs[kind].append(key)
        if not mended & {"duplicate", "empty"}:
            polygons.append(polygon)
    found.by_tile[key] = polygons


def _tile_of(line: str) -> tuple[str, list[Any]]:
    """Id and annotations of a line; raises ValueError in words."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON ({error})") from error
    if not isinstance(data, dict) or not isinstance(data.get("id"), str) or not data["id"]:
        raise ValueError("no object with an id that is a text")
    if not isinstance(data.get("annotations"), list):
        raise ValueError(f"tile {data['id']} has no list of annotations")
    return data["id"], data["annotations"]


def _checked_polygon(
    annotation: Any, types: Collection[str], shape_hw: tuple[int, int]
) -> tuple[TilePolygon, set[str]]:
    """A polygon, and how it was repaired; raises ValueError in words."""
    if not isinstance(annotation, dict):
        raise ValueError("no object with a type and coordinates")
    kind, coordinates = annotation.get("type"), annotation.get("coordinates")
    if not isinstance(kind, str) or kind not in types:
        raise ValueError(f"type {kind!r} is none of {', '.join(types)}")
    if not isinstance(coordinates, list) or not coordinates:
        raise ValueError("no ring")
    mended = {"rings"} if len(coordinates) > 1 else set()
    rings = []
    for number, points in enumerate(coordinates, 1):
        try:
            ring_P2 = np.array(points or np.zeros((0, 2)), np.float32)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"ring {number} is no list of [x, y]") from error
        if ring_P2.ndim != 2 or ring_P2.shape[1] != 2 or not np.isfinite(ring_P2).all():
            raise ValueError(f"ring {number} is no list of [x, y] that are finite")
        if len(ring_P2) > 1 and (ring_P2[0] == ring_P2[-1]).all():
            ring_P2 = ring_P2[:-1]
        else:
            mended.add("open")
        rings.append(ring_P2)
    rings = [ring_P2 for ring_P2 in rings if _has_three_corners(ring_P2)]
    if not rings:
        return TilePolygon(kind, ()), {"empty"}
    corners_P2 = np.concatenate(rings)
    low, high, last = corners_P2.min(axis=0), corners_P2.max(axis=0), np.array(shape_hw[::-1]) - 1
    if (high < 0).any() or (low > last).any() or (low < -last).any() or (high > 2 * last).any():
        raise ValueError(f"it lies outside its tile of {tuple(shape_hw)} (H, W) pixels, or far beyond it")
    if (high <= 1).all() and (corners_P2 % 1).any():
        raise ValueError("it lies within the first pixel: are its corners shares of the tile's sides?")
    if (low < 0).any() or (high > last).any():
        mended.add("clipped")
    if not all(is_simple_ring(ring_P2) for ring_P2 in rings):
        mended.add("crossing")
    return TilePolygon(kind, tuple(rings)), mended


def _has_three_corners(ring_P2: np.ndarray) -> bool:
    """Whether a ring has three corners that differ."""
    others_P2 = ring_P2[(ring_P2 != ring_P2[:1]).any(axis=1)]
    return bool((others_P2 != others_P2[:1]).any())
