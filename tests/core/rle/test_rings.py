"""Outlines of masks: simple polygons of whole numbers that give the mask again, as shapely and we fill them."""

import numpy as np
import pytest
from scipy import ndimage
from shapely import Polygon

from hard_masks import STRUCTURE, hard_masks
from histofold.core.rle import rings
from histofold.core.rle.rings import trace_components
from histofold.core.rle.runs import runs_from_mask
from histofold.core.rle.sets import fill_rings, union_runs


@pytest.mark.parametrize("batch", [1, 20, 1000])
def test_outlines_are_valid_polygons_that_give_the_mask_again(batch, monkeypatch):
    monkeypatch.setattr(rings, "BATCH_RUNS", batch)
    for mask_HW in hard_masks(80, seed=batch):
        runs = runs_from_mask(mask_HW)
        components = list(trace_components(runs))
        assert len(components) == ndimage.label(mask_HW, STRUCTURE[4])[1]
        assert fill_rings([ring for each in components for ring in each.rings], mask_HW.shape) == runs
        for each in components:
            polygon = Polygon(each.rings[0], each.rings[1:])
            assert polygon.is_valid
            assert polygon.area == each.pieces.area
            assert polygon.exterior.is_ccw
            assert not any(hole.is_ccw for hole in polygon.interiors)
        if components:
            assert union_runs([each.pieces for each in components]) == runs
            firsts = [each.pieces.starts[0] for each in components]
            assert firsts == sorted(firsts)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["##.", "#.#", ".##"], [1, 1]),  # parts that share but a corner
        (["###", "#.#", "###"], [2]),
        (["###", "#.#", "##."], [2]),  # a ring that closes at a corner: its outline would touch itself
        ([".###", "##.#", "#.##", "###."], [3]),  # two holes that share a corner
        (["####", "#..#", "#.##", "##.#", "####"], [3]),
        (["#####", "#...#", "#.#.#", "#...#", "#####"], [2, 1]),  # an island in a hole
    ],
)
def test_parts_and_holes_that_touch_at_corners_are_kept_apart(rows, expected):
    mask_HW = np.array([[cell == "#" for cell in row] for row in rows])
    assert [len(each.rings) for each in trace_components(runs_from_mask(mask_HW))] == expected


def test_runs_that_touch_or_pass_a_column_are_no_edges():
    runs = runs_from_mask(np.ones((4, 3)))
    (whole,) = trace_components(runs)
    assert whole.rings[0].tolist() == [[0, 0], [3, 0], [3, 4], [0, 4]]
    assert len(whole.pieces) == 3
    assert not list(trace_components(runs_from_mask(np.zeros((4, 3)))))
    with pytest.raises(ValueError, match='order "F"'):
        trace_components(runs_from_mask(np.ones((2, 2)), order="C"))
