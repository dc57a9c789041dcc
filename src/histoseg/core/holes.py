"""Holes of a mask held as runs: components of the background, which has about as many runs as the mask."""

from __future__ import annotations

import numpy as np

from histoseg.core.components import component_areas, label_runs, require_connectivity, select_runs, split_runs
from histoseg.core.rle import Runs


def invert_runs(runs: Runs) -> Runs:
    """The background of a mask; touching runs of the mask leave nothing between them.

    Args:
        runs: The mask.

    Returns:
        Runs, no two of which touch.
    """
    pixels = runs.shape_hw[0] * runs.shape_hw[1]
    starts = np.concatenate([[0], runs.starts + runs.lengths])
    lengths = np.concatenate([runs.starts, [pixels]]) - starts
    between = lengths > 0
    return Runs(starts[between], lengths[between], runs.shape_hw, runs.order)


def fill_holes(runs: Runs, max_area_px: float, connectivity: int = 8) -> Runs:
    """The mask with its holes filled.

    A hole is a component of the background that does not reach the border. Background is joined the other way round
    than the mask: where mask pixels that share a corner are neighbours, a diagonal line of them keeps background apart.
    Without that a closed ring could leak.

    Args:
        runs: The mask.
        max_area_px: Largest hole that is filled, in pixels; need not be whole, `math.inf` fills all.
        connectivity: 8 or 4, of the mask; the background's is the other one.

    Returns:
        Runs, touching ones joined.

    Raises:
        ValueError: For another connectivity, or an area that is negative or no number.
    """
    require_connectivity(connectivity)
    if not max_area_px >= 0:
        raise ValueError(f"max_area_px={max_area_px}: pixels, 0 or more")
    background = split_runs(invert_runs(runs))
    labels = label_runs(background, 12 - connectivity)
    open_labels = component_areas(background, labels) > max_area_px
    open_labels[labels[_at_border(background)]] = True
    return invert_runs(select_runs(background, open_labels[labels]))


def _at_border(runs: Runs) -> np.ndarray:
    """Whether each run, none of which passes a line's end, holds a pixel of the image's border; bool (n,)."""
    lines, positions = np.divmod(runs.starts, runs.line_length)
    last_line = runs.shape_hw[0] * runs.shape_hw[1] // runs.line_length - 1
    at_ends = (positions == 0) | (positions + runs.lengths == runs.line_length)
    return at_ends | (lines == 0) | (lines == last_line)
