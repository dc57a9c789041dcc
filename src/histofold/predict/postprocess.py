"""From thresholded masks to those that are submitted, on runs, and the last resort of an image without any."""

from __future__ import annotations

import numpy as np

from histofold.core.regions import fill_holes, keep_largest, keep_seeded, remove_small
from histofold.core.rle.runs import Masks, RunEncoder, Runs, class_runs, join_classes, runs_from_mask
from histofold.schema.prediction import PredictConfig
from histofold.schema.preprocessing import has_pixel_size

PEAK_CELLS = 256  # the peak map is at most this many cells a side: 64k floats, whatever the slide's size


def clean_masks(
    found: Masks,
    seeds: Masks | None,
    peak: Runs,
    settings: PredictConfig,
    pixel_size_um: float | None,
    never_empty: bool,
) -> Masks:
    """The masks of an image after hysteresis, filling of holes and dropping of small components.

    Args:
        found: What passes the threshold, at the original size; of each class where there are several.
        seeds: What passes the seed threshold, likewise; None: no hysteresis.
        peak: The most probable place, for an image where nothing is found at all.
        settings: Which steps, and how much of each.
        pixel_size_um: Pixel size of the file; where it is unknown, settings in micrometres do nothing.
        never_empty: Where cleaning leaves nothing, keep the largest component that was found, else the peak. Of several
            classes each may be absent, so it is for a single one alone.

    Raises:
        ValueError: If masks and seeds differ in classes, shape or order.
    """
    raw = class_runs(found)
    seeded = raw
    if seeds is not None:
        # zip is strict: masks and seeds of different classes must not be paired in silence.
        seeded = tuple(keep_seeded(low, high) for low, high in zip(raw, class_runs(seeds), strict=True))
    cleaned = [_clean_class(runs, settings, pixel_size_um) for runs in seeded]
    if len(cleaned) > 1 or len(cleaned[0]) or not never_empty:
        return join_classes(cleaned)
    return keep_largest(raw[0]) if len(raw[0]) else peak


def _clean_class(runs: Runs, settings: PredictConfig, pixel_size_um: float | None) -> Runs:
    """One class after the steps whose settings are in micrometres."""
    if len(runs) == 0 or not has_pixel_size(pixel_size_um):
        return runs
    side_um = float(pixel_size_um or 1)
    if settings.max_hole_um2 > 0:
        runs = fill_holes(runs, settings.max_hole_um2 / side_um**2)
    if settings.min_area_um2 > 0:
        runs = remove_small(runs, settings.min_area_um2 / side_um**2)
    return runs


class PeakMap:
    """The highest probability in each cell of a coarse grid, gathered band by band."""

    def __init__(self, shape_hw: tuple[int, int]) -> None:
        self._cell = max(1, -(-max(shape_hw) // PEAK_CELLS))
        self._shape_hw = shape_hw
        self._cells_HW = np.full([-(-side // self._cell) for side in shape_hw], -np.inf, np.float32)

    def add(self, y: int, probs_HW: np.ndarray) -> None:
        """Take the next band, whose first row is row y of the scaled image."""
        columns_HC = np.maximum.reduceat(probs_HW, np.arange(0, probs_HW.shape[1], self._cell), axis=1)
        np.maximum.at(self._cells_HW, (y + np.arange(len(probs_HW))) // self._cell, columns_HC)

    def runs(self, original_hw: tuple[int, int]) -> Runs:
        """Mask of the region around the highest cell, at the original size: cells of at least 0.9 of it, connected.

        A network that is sure of nothing still has a place that it likes best; where an empty row is never right,
        this is the row's best guess.
        """
        top = float(self._cells_HW.max())
        largest = keep_largest(runs_from_mask(self._cells_HW >= (0.9 * top if top > 0 else top)))
        flat = np.zeros(self._cells_HW.size, bool)
        for start, length in zip(largest.starts, largest.lengths, strict=True):
            flat[start : start + length] = True
        largest_HW: np.ndarray = flat.reshape(self._cells_HW.shape, order="F")
        rows, columns = (
            np.minimum((np.arange(original) * scaled // original) // self._cell, count - 1)
            for original, scaled, count in zip(original_hw, self._shape_hw, largest_HW.shape, strict=True)
        )
        # Each pixel takes all cells up to the next pixel's: of an enlarged image none may fall between two.
        wide_HW = np.logical_or.reduceat(largest_HW, columns, axis=1)
        stops = np.maximum(np.append(rows[1:], len(wide_HW)), rows + 1)
        encoder = RunEncoder(original_hw, order="F", axis="rows")
        for start in range(0, original_hw[0], 1024):
            chosen = rows[start : start + 1024]
            encoder.add(np.logical_or.reduceat(wide_HW[: stops[start + len(chosen) - 1]], chosen, axis=0))
        return encoder.runs()
