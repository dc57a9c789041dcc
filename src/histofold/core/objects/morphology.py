"""Objects grown, shrunk, filled and cleaned each by itself; work and memory follow their boxes, not the image."""

from __future__ import annotations

import math

import numpy as np

from histofold.core.objects.detections import Detections, checked_scores
from histofold.core.objects.instances import ColumnRuns, Objects, join_objects, unite_runs
from histofold.core.objects.overlaps import overlapping_pairs
from histofold.core.regions import component_areas, fill_holes, label_runs, split_runs
from histofold.core.rle.runs import Runs
from histofold.core.rle.sets import subtract_runs, union_runs

GROWN_AT_ONCE = 256  # objects, so that the runs of large radii do not fill the memory


def grow_objects(objects: Objects, radius_px: float, scores_M: np.ndarray | None = None) -> Objects:
    """Each object grown or shrunk by a Euclidean disc.

    Grown, an object holds the pixels whose distance to it is at most the radius. Shrunk, it keeps those whose distance
    to all that is not it is above it; the image's border takes nothing away. Distances are of pixels' middles.

    Args:
        objects: Objects of one image.
        radius_px: Radius in pixels, need not be whole; below 0 shrinks, and an object may vanish (it keeps its place).
        scores_M: If given, no two objects overlap afterwards: see `without_overlaps`.

    Raises:
        ValueError: If the radius is not finite, or there is not one finite score an object.
    """
    if not math.isfinite(radius_px):
        raise ValueError(f"radius_px={radius_px}: a number of pixels")
    change = _grown if radius_px >= 0 else _shrunk
    blocks = np.split(np.arange(len(objects)), range(GROWN_AT_ONCE, len(objects), GROWN_AT_ONCE))
    grown = join_objects([change(objects.select(block), abs(radius_px)) for block in blocks], objects.shape_hw)
    return grown if scores_M is None else without_overlaps(grown, scores_M)


def without_overlaps(objects: Objects, scores_M: np.ndarray) -> Objects:
    """Each pixel left to the one of its objects that has the highest score, of equal ones the first.

    Raises:
        ValueError: If there is not one finite score an object.
    """
    rank_M = np.empty(len(objects), np.int64)
    rank_M[np.argsort(-checked_scores(scores_M, len(objects)), kind="stable")] = np.arange(len(objects))
    pairs = overlapping_pairs(objects, objects)
    losing = rank_M[pairs.second] < rank_M[pairs.first]
    losers, winners = pairs.first[losing], pairs.second[losing]
    begins = losers.searchsorted(np.arange(len(objects) + 1))
    parts = list(objects)
    for index in np.unique(losers).tolist():
        taken = union_runs([objects[winner] for winner in winners[begins[index] : begins[index + 1]].tolist()])
        parts[index] = subtract_runs(objects[index], taken)
    return Objects.from_runs(parts, objects.shape_hw)


def drop_small(detections: Detections, min_area_px: float) -> Detections:
    """The detections of at least an area in pixels."""
    return detections.select(detections.objects.areas >= min_area_px)


def fill_objects(objects: Objects) -> Objects:
    """Each object with all its holes filled; what a hole is says `fill_holes`."""
    strips, begins_M = _side_by_side(objects)
    filled = split_runs(fill_holes(strips, math.inf))
    columns, rows = np.divmod(filled.starts, filled.line_length)
    owners = begins_M.searchsorted(columns, "right") - 1
    columns += objects.boxes[owners, 1] - begins_M[owners]
    return unite_runs(ColumnRuns(owners, columns, rows, filled.lengths), len(objects), objects.shape_hw)


def mask_components(runs: Runs) -> Objects:
    """The connected pieces of a mask, in the order of their first pixel; pixels at a corner are neighbours."""
    pieces = split_runs(runs)
    if not len(pieces):
        return Objects.from_runs([], runs.shape_hw)
    labels = label_runs(pieces)
    order = labels.argsort(kind="stable")
    offsets = np.concatenate([[0], np.bincount(labels).cumsum()])
    return Objects(pieces.starts[order], pieces.lengths[order], offsets, runs.shape_hw)


def largest_components(objects: Objects) -> Objects:
    """Each object's largest component, of equal ones the first down the columns; pixels at a corner are neighbours."""
    strips, _ = _side_by_side(objects)
    labels = label_runs(strips)
    areas = component_areas(strips, labels).astype(np.int64)
    owner_P = np.repeat(np.arange(len(objects)), np.diff(objects.offsets))
    owner_G = np.zeros(len(areas), np.int64)
    owner_G[labels] = owner_P
    order = np.lexsort((np.arange(len(areas)), -areas, owner_G))
    kept_G = np.zeros(len(areas), bool)
    kept_G[order[np.unique(owner_G[order], return_index=True)[1]]] = True
    kept_P = kept_G[labels]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner_P[kept_P], minlength=len(objects)))]).astype(np.int64)
    return Objects(objects.starts[kept_P], objects.lengths[kept_P], offsets, objects.shape_hw)


