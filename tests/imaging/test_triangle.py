"""The triangle filter: exact over regions, the same with and without numba, and Pillow's up to its rounding."""

import numpy as np
import pytest
from PIL import Image

from histofold.imaging import triangle
from histofold.imaging.triangle import triangle_resize, triangle_span, triangle_taps

SIZES = [
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


@pytest.mark.parametrize(("shape_hw", "scaled_hw"), SIZES)
def test_regions_are_slices_of_the_whole_to_the_bit(shape_hw, scaled_hw):
    image_HWC = noise(shape_hw)
    whole_HWC = resized(image_HWC, scaled_hw)
    for size in (5, 13):
        for y in range(0, scaled_hw[0], size):
            for x in range(0, scaled_hw[1], size):
                rows, columns = range(y, min(y + size, scaled_hw[0])), range(x, min(x + size, scaled_hw[1]))
                region = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
                np.testing.assert_array_equal(resized(image_HWC, scaled_hw, rows, columns), whole_HWC[region])


@pytest.mark.parametrize(("shape_hw", "scaled_hw"), SIZES)
def test_numba_and_numpy_agree_to_the_bit(shape_hw, scaled_hw, monkeypatch):
    first = resized(noise(shape_hw), scaled_hw)
    monkeypatch.setattr(triangle, "HAS_NUMBA", not triangle.HAS_NUMBA)
    np.testing.assert_array_equal(resized(noise(shape_hw), scaled_hw), first)


@pytest.mark.parametrize(("shape_hw", "scaled_hw"), SIZES)
def test_it_is_the_filter_of_pillow(shape_hw, scaled_hw):
    image_HWC = noise(shape_hw)
    peer = np.asarray(Image.fromarray(image_HWC).resize(scaled_hw[::-1], Image.Resampling.BILINEAR))
    assert np.abs(resized(image_HWC, scaled_hw).astype(int) - peer).max() <= 1


@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
def test_a_constant_image_stays_constant_and_nothing_overflows(value):
    for shape_hw, scaled_hw in SIZES:
        assert (resized(np.full((*shape_hw, 3), value, np.uint8), scaled_hw) == value).all()


def test_rows_longer_than_a_block_are_filtered_alike():
    image_HWC = noise((9, 3000))
    np.testing.assert_array_equal(resized(image_HWC, (4, 3000))[:, 2900:], resized(image_HWC[:, 2900:], (4, 100)))


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
