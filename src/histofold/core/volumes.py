"""Components of volumes whose slices are held as runs: what is kept of a stack, without ever holding it as voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histofold.core.regions import component_areas, label_runs, select_runs, split_runs
from histofold.core.rle.runs import Runs


def clean_volume(
    slices: Sequence[Runs], seeds: Sequence[Runs] | None = None, min_voxels: int = 0, *, corners: bool = True
) -> list[Runs]:
    """The components of a volume that hold a seed and enough voxels, slice by slice.

    With the masks of a low and a high threshold as slices and seeds this is hysteresis thresholding in three
    dimensions. Voxels that share but a corner are neighbours (26), or only those that share a face (6).

    Args:
        slices: The mask of each slice, from first to last, all of one shape and order.
        seeds: The seeds of each slice; None: every component has one.
        min_voxels: Least voxels of a component that stays.
        corners: Whether voxels that share but an edge or a corner are neighbours.

    Returns:
        Runs of each slice, touching ones joined.

    Raises:
        ValueError: If slices, or slices and seeds, differ in number, shape or order.
    """
    frames = {(runs.shape_hw, runs.order) for runs in (*slices, *(seeds or ()))}
    if len(frames) > 1 or (seeds is not None and len(seeds) != len(slices)):
        raise ValueError("slices and seeds must be as many as one another, all of one shape and one order")
    pieces, labels, count = label_volume(slices, corners=corners)
    kept = np.ones(count, bool)
    if min_voxels > 1:
        areas = np.zeros(count, np.int64)
        for runs, of_runs in zip(pieces, labels, strict=True):
            areas += np.bincount(of_runs, runs.lengths, minlength=count).astype(np.int64)
        kept &= areas >= min_voxels
    if seeds is not None:
        seeded = np.zeros(count, bool)
        for runs, of_runs, high in zip(pieces, labels, seeds, strict=True):
            low, stop = _overlapping(runs.starts, runs.starts + runs.lengths, high)
            seeded[of_runs[stop > low]] = True
        kept &= seeded
    return [select_runs(runs, kept[of_runs]) for runs, of_runs in zip(pieces, labels, strict=True)]


def label_volume(slices: Sequence[Runs], *, corners: bool = True) -> tuple[list[Runs], list[np.ndarray], int]:
    """The component of each run of a volume.

    Returns:
        (pieces, labels, count): of each slice its runs cut at the ends of lines, the label of each, int64 (n,), and
        the number of components.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pieces: list[Runs] = []
    labels: list[np.ndarray] = []
    edges, count = [np.zeros((2, 0), np.int64)], 0
    for runs in slices:
        here = split_runs(runs)
        own = label_runs(here, corners=corners) + count
        if pieces:
            edges.append(_edges(here, own, pieces[-1], labels[-1], corners))
        count += len(component_areas(here, own - count))
        pieces.append(here)
        labels.append(own)
    first, second = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(first.size, np.int8), (first, second)), shape=(count, count))
    total, component = connected_components(graph, directed=False) if count else (0, np.zeros(0, np.int64))
    return pieces, [component[own] for own in labels], int(total)


def _overlapping(starts: np.ndarray, ends: np.ndarray, runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """The places in runs of those that overlap with each interval: from, and up to but without."""
    return (runs.starts + runs.lengths).searchsorted(starts, "right"), runs.starts.searchsorted(ends)


def _edges(runs: Runs, labels: np.ndarray, before: Runs, labels_before: np.ndarray, corners: bool) -> np.ndarray:
    """Pairs of labels of runs in neighbouring slices that touch, each pair once, int64 (2, n)."""
    length = runs.line_length
    lines, rows = np.divmod(runs.starts, length)
    last_line = runs.shape_hw[0] * runs.shape_hw[1] // length - 1
    found = []
    for shift in (-1, 0, 1) if corners else (0,):
        inside = (lines + shift >= 0) & (lines + shift <= last_line)
        base = (lines[inside] + shift) * length
        begin, end = rows[inside], rows[inside] + runs.lengths[inside]
        if corners:
            begin, end = np.maximum(begin - 1, 0), np.minimum(end + 1, length)
        low, stop = _overlapping(base + begin, base + end, before)
        counts = np.maximum(0, stop - low)
        other = np.arange(counts.sum()) + np.repeat(low - np.cumsum(counts) + counts, counts)
        found.append(np.stack([np.repeat(labels[inside], counts), labels_before[other]]))
    return np.unique(np.concatenate(found, axis=1), axis=1)
