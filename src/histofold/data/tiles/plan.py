"""Which tiles a slide is cut into, decided before a pixel is read: grids, objects, scales and regions."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from histofold.core.objects.instances import Objects
from histofold.core.regions import label_runs, split_runs
from histofold.core.rle.runs import Masks, Runs, class_runs
from histofold.core.tiles import TileGrid, axis_spans
from histofold.imaging.resample import scaled_shape
from histofold.schema.dataset import TilesConfig
from histofold.schema.preprocessing import Preprocessing

Origin = tuple[int, int]


def object_boxes(runs: Runs) -> np.ndarray:
    """The boxes of a mask's connected components (8 neighbours).

    Args:
        runs: The mask.

    Returns:
        int64 (N, 4): first row, first column, and the row and column after the last, in pixels of the mask.
    """
    pieces = split_runs(runs)
    if len(pieces) == 0:
        return np.zeros((0, 4), np.int64)
    labels = label_runs(pieces)
    lines, first = np.divmod(pieces.starts, runs.line_length)
    along, across = (first, first + pieces.lengths), (lines, lines + 1)
    (top, bottom), (left, right) = (along, across) if runs.order == "F" else (across, along)
    boxes_N4 = np.zeros((int(labels.max()) + 1, 4), np.int64)
    boxes_N4[:, :2] = max(runs.shape_hw)
    np.minimum.at(boxes_N4[:, 0], labels, top)
    np.minimum.at(boxes_N4[:, 1], labels, left)
    np.maximum.at(boxes_N4[:, 2], labels, bottom)
    np.maximum.at(boxes_N4[:, 3], labels, right)
    return boxes_N4


def drawn_boxes(boxes_N4: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    """At most so many boxes, drawn without repetition, in their own order; 0 keeps all."""
    if most == 0 or len(boxes_N4) <= most:
        return boxes_N4
    return boxes_N4[np.sort(generator.choice(len(boxes_N4), most, replace=False))]


def tiles_on_box(
    box: np.ndarray, size: int, stride: int, shift_yx: tuple[float, float], shape_hw: tuple[int, int]
) -> Iterator[Origin]:
    """Origins of the tiles on an object: one in its middle, moved by `shift_yx`, or several over a larger object.

    Args:
        box: float (4,): first row and column, last row and column, in pixels of the scaled slide.
        size: Side of a tile.
        stride: Distance of the tiles over an object that is larger than one.
        shift_yx: Displacement in pixels, less than half a tile so that the object's middle stays inside.
        shape_hw: Height and width of the scaled slide; tiles are moved inside where it is large enough.
    """
    axes = []
    is_small = max(box[2] - box[0], box[3] - box[1]) <= size
    for axis in range(2):
        start, stop = float(box[axis]), float(box[axis + 2])
        if stop - start <= size:
            shift = shift_yx[axis] if is_small else 0.0
            origins = [round((start + stop - size) / 2 + shift)]
        else:
            first = math.floor(start)
            origins = [first + span.read.start for span in axis_spans(math.ceil(stop) - first, size, stride, 0)]
        limit = max(0, shape_hw[axis] - size)
        axes.append(sorted({min(max(0, origin), limit) for origin in origins}))
    for y in axes[0]:
        for x in axes[1]:
            yield y, x


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


@dataclass(frozen=True)
class PlannedTile:
    """One tile to cut."""

    tile_id: str
    """Unique over slides, grids and scales."""
    grid: str
    """Where it comes from: `grid`, `shifted` or `objects`."""
    view: int
    """Number of the scale that it is cut at."""
    y: slice
    """Rows of the scaled slide."""
    x: slice
    """Columns of the scaled slide; a slide that is shorter than a tile is read from end to end."""
    region: str
    """Region of the anatomy that holds its middle, empty where there is none."""


@dataclass(frozen=True, kw_only=True)
class SlidePlan:
    """What decides the tiles of a slide."""

    sample_id: str
    """Id of the slide."""
    shape_hw: tuple[int, int]
    """Height and width of the slide in pixels."""
    pixel_size_um: float | None
    """Its pixel size; None where unknown."""
    organ: str = ""
    """What it shows; empty where unknown."""
    target: Masks
    """The truth, whose objects may get tiles of their own."""
    objects: Objects | None = None
    """These objects where they are known one by one; else they are the components of the target."""
    regions: Rings
    """Regions of the anatomy in slide pixels."""
    preprocessing: Preprocessing
    """The network's scale."""
    tiles: TilesConfig
    """How slides are cut."""

    @property
    def is_whole(self) -> bool:
        """Whether the slide becomes a single tile, whatever the tile settings say."""
        return self.preprocessing.scale_mode == "whole"

    @property
    def scales(self) -> tuple[float, ...]:
        """Scales of the views, relative to the network's."""
        return (1.0,) if self.is_whole else self.tiles.scales

    def views(self) -> list[tuple[int, int]]:
        """Height and width of the scaled slide at each scale; at 1 it is what prediction sees."""
        scaled_hw = self.preprocessing.scaled_hw(self.shape_hw, self.pixel_size_um, self.organ)
        return [scaled_hw if scale == 1 else scaled_shape(scaled_hw, scale) for scale in self.scales]

    def planned(self) -> list[PlannedTile]:
        """All tiles, by scale, grid, row and column; of tiles at one place and scale only the first source's."""
        regions = RegionMap(self.regions)
        planned = []
        for view, view_hw in enumerate(self.views()):
            taken: set[Origin] = set()
            for grid in ("grid",) if self.is_whole else self.tiles.grids:
                fresh = sorted(set(self._origins(grid, view_hw)) - taken)
                taken.update(fresh)
                planned += [self._tile(grid, view, view_hw, origin, regions) for origin in fresh]
        return planned

    @property
    def size(self) -> int:
        """Side of the tiles in pixels."""
        return self.preprocessing.whole_size if self.is_whole else self.tiles.size

    def _origins(self, grid: str, view_hw: tuple[int, int]) -> Iterator[Origin]:
        if grid == "objects":
            yield from self._object_origins(view_hw)
            return
        if grid == "shifted":
            rows, columns = (shifted_origins(length, self.size, self.tiles.stride) for length in view_hw)
        else:
            spans = training_grid(view_hw, self.preprocessing, self.tiles)
            rows, columns = ([span.read.start for span in axis] for axis in (spans.row_spans, spans.column_spans))
        for y in rows:
            for x in columns:
                yield y, x

    def _object_origins(self, view_hw: tuple[int, int]) -> Iterator[Origin]:
        zoom_4 = np.tile(np.array(view_hw) / np.array(self.shape_hw), 2)
        jitter_px = self.tiles.object_jitter * self.size
        known = None if self.objects is None else self.objects.boxes[self.objects.areas > 0]
        of_classes = [object_boxes(runs) for runs in class_runs(self.target)] if known is None else [known]
        for number, boxes_N4 in enumerate(of_classes):
            generator = seeded_generator(self.tiles.seed, f"objects/{self.sample_id}/{number}")
            for box in drawn_boxes(boxes_N4, self.tiles.max_objects, generator):
                shift_yx = tuple(generator.uniform(-jitter_px, jitter_px, 2))
                yield from tiles_on_box(box * zoom_4, self.size, self.tiles.stride, shift_yx, view_hw)

    def _tile(self, grid: str, view: int, view_hw: tuple[int, int], origin: Origin, regions: RegionMap) -> PlannedTile:
        y, x = (slice(start, min(start + self.size, length)) for start, length in zip(origin, view_hw, strict=True))
        middle_y = (y.start + y.stop) / 2 * self.shape_hw[0] / view_hw[0]
        middle_x = (x.start + x.stop) / 2 * self.shape_hw[1] / view_hw[1]
        return PlannedTile(
            tile_id=f"{self.sample_id}_{y.start}_{x.start}{_id_ending(grid, self.scales[view])}",
            grid=grid,
            view=view,
            y=y,
            x=x,
            region=regions.region_at(middle_y, middle_x),
        )


