"""Areas of scaled pixels: whole numbers, the same with and without numba, and those of exact fractions."""

from fractions import Fraction

import numpy as np
import pytest

from histofold.imaging import area
from histofold.imaging.area import area_span, area_sums

SIZES = [((13, 29), (5, 11)), ((13, 29), (13, 29)), ((7, 5), (20, 3)), ((1, 1), (4, 2)), ((29, 13), (1, 1))]


def areas_of(mask_HW, scaled_hw, rows=None, columns=None):
    rows, columns = rows or range(scaled_hw[0]), columns or range(scaled_hw[1])
    y, x = area_span(rows, mask_HW.shape[0], scaled_hw[0]), area_span(columns, mask_HW.shape[1], scaled_hw[1])
    return area_sums(mask_HW[y, x], rows, columns, mask_HW.shape, scaled_hw)


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


@pytest.mark.parametrize(("shape_hw", "scaled_hw"), SIZES)
@pytest.mark.parametrize("compiled", [True, False])
def test_areas_are_those_of_exact_fractions(shape_hw, scaled_hw, compiled, monkeypatch):
    monkeypatch.setattr(area, "HAS_NUMBA", area.HAS_NUMBA and compiled)
    mask_HW = mask_of(shape_hw)
    expected = overlaps(shape_hw[0], scaled_hw[0]) @ mask_HW.astype(int) @ overlaps(shape_hw[1], scaled_hw[1]).T
    np.testing.assert_array_equal(areas_of(mask_HW, scaled_hw), expected)
    np.testing.assert_array_equal(areas_of(np.ones(shape_hw, bool), scaled_hw), shape_hw[0] * shape_hw[1])


@pytest.mark.parametrize(("shape_hw", "scaled_hw"), SIZES)
@pytest.mark.parametrize("compiled", [True, False])
def test_regions_are_slices_of_the_whole(shape_hw, scaled_hw, compiled, monkeypatch):
    monkeypatch.setattr(area, "HAS_NUMBA", area.HAS_NUMBA and compiled)
    mask_HW = mask_of(shape_hw)
    whole = areas_of(mask_HW, scaled_hw)
    for y in range(scaled_hw[0]):
        for x in range(0, scaled_hw[1], 4):
            rows, columns = range(y, min(y + 3, scaled_hw[0])), range(x, min(x + 4, scaled_hw[1]))
            part = areas_of(mask_HW, scaled_hw, rows, columns)
            np.testing.assert_array_equal(part, whole[rows.start : rows.stop, columns.start : columns.stop])
