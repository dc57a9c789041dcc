"""The outlines of a mask held as runs, along the edges of its pixels: what `fill_rings` fills to the same mask again.

Nothing is decoded: memory and time grow with the runs. In words of geometry: each end of a run is a piece of a
horizontal edge; pieces that continue each other are one edge; and along every vertical line the ends of these edges,
from top to bottom, are joined two by two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from histofold.core.jit import njit
from histofold.core.regions import label_runs, merge_touching, split_runs
from histofold.core.rle.runs import Runs

BATCH_RUNS = 1 << 18
"""Runs whose components are traced at once; a component of more is traced alone."""


@dataclass(frozen=True, eq=False)
class Component:
    """A connected part of a mask; pixels that share but a corner belong to two parts, so that outlines are simple."""

    rings: list[np.ndarray]
    """The outer ring, then those of its holes: int64 (P, 2), x and y of the corners in pixels, the first one not
    repeated. The first pixel covers 0 to 1 on both axes. By the signs of x and y the outer ring goes
    counter-clockwise, and holes clockwise."""
    pieces: Runs
    """Its pixels: runs of order "F", none of which passes a column's end."""


def trace_components(runs: Runs) -> Iterator[Component]:
    """The components of a mask with their outlines, in the order of their first pixel; few are held at a time.

    Rings are simple polygons: where one would touch itself at a corner it is cut in two there, an outer ring and a hole
    or two holes, as OGC's Simple Features want it (https://www.ogc.org/standards/sfa). Corners are whole numbers, and
    all rings together, filled by the even-odd rule, are exactly the mask.

    Args:
        runs: Of order "F".

    Raises:
        ValueError: If they are of another order.

    Example:
        >>> (dot,) = trace_components(runs_from_mask(np.eye(3) * [0, 1, 0]))
        >>> dot.rings[0].tolist()
        [[1, 1], [2, 1], [2, 2], [1, 2]]
    """
    if runs.order != "F":
        raise ValueError('outlines are traced down the columns: give runs of order "F"')
    pieces = split_runs(merge_touching(runs))
    labels = label_runs(pieces, corners=False)
    return _traced(pieces, labels) if len(pieces) else iter(())


def _traced(pieces: Runs, labels: np.ndarray) -> Iterator[Component]:
    """Trace components in batches: a slide may have millions of runs, and a component needs but its own."""
    by_label, ends = labels.argsort(kind="stable"), np.bincount(labels).cumsum()
    label, start = 0, 0
    while label < len(ends):
        after = max(label + 1, int(ends.searchsorted(start + BATCH_RUNS, "right")))
        own = np.sort(by_label[start : ends[after - 1]])
        batch = Runs(pieces.starts[own], pieces.lengths[own], pieces.shape_hw)
        yield from _trace_batch(batch, labels[own] - label)
        label, start = after, int(ends[after - 1])


def _trace_batch(pieces: Runs, labels: np.ndarray) -> Iterator[Component]:
    """Trace whole components, numbered from 0 in the order of their first pixel."""
    corners_P2, of_piece, following, points = _corners(pieces)
    order, offsets = np.empty(len(corners_P2), np.int64), np.empty(len(corners_P2) // 4 + 1, np.int64)
    count = _walk_jit(following, points, np.full(points.max() + 1, -1), order, offsets)
    offsets = np.append(offsets[:count], len(order))
    corners_P2, of_rings = corners_P2[order], labels[of_piece[order[offsets[:-1]]]]
    is_hole = _signed_areas(corners_P2, offsets) < 0
    of_labels = np.arange(labels.max() + 2)
    ring_order, piece_order = np.lexsort((is_hole, of_rings)), labels.argsort(kind="stable")
    first_ring, first_piece = of_rings[ring_order].searchsorted(of_labels), labels[piece_order].searchsorted(of_labels)
    for label in of_labels[:-1]:
        own = piece_order[first_piece[label] : first_piece[label + 1]]
        rings = ring_order[first_ring[label] : first_ring[label + 1]]
        part = Runs(pieces.starts[own], pieces.lengths[own], pieces.shape_hw)
        yield Component([corners_P2[offsets[ring] : offsets[ring + 1]] for ring in rings], part)


def _corners(pieces: Runs) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The corners of all rings: x and y, a piece of each, the corner that follows, and the number of its point.

    Two corners may lie in one point; they then have one number.
    """
    height, width = pieces.shape_hw
    column, top = np.divmod(pieces.starts, height)
    x = np.concatenate([column, column])
    y = np.concatenate([top, top + pieces.lengths])
    below = np.repeat([1, 0], len(pieces))  # whether the mask lies below this end
    piece = np.tile(np.arange(len(pieces)), 2)
    order = (y * width + x).argsort(kind="stable")
    x, y, below, piece = x[order], y[order], below[order], piece[order]
    breaks = (np.diff(y) != 0) | (np.diff(x) != 1) | (np.diff(below) != 0)
    first, last = np.flatnonzero(np.append(True, breaks)), np.flatnonzero(np.append(breaks, True))
    # The edge from left to right above the mask, from right to left below it: two corners, its tail and its head.
    y, below, piece = y[first], below[first], piece[first]
    left, right = x[first], x[last] + 1
    tail, head = np.where(below, left, right), np.where(below, right, left)
    corner_x, corner_y = np.stack([tail, head], axis=1).reshape(-1), np.repeat(y, 2)
    # Where four edges meet, the end of what lies above comes first: parts that touch at a corner are kept apart.
    point = corner_x * (height + 1) + corner_y
    along = (point * 2 + np.repeat(below, 2)).argsort(kind="stable")
    partner = np.empty_like(along)
    partner[along[::2]], partner[along[1::2]] = along[1::2], along[::2]
    following = np.arange(len(along)) + 1
    following[1::2] = partner[1::2]
    _, points = np.unique(point, return_inverse=True)
    return np.stack([corner_x, corner_y], axis=1), np.repeat(piece, 2), following, points


@njit
def _walk_jit(
    following: np.ndarray, points: np.ndarray, on_path: np.ndarray, order: np.ndarray, offsets: np.ndarray
) -> int:
    """Follow the corners round, and cut a ring off wherever a point is met for the second time; gives their number.

    Args:
        following: int64, the corner after each.
        points: int64, the point that each lies in.
        on_path: int64, -1: for each point its place on the path.
        order: int64, receives the corners ring by ring.
        offsets: int64, receives where each ring begins in `order`.
    """
    path = np.empty_like(order)
    done = np.zeros(following.size, np.uint8)
    written, rings = 0, 0
    for start in range(following.size):
        if done[start]:
            continue
        length, corner = 0, start
        while True:
            place = on_path[points[corner]]
            if place >= 0 or done[corner]:
                place = max(place, 0)
                offsets[rings] = written
                rings += 1
                for at in range(place, length):
                    order[written] = path[at]
                    on_path[points[path[at]]] = -1
                    written += 1
                length = place
            if done[corner]:
                break
            done[corner] = 1
            path[length] = corner
            on_path[points[corner]] = length
            length += 1
            corner = following[corner]
    return rings


def _signed_areas(corners_P2: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Twice the area of each ring, int64, positive where it is an outer one (the shoelace formula)."""
    after = np.arange(1, len(corners_P2) + 1)
    after[offsets[1:] - 1] = offsets[:-1]
    (x0, y0), (x1, y1) = corners_P2.T, corners_P2[after].T
    return np.add.reduceat(x0 * y1 - x1 * y0, offsets[:-1])