def _side_by_side(objects: Objects) -> tuple[Runs, np.ndarray]:
    """The objects in one mask as high as the image, each in the columns of its box, a blank column behind each.

    Returns:
        The mask, and the first column of each object in it, int64 (M,).
    """
    height = objects.shape_hw[0]
    ends_M = np.cumsum(objects.boxes[:, 3] - objects.boxes[:, 1] + 1)
    begins_M = np.concatenate([[0], ends_M[:-1]])[: len(ends_M)].astype(np.int64)
    shifts = np.repeat((begins_M - objects.boxes[:, 1]) * height, np.diff(objects.offsets))
    width = int(ends_M[-1]) if len(ends_M) else 1
    return Runs(objects.starts + shifts, objects.lengths, (height, width)), begins_M


def _grown(objects: Objects, radius_px: float) -> Objects:
    """The pixels of each object, and those within the radius of them."""
    height, width = objects.shape_hw
    steps = np.arange(-int(radius_px), int(radius_px) + 1)
    # A disc is a run in each of its columns: so is each run's union with its neighbours, column by column.
    reaches = (np.sqrt(steps[:, None] ** 2 + np.arange(len(steps)) ** 2) <= radius_px).sum(axis=1) - 1
    columns, rows = np.divmod(objects.starts, height)
    columns, begins = columns[:, None] + steps, np.maximum(rows[:, None] - reaches, 0)
    ends = np.minimum((rows + objects.lengths)[:, None] + reaches, height)
    inside = (columns >= 0) & (columns < width)
    owners = np.broadcast_to(_owners(objects)[:, None], columns.shape)
    runs = ColumnRuns(owners[inside], columns[inside], begins[inside], (ends - begins)[inside])
    return unite_runs(runs, len(objects), objects.shape_hw)


def _shrunk(objects: Objects, radius_px: float) -> Objects:
    """The pixels of each object that its surroundings, grown by the radius, leave over."""
    # What is not the object comes nearest within its box or one pixel around it, and not from beyond the image.
    margins = np.maximum(objects.boxes + np.array([-1, -1, 1, 1]), 0)
    surroundings = _missing(objects, np.minimum(margins, np.array(objects.shape_hw * 2)))
    return _missing(_grown(surroundings, radius_px), objects.boxes)


def _missing(objects: Objects, boxes_M4: np.ndarray) -> Objects:
    """The pixels of each box that its object does not hold."""
    height, width = objects.shape_hw
    owners, (columns, rows) = _owners(objects), np.divmod(objects.starts, height)
    top, left, bottom, right = boxes_M4[owners].T
    begins, ends = np.maximum(rows, top), np.minimum(rows + objects.lengths, bottom)
    inside = (columns >= left) & (columns < right) & (begins < ends)
    lines = owners[inside] * width + columns[inside]
    counts_M = boxes_M4[:, 3] - boxes_M4[:, 1]
    line_owners = np.repeat(np.arange(len(objects)), counts_M)
    line_columns = np.arange(len(line_owners)) + np.repeat(boxes_M4[:, 1] - np.cumsum(counts_M) + counts_M, counts_M)
    all_lines = line_owners * width + line_columns
    # A gap begins at the top of a line or where a run ends; it ends where a run begins or at the line's end.
    gaps = np.sort(_keys(all_lines, boxes_M4[line_owners, 0], lines, ends[inside], height))
    stops = np.sort(_keys(all_lines, boxes_M4[line_owners, 2], lines, begins[inside], height))
    lines, rows = np.divmod(gaps, height + 1)
    runs = ColumnRuns(lines // width, lines % width, rows, stops - gaps)
    return unite_runs(ColumnRuns(*(part[runs.length > 0] for part in runs)), len(objects), objects.shape_hw)


def _keys(
    lines: np.ndarray, rows: np.ndarray, more_lines: np.ndarray, more_rows: np.ndarray, height: int
) -> np.ndarray:
    """Places of both kinds as numbers that ascend by line, then by row up to the height."""
    return np.concatenate([lines, more_lines]) * (height + 1) + np.concatenate([rows, more_rows])


def _owners(objects: Objects) -> np.ndarray:
    """The object of each run, int64."""
    return np.repeat(np.arange(len(objects)), np.diff(objects.offsets))
