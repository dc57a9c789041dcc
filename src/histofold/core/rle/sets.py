"""Masks held as runs: joined, taken from each other, and filled from outlines, without decoding any of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histofold.core.rle.runs import Masks, Runs, class_runs, join_classes


def union_runs(parts: Sequence[Runs]) -> Runs:
    """The pixels of any of several masks, touching runs as one.

    Args:
        parts: At least one mask, all of one size and order.

    Raises:
        ValueError: If they differ in size or in order.
    """
    _require_one_frame(parts)
    starts = np.concatenate([runs.starts for runs in parts])
    ends = starts + np.concatenate([runs.lengths for runs in parts])
    order = starts.argsort(kind="stable")
    starts, reached = starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate([[True], starts[1:] > reached[:-1]]) if len(starts) else np.zeros(0, bool)
    last = np.concatenate([first[1:], [True]]) if len(starts) else first
    return Runs(starts[first], reached[last] - starts[first], parts[0].shape_hw, parts[0].order)


def subtract_runs(runs: Runs, taken: Runs) -> Runs:
    """The pixels of a mask that another one of the same size and order has not, touching runs as one.

    Raises:
        ValueError: If they differ in size or in order.
    """
    _require_one_frame((runs, taken))
    edges = [array for each in (runs, taken) for array in (each.starts, each.starts + each.lengths)]
    bounds = np.unique(np.concatenate(edges))
    kept = (_covers(runs, bounds) & ~_covers(taken, bounds))[:-1]
    return union_runs([Runs(bounds[:-1][kept], np.diff(bounds)[kept], runs.shape_hw, runs.order)])


def without_runs(masks: Masks, taken: Runs | None) -> Masks:
    """The pixels of each class that are not taken; the masks themselves where nothing is."""
    return masks if taken is None else join_classes([subtract_runs(runs, taken) for runs in class_runs(masks)])


def pixels_within(runs: Runs, other: Runs) -> np.ndarray:
    """How many pixels of each run another mask of the same size and order holds; int64 (n,).

    Raises:
        ValueError: If they differ in size or in order.
    """
    _require_one_frame((runs, other))
    if not len(other):
        return np.zeros(len(runs), np.int64)
    # `before(x)` = pixels of the other mask before position x: whole runs, and part of one.
    totals = other.lengths.cumsum() - other.lengths

    def before(positions: np.ndarray) -> np.ndarray:
        run = other.starts.searchsorted(positions, side="right") - 1
        inside = (positions - other.starts[run]).clip(0, other.lengths[run])
        return np.asarray((totals[run] + inside) * (run >= 0))

    return before(runs.starts + runs.lengths) - before(runs.starts)


def _covers(runs: Runs, positions: np.ndarray) -> np.ndarray:
    """Which positions belong to a mask, bool of their shape."""
    if not len(runs):
        return np.zeros(positions.shape, bool)
    before = runs.starts.searchsorted(positions, side="right") - 1
    return (before >= 0) & (positions < (runs.starts + runs.lengths)[before])


def _require_one_frame(parts: Sequence[Runs]) -> None:
    if len({(runs.shape_hw, runs.order) for runs in parts}) != 1:
        raise ValueError("masks that differ in size or order: encode all at the image's size, in one order")


def fill_rings(rings: Sequence[np.ndarray], shape_hw: tuple[int, int]) -> Runs:
    """Outlines filled by the even-odd rule: a ring within a ring is a hole.

    The first pixel covers 0 to 1 on both axes, as in QuPath, COCO and Aperio files: a pixel belongs to the mask if its
    middle lies inside, so that a square of 10 by 10 that stands on whole numbers has 100 pixels. Parts beyond the image
    are cut off.

    Args:
        rings: Each float (P, 2): x and y of its corners in pixels, the first one repeated at the end or not.
        shape_hw: Height and width of the mask.

    Returns:
        Runs of order "F".
    """
    height, width = shape_hw
    crossings = [_column_crossings(np.asarray(ring, float), width) for ring in rings]
    columns = np.concatenate([column for column, _, _ in crossings] or [np.zeros(0, np.int64)])
    rows = np.concatenate([np.ceil(row - 0.5) for _, row, _ in crossings] or [np.zeros(0)])
    rows = rows.clip(0, height).astype(np.int64)
    order = np.lexsort((rows, columns))
    # Closed rings cross the middle of a column an even number of times: inside lies between each two crossings.
    bounds = columns[order] * height + rows[order]
    starts, lengths = bounds[::2], bounds[1::2] - bounds[::2]
    held = lengths > 0
    return union_runs([Runs(starts[held], lengths[held], (height, width))])


def is_simple_ring(ring_P2: np.ndarray) -> bool:
    """Whether an outline goes round no place twice, and round all places in one direction.

    Beside each crossing lie places that an outline goes round twice, or in the other direction. It may touch itself,
    and go out and back on one line. This is looked at along the middles of columns of one pixel.

    Args:
        ring_P2: x and y of its corners in pixels, the first one repeated at the end or not.
    """
    ring_P2 = np.asarray(ring_P2, float)
    width = int(np.ceil(np.ptp(ring_P2[:, 0]))) + 1
    columns, rows, turns = _column_crossings(ring_P2 - [ring_P2[:, 0].min(), 0], width)
    order = np.lexsort((rows, columns))
    columns, rows, turns = columns[order], rows[order], turns[order].cumsum()  # each column sums up to 0
    is_last = np.ones(len(rows), bool)
    is_last[:-1] = (np.diff(columns) > 0) | (np.diff(rows) > 1e-6)
    return set(turns[is_last].tolist()) in ({0, 1}, {0, -1}, {0}, set())


def _column_crossings(ring_P2: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a ring's edges cross the middles of columns: the column, int64, the y, float, and 1 rightward, -1 left."""
    (x0, y0), (x1, y1) = ring_P2.T, np.roll(ring_P2, -1, axis=0).T
    # Half open, so that a corner on the middle of a column is crossed by one of its two edges alone.
    first, stop = (
        np.ceil(side - 0.5).clip(0, width).astype(np.int64) for side in (np.minimum(x0, x1), np.maximum(x0, x1))
    )
    counts = stop - first
    edge = np.repeat(np.arange(len(ring_P2)), counts)
    columns = np.arange(counts.sum()) + np.repeat(first - (counts.cumsum() - counts), counts)
    slopes = (y1 - y0)[edge] / (x1 - x0)[edge]
    return columns, y0[edge] + (columns + 0.5 - x0[edge]) * slopes, np.sign(x1 - x0)[edge].astype(np.int64)
