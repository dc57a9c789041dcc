"""The filters of resampling: exact over regions, the same with and without numba, and equal to their peers."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from histofold.core.rle.runs import Runs, runs_from_mask
from histofold.imaging import filters
from histofold.imaging.filters import area_sums, triangle_resize, triangle_span, triangle_taps

AREA_SIZES = [((13, 29), (5, 11)), ((13, 29), (13, 29)), ((7, 5), (20, 3)), ((1, 1), (4, 2)), ((29, 13), (1, 1))]


def areas_of(mask_HW, scaled_hw, rows=None, columns=None, order="F"):
    rows, columns = rows or range(scaled_hw[0]), columns or range(scaled_hw[1])
    return area_sums(runs_from_mask(mask_HW, order), rows, columns, scaled_hw)


def overlaps(length, scaled):
    """Overlap of each scaled pixel with each source pixel, in units of 1/scaled of a source pixel, by fractions."""
    step = Fraction(length, scaled)
    return np.array(
        [
            [int(scaled * max(Fraction(0), min((j + 1) * step, i + 1) - max(j * step, i))) for i in range(length)]
            for j in range(scaled)
        ]
    )


def mask_of(shape_hw):
    mask_HW = np.random.default_rng(2).random(shape_hw) < 0.5
    mask_HW[0, 0] = mask_HW[-1, -1] = True
    return mask_HW


@pytest.mark.parametrize(("shape_hw", "scaled_hw"), AREA_SIZES)
@pytest.mark.parametrize("order", ["F", "C"])
def test_areas_are_those_of_exact_fractions(shape_hw, scaled_hw, order, monkeypatch):
    monkeypatch.setattr(filters, "_AREA_RUNS", 7)
    mask_HW = mask_of(shape_hw)
    expected = overlaps(shape_hw[0], scaled_hw[0]) @ mask_HW.astype(int) @ overlaps(shape_hw[1], scaled_hw[1]).T
    np.testing.assert_array_equal(areas_of(mask_HW, scaled_hw, order=order), expected)
    np.testing.assert_array_equal(areas_of(np.ones(shape_hw, bool), scaled_hw, order=order), mask_HW.size)
    assert not areas_of(np.zeros(shape_hw, bool), scaled_hw, order=order).any()


def test_areas_of_the_largest_slide_are_exact():
    """A slide of 40000 x 60000 whose every second column is mask but for a pixel, in pixels of 1/997 of its sides."""
    shape_hw, scaled_hw = (40_000, 60_000), (997, 997)
    starts = np.arange(0, shape_hw[1], 2) * shape_hw[0]
    runs = Runs(starts, np.full(len(starts), shape_hw[0] - 1), shape_hw)
    areas_HW = area_sums(runs, range(997), range(997), scaled_hw)
    assert areas_HW.sum() == runs.area * 997 * 997
    assert (areas_HW[:-1] == areas_HW[0]).all()
    below = areas_HW[0] - areas_HW[-1]
    np.testing.assert_array_equal(below * shape_hw[0], areas_HW[0] * 997)


@pytest.mark.parametrize(("shape_hw", "scaled_hw"), AREA_SIZES)
def test_regions_are_slices_of_the_whole(shape_hw, scaled_hw):
    mask_HW = mask_of(shape_hw)
    whole = areas_of(mask_HW, scaled_hw)
    for y in range(scaled_hw[0]):
        for x in range(0, scaled_hw[1], 4):
            rows, columns = range(y, min(y + 3, scaled_hw[0])), range(x, min(x + 4, scaled_hw[1]))
            part = areas_of(mask_HW, scaled_hw, rows, columns)
            np.testing.assert_array_equal(part, whole[rows.start : rows.stop, columns.start : columns.stop])


TRIANGLE_SIZES = [
    ((97, 61), (40, 61)),
    ((97, 61), (97, 20)),
    ((61, 97), (19, 30)),
    ((7, 5), (60, 1)),
    ((1, 1), (3, 4)),
    ((200, 3), (1, 1)),
    ((97, 61), (97, 61)),
    ((50, 40), (131, 77)),
]


def resized(image_HWC, scaled_hw, rows=None, columns=None):
    """A region of a scaled image, made of no more than the span of it."""
    rows, columns = rows or range(scaled_hw[0]), columns or range(scaled_hw[1])
    shape_hw = image_HWC.shape[:2]
    y, x = triangle_span(rows, shape_hw[0], scaled_hw[0]), triangle_span(columns, shape_hw[1], scaled_hw[1])
    return triangle_resize(image_HWC[y, x], rows, columns, shape_hw, scaled_hw)


def noise(shape_hw):
    return np.random.default_rng(5).integers(0, 256, (*shape_hw, 3), np.uint8)


@pytest.mark.parametrize(("shape_hw", "scaled_hw"), TRIANGLE_SIZES)
def test_regions_are_slices_of_the_whole_to_the_bit(shape_hw, scaled_hw):
    image_HWC = noise(shape_hw)
    whole_HWC = resized(image_HWC, scaled_hw)
    for size in (5, 13):
        for y in range(0, scaled_hw[0], size):
            for x in range(0, scaled_hw[1], size):
                rows, columns = range(y, min(y + size, scaled_hw[0])), range(x, min(x + size, scaled_hw[1]))
                region = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
                np.testing.assert_array_equal(resized(image_HWC, scaled_hw, rows, columns), whole_HWC[region])


@pytest.mark.parametrize(("shape_hw", "scaled_hw"), TRIANGLE_SIZES)
def test_numba_and_numpy_agree_to_the_bit(shape_hw, scaled_hw, monkeypatch):
    first = resized(noise(shape_hw), scaled_hw)
    monkeypatch.setattr(filters, "HAS_NUMBA", not filters.HAS_NUMBA)
    np.testing.assert_array_equal(resized(noise(shape_hw), scaled_hw), first)


@pytest.mark.parametrize(("shape_hw", "scaled_hw"), TRIANGLE_SIZES)
def test_it_is_the_filter_of_pillow(shape_hw, scaled_hw):
    image_HWC = noise(shape_hw)
    peer = np.asarray(Image.fromarray(image_HWC).resize(scaled_hw[::-1], Image.Resampling.BILINEAR))
    assert np.abs(resized(image_HWC, scaled_hw).astype(int) - peer).max() <= 1


@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
def test_a_constant_image_stays_constant_and_nothing_overflows(value):
    for shape_hw, scaled_hw in TRIANGLE_SIZES:
        assert (resized(np.full((*shape_hw, 3), value, np.uint8), scaled_hw) == value).all()


def test_strips_of_rows_and_further_channels_are_filtered_alike(monkeypatch):
    image_HWC = np.random.default_rng(5).integers(0, 256, (97, 61, 5), np.uint8)
    expected = resized(image_HWC, (60, 40))
    np.testing.assert_array_equal(resized(image_HWC[..., 1:4], (60, 40)), expected[..., 1:4])
    monkeypatch.setattr(filters, "_TRIANGLE_VALUES", 0)
    np.testing.assert_array_equal(resized(image_HWC, (60, 40)), expected)


@pytest.mark.parametrize(("length", "scaled"), [(100, 31), (31, 100), (7, 7), (1, 9), (9, 1), (40_000, 12_500)])
def test_weights_add_up_and_reach_no_further_than_the_filter(length, scaled):
    firsts, weights = triangle_taps(range(scaled), length, scaled)
    assert (weights.sum(axis=1) == 1 << 14).all()
    assert weights.min() >= 0
    assert firsts.min() >= 0
    assert (firsts + weights.shape[1] <= length).all()
    places = (np.arange(scaled) + 0.5) * length / scaled - 0.5
    used = np.abs(firsts[:, None] + np.arange(weights.shape[1]) - places[:, None])[weights > 0]
    assert used.max() < max(length / scaled, 1) + 1e-9
    inner = (firsts > 0) & (firsts + weights.shape[1] < length)
    means = (firsts[:, None] + np.arange(weights.shape[1])) * weights
    assert np.abs(means.sum(axis=1) / (1 << 14) - places)[inner].max(initial=0) < 0.05, "no shift by half a pixel"
