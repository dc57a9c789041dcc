"""The files of large slides: TIFF written band by band, masks as runs moved and outlined, polygons as in 2020."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

from histofold.core.regions import label_runs, merge_touching, split_runs
from histofold.core.rle.runs import Runs
from histofold.schema.files import written_whole
from histofold.synth.hubmap_2022.folder import mask_polygons

KIDNEY_LAYOUTS = ("tiled deflate", "striped", "5-D", "planar", "three pages")
BAND_ROWS = 256
"""Rows of a band, and side of a tile."""
_ROWS_PER_STRIP = 16
# A classic TIFF counts bytes in 32 bits; room is left for the directory and the lists of tiles.
_CLASSIC_BYTES = (1 << 32) - (1 << 25)

Bands = Iterable[tuple[slice, np.ndarray]]


def write_tiff_bands(
    path: Path, shape_hw: tuple[int, int], bands: Bands, layout: str, *, pixel_size_um: float, big: bool | None = None
) -> None:
    """Write an RGB slide whose pixels come in bands; memory grows with a band, not with the slide.

    Args:
        path: The file; it is there only once it is whole.
        shape_hw: Height and width in pixels.
        bands: Rows and uint8 (h, W, 3) of each band from top to bottom, `BAND_ROWS` high but for the last.
        layout: Of `KIDNEY_LAYOUTS`: "tiled deflate" and "striped" are (H, W, 3), "5-D" is (1, 1, 3, H, W), "planar" is
            (3, H, W), "three pages" has a page for each colour. All but the first are not compressed.
        pixel_size_um: For the tags of resolution.
        big: Write a BigTIFF; None: where a classic one could not hold the pixels.

    Raises:
        ValueError: If the layout is not known.
    """
    if layout not in KIDNEY_LAYOUTS:
        raise ValueError(f"layout {layout!r} is not one of {', '.join(KIDNEY_LAYOUTS)}")
    big = 3 * shape_hw[0] * shape_hw[1] > _CLASSIC_BYTES if big is None else big
    tags: dict[str, Any] = {
        "dtype": np.uint8,
        "software": False,
        "resolution": (1e4 / pixel_size_um,) * 2,
        "resolutionunit": "CENTIMETER",
    }
    with written_whole(path) as temporary:
        if layout == "tiled deflate":
            _write_tiled(temporary, shape_hw, bands, tags, big)
        else:
            _write_plain(temporary, shape_hw, bands, layout, tags, big)


def _write_tiled(path: Path, shape_hw: tuple[int, int], bands: Bands, tags: dict[str, Any], big: bool) -> None:
    with tifffile.TiffWriter(path, bigtiff=big) as writer:
        writer.write(
            _tiles(bands),
            shape=(*shape_hw, 3),
            photometric="rgb",
            tile=(BAND_ROWS, BAND_ROWS),
            compression="zlib",
            # The pixels' noise does not shrink with more effort, it only takes longer.
            compressionargs={"level": 1},
            predictor=True,
            metadata=None,
            maxworkers=1,
            **tags,
        )


def _tiles(bands: Bands) -> Iterator[np.ndarray]:
    """The tiles of each band from left to right, filled up with zeros at the slide's right and lower border."""
    for _, band_HWC in bands:
        height, width = band_HWC.shape[:2]
        for x in range(0, width, BAND_ROWS):
            tile_HWC = np.zeros((BAND_ROWS, BAND_ROWS, 3), dtype=np.uint8)
            tile_HWC[:height, : width - x] = band_HWC[:, x : x + BAND_ROWS]
            yield tile_HWC


def _write_plain(
    path: Path, shape_hw: tuple[int, int], bands: Bands, layout: str, tags: dict[str, Any], big: bool
) -> None:
    """Write the directories with room for the pixels, then each band's pixels into their places."""
    with tifffile.TiffWriter(path, bigtiff=big) as writer:
        offsets = _reserve(writer, shape_hw, layout, tags)
    with path.open("r+b") as stream:
        for rows, band_HWC in bands:
            first = rows.start * shape_hw[1]
            if layout == "striped":
                stream.seek(offsets[0] + 3 * first)
                stream.write(np.ascontiguousarray(band_HWC).data)
                continue
            for sample, offset in enumerate(offsets):
                stream.seek(offset + first)
                stream.write(np.ascontiguousarray(band_HWC[..., sample]).data)


def _reserve(writer: tifffile.TiffWriter, shape_hw: tuple[int, int], layout: str, tags: dict[str, Any]) -> list[int]:
    """Write what stands before the pixels; the place of the first one of all, or of each plane."""
    if layout == "three pages":
        pages = [
            writer.write(
                None,
                shape=shape_hw,
                photometric="minisblack",
                metadata=None,
                contiguous=False,
                returnoffset=True,
                **tags,
            )
            for _ in range(3)
        ]
        return [page[0] for page in pages]
    shape: tuple[int, ...] = (*shape_hw, 3)
    how: dict[str, Any] = {"metadata": None, "rowsperstrip": _ROWS_PER_STRIP}
    if layout == "planar":
        shape, how = (3, *shape_hw), {"metadata": None, "planarconfig": "separate"}
    elif layout == "5-D":  # only its description tells of the axes of length 1
        shape, how = (1, 1, 3, *shape_hw), {"planarconfig": "separate"}
    offset = writer.write(None, shape=shape, photometric="rgb", returnoffset=True, **how, **tags)[0]
    plane = shape_hw[0] * shape_hw[1]
    return [offset] if layout == "striped" else [offset + sample * plane for sample in range(3)]


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
