"""From thresholded masks to those that are submitted: on runs, whatever the size of the slide."""

from __future__ import annotations

from histofold.core.regions import fill_holes, keep_largest, keep_seeded, remove_small
from histofold.core.rle.runs import Masks, Runs, class_runs, join_classes
from histofold.core.smoothing import smooth_runs
from histofold.schema.postprocess import Postprocess
from histofold.schema.preprocessing import has_pixel_size


def clean_masks(
    found: Masks,
    seeds: Masks | None,
    peak: Runs,
    settings: Postprocess,
    pixel_size_um: float | None,
    never_empty: bool,
) -> Masks:
    """The masks of an image after hysteresis, filling of holes, smoothing and dropping of small components.

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


def _clean_class(runs: Runs, settings: Postprocess, pixel_size_um: float | None) -> Runs:
    """One class after the steps whose settings are in micrometres."""
    if len(runs) == 0 or not has_pixel_size(pixel_size_um):
        return runs
    side_um = float(pixel_size_um or 1)
    if settings.max_hole_um2 > 0:
        runs = fill_holes(runs, settings.max_hole_um2 / side_um**2)
    if settings.smooth_um > 0:
        runs = smooth_runs(runs, settings.smooth_um / side_um)
    if settings.min_area_um2 > 0:
        runs = remove_small(runs, settings.min_area_um2 / side_um**2)
    return runs
