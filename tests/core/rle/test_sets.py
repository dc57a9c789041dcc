"""Sets of runs against the same sets of decoded masks, and outlines against a count of crossings."""

import numpy as np
import pytest
from skimage.measure import points_in_poly

from histofold.core.rle.runs import runs_from_mask
from histofold.core.rle.sets import fill_rings, pixels_within, subtract_runs, union_runs, without_runs


@pytest.mark.parametrize("order", ["F", "C"])
def test_union_and_difference_are_those_of_masks(order):
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width = rng.integers(1, 12, 2)
        first, second, third = rng.random((3, height, width)) < rng.choice([0, 0.2, 0.6, 1], 3)[:, None, None]
        runs, other, last = (runs_from_mask(mask, order) for mask in (first, second, third))
        assert union_runs([runs, other, last]) == runs_from_mask(first | second | third, order)
        assert subtract_runs(runs, other) == runs_from_mask(first & ~second, order)


@pytest.mark.parametrize("order", ["F", "C"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_pixels_of_each_run_within_another_mask_are_counted(order, share):
    rng = np.random.default_rng(3)
    first_HW, other_HW = rng.random((13, 29)) < 0.5, rng.random((13, 29)) < share
    first_HW[0, 0] = first_HW[-1, -1] = True
    runs = runs_from_mask(first_HW, order)
    both = (first_HW & other_HW).ravel(order)
    expected = [both[start : start + length].sum() for start, length in zip(runs.starts, runs.lengths, strict=True)]
    assert pixels_within(runs, runs_from_mask(other_HW, order)).tolist() == expected
    with pytest.raises(ValueError, match="encode all at the image's size"):
        pixels_within(runs, runs_from_mask(other_HW.T, order))


def test_masks_of_two_sizes_have_no_union():
    with pytest.raises(ValueError, match="differ in size"):
        union_runs([runs_from_mask(np.ones((2, 3))), runs_from_mask(np.ones((3, 2)))])


def test_a_square_on_whole_numbers_has_its_pixels_and_a_ring_within_is_a_hole():
    square = np.array([[2, 3], [12, 3], [12, 13], [2, 13]])
    hole = np.array([[4, 4], [4, 6], [7, 6], [7, 4], [4, 4]])
    mask = fill_rings([square], (20, 30)).to_mask()
    assert mask.sum() == 100
    assert mask[3:13, 2:12].all()
    assert fill_rings([square, hole], (20, 30)).area == 100 - 6
    assert fill_rings([square, square], (20, 30)).area == 0
    assert fill_rings([], (20, 30)).area == 0


def test_a_pixel_belongs_to_an_outline_if_its_middle_does():
    rng = np.random.default_rng(1)
    for _ in range(40):
        height, width = (int(side) for side in rng.integers(3, 40, 2))
        rings = [rng.uniform(-10, 50, (rng.integers(3, 9), 2)) for _ in range(rng.integers(1, 4))]
        y, x = np.mgrid[:height, :width] + 0.5
        middles = np.stack([x.ravel(), y.ravel()], axis=1)
        odd = np.sum([points_in_poly(middles, ring) for ring in rings], axis=0) % 2 == 1
        np.testing.assert_array_equal(fill_rings(rings, (height, width)).to_mask(), odd.reshape(height, width))


def test_every_class_loses_what_is_taken_and_nothing_is_copied_where_nothing_is():
    first, second, taken = np.random.default_rng(2).random((3, 7, 11)) < 0.5
    masks = (runs_from_mask(first), runs_from_mask(second))
    assert without_runs(masks, None) is masks
    assert without_runs(masks, runs_from_mask(taken)) == (
        runs_from_mask(first & ~taken),
        runs_from_mask(second & ~taken),
    )
    assert without_runs(masks[0], runs_from_mask(taken)) == runs_from_mask(first & ~taken)