def training_grid(scaled_hw: tuple[int, int], preprocessing: Preprocessing, tiles: TilesConfig) -> TileGrid:
    """The regular grid of training tiles: one tile for a whole image, else tiles at the configured stride."""
    if preprocessing.scale_mode == "whole":
        return TileGrid(scaled_hw, preprocessing.whole_size)
    return TileGrid(scaled_hw, tiles.size, tiles.stride)


def shifted_origins(length: int, size: int, stride: int) -> list[int]:
    """Origins half a stride after those of the grid; the border is the grid's. One at 0 where there is no room."""
    return list(range(stride // 2, length - size + 1, stride)) or [0]


def keeps_background(share: float, seed: int, tile_id: str) -> bool:
    """Whether a tile without mask belongs to the share that is kept; depends on seed and id alone."""
    return share >= 1 or seeded_generator(seed, f"background/{tile_id}").random() < share


def seeded_generator(seed: int, purpose: str) -> np.random.Generator:
    """A generator of its own for each purpose, whatever else was drawn before."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def _id_ending(grid: str, scale: float) -> str:
    """What differs between grids and scales; nothing for the regular grid at the network's scale.

    An ending begins with a letter and the rest of an id ends with numbers, so that no two tiles share an id.
    """
    return "" if grid == "grid" and scale == 1 else f"_{grid[0]}{scale:g}"
