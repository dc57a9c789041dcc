"""Regions of a mask held as runs: components, holes, hysteresis; only runs of neighbouring lines are visited."""

from __future__ import annotations

import numpy as np

from histofold.core.jit import HAS_NUMBA, njit
from histofold.core.rle.paint import split_lines
from histofold.core.rle.runs import Runs


def split_runs(runs: Runs) -> Runs:
    """The same mask with runs cut at the ends of lines (columns for order "F", rows for "C").

    A run may pass from the bottom of a column to the top of the next one, two pixels that are no neighbours.
    """
    return Runs(*split_lines(runs.starts, runs.lengths, runs.line_length), runs.shape_hw, runs.order)


def merge_touching(runs: Runs) -> Runs:
    """The same mask with touching runs joined, as `runs_from_mask` gives them."""
    if len(runs) == 0:
        return runs
    ends = runs.starts + runs.lengths
    apart = runs.starts[1:] > ends[:-1]
    starts = runs.starts[np.concatenate([[True], apart])]
    return Runs(starts, ends[np.concatenate([apart, [True]])] - starts, runs.shape_hw, runs.order)


def label_runs(runs: Runs, *, corners: bool = True) -> np.ndarray:
    """The component of each run.

    Args:
        runs: Runs that `split_runs` has cut at the ends of lines.
        corners: Whether pixels that share but a corner are neighbours.

    Returns:
        int64 (n,): 0, 1, ... in the order in which the runs meet the components.

    Raises:
        ValueError: If a run passes the end of a line.
    """
    lines = runs.starts // runs.line_length
    if (lines != (runs.starts + runs.lengths - 1) // runs.line_length).any():
        raise ValueError("a run passes the end of a line: label split_runs(runs) instead")
    if not HAS_NUMBA:
        return _label_runs_scipy(runs, lines, int(corners))
    labels = np.arange(len(runs))
    _label_runs_jit(runs.starts, runs.lengths, runs.line_length, int(corners), labels)
    return labels


def component_areas(runs: Runs, labels: np.ndarray) -> np.ndarray:
    """Pixels of each component, int64, by label.

    Args:
        runs: The labelled runs.
        labels: Label of each run, as `label_runs` gives them.

    Raises:
        ValueError: If there is not one label a run.
    """
    if len(labels) != len(runs):
        raise ValueError(f"{len(labels)} labels for {len(runs)} runs: label these very runs")
    return np.bincount(labels, weights=runs.lengths).astype(np.int64)


def remove_small(runs: Runs, min_area_px: float) -> Runs:
    """The mask without components below an area in pixels, which need not be whole; touching runs are joined."""
    pieces = split_runs(runs)
    labels = label_runs(pieces)
    return select_runs(pieces, (component_areas(pieces, labels) >= min_area_px)[labels])


def keep_largest(runs: Runs) -> Runs:
    """The largest component alone; of equal ones the first in the runs' order; no runs stay no runs."""
    pieces = split_runs(runs)
    if len(pieces) == 0:
        return pieces
    labels = label_runs(pieces)
    return select_runs(pieces, labels == component_areas(pieces, labels).argmax())


def select_runs(runs: Runs, chosen: np.ndarray) -> Runs:
    """The mask of some of the runs, touching ones joined.

    Args:
        runs: The runs to choose from.
        chosen: bool (n,), whether each run stays.
    """
    return merge_touching(Runs(runs.starts[chosen], runs.lengths[chosen], runs.shape_hw, runs.order))


@njit
def _label_runs_jit(starts: np.ndarray, lengths: np.ndarray, line_length: int, reach: int, labels: np.ndarray) -> None:
    """Union-find over runs of neighbouring lines; a component's root is its first run.

    Args:
        starts: int64, ascending.
        lengths: int64; no run passes a line's end.
        line_length: Pixels of a line.
        reach: 1 if runs that share but a corner are neighbours, else 0.
        labels: int64, 0, 1, ..., n - 1; becomes the labels.
    """
    first, base = 0, 0
    for run in range(starts.size):
        start, end = starts[run], starts[run] + lengths[run]
        base += (start - base) // line_length * line_length
        while starts[first] + lengths[first] + line_length <= start - reach or starts[first] < base - line_length:
            first += 1
        other = first
        while starts[other] < base and starts[other] + line_length < end + reach:
            root, other_root = run, other
            while labels[root] != root:
                labels[root] = labels[labels[root]]
                root = labels[root]
            while labels[other_root] != other_root:
                labels[other_root] = labels[labels[other_root]]
                other_root = labels[other_root]
            labels[max(root, other_root)] = min(root, other_root)
            other += 1
    count = 0
    for run in range(starts.size):  # roots come before their runs, so that labels[root] is final when it is read
        if labels[run] == run:
            labels[run] = count
            count += 1
        else:
            labels[run] = labels[labels[run]]


def _label_runs_scipy(runs: Runs, lines: np.ndarray, reach: int) -> np.ndarray:
    """The same without numba: pairs of neighbouring runs by bisection, their graph's components by scipy."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    starts, ends, length = runs.starts, runs.starts + runs.lengths, runs.line_length
    # Within the line before, the neighbours of a run are consecutive: from the first that does not end too early to
    # the last that does not start too late.
    low = np.maximum(ends.searchsorted(starts - reach - length, "right"), starts.searchsorted((lines - 1) * length))
    high = np.minimum(starts.searchsorted(ends + reach - length), starts.searchsorted(lines * length))
    counts = np.maximum(0, high - low)
    run = np.repeat(np.arange(len(runs)), counts)
    other = np.arange(run.size) + np.repeat(low - np.cumsum(counts) + counts, counts)
    graph = coo_array((np.ones(run.size, np.int8), (run, other)), shape=(len(runs), len(runs)))
    _, components = connected_components(graph, directed=False)
    _, firsts, inverse = np.unique(components, return_index=True, return_inverse=True)
    ranks = np.empty(firsts.size, np.int64)
    ranks[firsts.argsort()] = np.arange(firsts.size)
    return ranks[inverse]


def invert_runs(runs: Runs) -> Runs:
    """The background of a mask as runs, no two of which touch."""
    pixels = runs.shape_hw[0] * runs.shape_hw[1]
    starts = np.concatenate([[0], runs.starts + runs.lengths])
    lengths = np.concatenate([runs.starts, [pixels]]) - starts
    between = lengths > 0
    return Runs(starts[between], lengths[between], runs.shape_hw, runs.order)


def fill_holes(runs: Runs, max_area_px: float) -> Runs:
    """The mask with its holes filled.

    A hole is a component of the background that does not reach the border. Background pixels that share but a corner
    are no neighbours: a diagonal line of the mask keeps them apart. Without that a closed ring could leak.

    Args:
        runs: The mask.
        max_area_px: Largest hole that is filled, in pixels; need not be whole, `math.inf` fills all.

    Returns:
        Runs, touching ones joined.

    Raises:
        ValueError: If the area is negative or no number.
    """
    if not max_area_px >= 0:
        raise ValueError(f"max_area_px={max_area_px}: pixels, 0 or more")
    background = split_runs(invert_runs(runs))
    labels = label_runs(background, corners=False)
    open_labels = component_areas(background, labels) > max_area_px
    open_labels[labels[_at_border(background)]] = True
    return invert_runs(select_runs(background, open_labels[labels]))


def _at_border(runs: Runs) -> np.ndarray:
    """Whether each run, none of which passes a line's end, holds a pixel of the image's border; bool (n,)."""
    lines, positions = np.divmod(runs.starts, runs.line_length)
    last_line = runs.shape_hw[0] * runs.shape_hw[1] // runs.line_length - 1
    at_ends = (positions == 0) | (positions + runs.lengths == runs.line_length)
    return at_ends | (lines == 0) | (lines == last_line)


def keep_seeded(low: Runs, high: Runs) -> Runs:
    """The components of one mask that hold a pixel of another one.

    With the masks of a low and a high threshold of one image this is hysteresis thresholding (J. Canny, A
    Computational Approach to Edge Detection, IEEE PAMI 8(6), 1986).

    Args:
        low: The mask whose components are kept or dropped.
        high: The seeds; those outside of `low` count for nothing.

    Returns:
        Runs, touching ones joined.

    Raises:
        ValueError: If the masks differ in shape or order.
    """
    if (low.shape_hw, low.order) != (high.shape_hw, high.order):
        raise ValueError(
            f"seeds of {high.shape_hw} pixels in order {high.order} for a mask of {low.shape_hw} in order {low.order}: "
            "take both from one image, in one order"
        )
    pieces = split_runs(low)
    labels = label_runs(pieces)
    # Seeds that start before a piece ends, less those that end before it starts: what is left overlaps it.
    started = high.starts.searchsorted(pieces.starts + pieces.lengths)
    ended = (high.starts + high.lengths).searchsorted(pieces.starts, "right")
    seeded = np.zeros(len(pieces), bool)
    seeded[labels[started > ended]] = True
    return select_runs(pieces, seeded[labels])
