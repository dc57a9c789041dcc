"""The majority filter on runs: that of the whole mask, for both implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from hard_masks import hard_masks, use_implementation
from histofold.core.rle.runs import Runs, runs_from_mask
from histofold.core.smoothing import disc_half_widths, smooth_runs

RADII_PX = (1, math.sqrt(2), 2, 2.9, 4, 9, 23)


@pytest.fixture(params=["numba", "numpy"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return use_implementation(request.param, monkeypatch)


def disc(radius_px: float) -> np.ndarray:
    """Pixels whose centres lie within the radius, int64 (2r + 1, 2r + 1)."""
    reach = int(radius_px)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return (y * y + x * x <= radius_px * radius_px).astype(np.int64)


def smooth_whole(mask_HW: np.ndarray, radius_px: float) -> np.ndarray:
    """The filter on the whole mask: counts by correlation with the disc, in whole numbers."""
    counts_HW = ndimage.correlate(mask_HW.astype(np.int64), disc(radius_px), mode="constant")
    inside_HW = ndimage.correlate(np.ones(mask_HW.shape, np.int64), disc(radius_px), mode="constant")
    return (2 * counts_HW > inside_HW) | ((2 * counts_HW == inside_HW) & mask_HW)


@pytest.mark.parametrize("order", ["F", "C"])
def test_smoothed_runs_equal_the_smoothed_mask(order: str) -> None:
    for index, mask_HW in enumerate(hard_masks(350, seed=0)):
        radius_px = RADII_PX[index % len(RADII_PX)]
        smooth = smooth_runs(runs_from_mask(mask_HW, order), radius_px)
        assert smooth == runs_from_mask(smooth_whole(mask_HW, radius_px), order), (radius_px, mask_HW.shape)


def test_bands_and_buffers_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histofold.core.smoothing.SMOOTH_BOUNDS", 1)
    monkeypatch.setattr("histofold.core.smoothing.SMOOTH_BAND_BYTES", 3000)
    rng = np.random.default_rng(1)
    mask_HW = ndimage.uniform_filter(rng.random((203, 131)), 3) > 0.5
    mask_HW[40:90] = False
    mask_HW[120:170] = True
    for order in ("F", "C"):
        smooth_HW = smooth_runs(runs_from_mask(mask_HW, order), 5).to_mask()
        assert np.array_equal(smooth_HW, smooth_whole(mask_HW, 5))


def test_a_disc_beyond_all_borders_gives_the_whole_masks_majority() -> None:
    for mask_HW in hard_masks(200, seed=5):
        smooth_HW = smooth_runs(runs_from_mask(mask_HW), 1e6).to_mask()
        tie = 2 * mask_HW.sum() == mask_HW.size
        assert np.array_equal(smooth_HW, mask_HW if tie else np.full_like(mask_HW, 2 * mask_HW.sum() > mask_HW.size))


def test_no_radius_changes_nothing() -> None:
    for mask_HW in hard_masks(64, seed=2):
        runs = runs_from_mask(mask_HW)
        assert smooth_runs(runs, 0) == smooth_runs(runs, 0.99) == runs


def test_mask_and_background_are_treated_alike() -> None:
    for mask_HW in hard_masks(64, seed=3):
        smooth_HW = smooth_runs(runs_from_mask(mask_HW), 3).to_mask()
        assert np.array_equal(smooth_runs(runs_from_mask(~mask_HW), 3).to_mask(), ~smooth_HW)


@pytest.mark.parametrize("turn", [np.flipud, np.fliplr, np.transpose, np.rot90])
def test_a_turned_mask_is_smoothed_as_the_mask_is(turn) -> None:
    for mask_HW in hard_masks(64, seed=4):
        smooth_HW = smooth_runs(runs_from_mask(mask_HW), 2.9).to_mask()
        assert np.array_equal(smooth_runs(runs_from_mask(turn(mask_HW)), 2.9).to_mask(), turn(smooth_HW))


def test_straight_boundaries_stay_and_specks_go() -> None:
    y, x = np.mgrid[:50, :70]
    for half_HW in (y < 20, x < 31):
        runs = runs_from_mask(half_HW)
        assert smooth_runs(runs, 6) == runs
        speckled_HW = half_HW.copy()
        speckled_HW[[4, 28, 40], [5, 50, 20]] ^= True
        assert smooth_runs(runs_from_mask(speckled_HW), 6) == runs


def test_a_stripe_wider_than_the_disc_is_kept_and_a_third_of_it_is_not() -> None:
    stripe_HW = np.zeros((40, 30), bool)
    stripe_HW[10:24] = True
    assert smooth_runs(runs_from_mask(stripe_HW), 5) == runs_from_mask(stripe_HW)
    stripe_HW[12:22] = False  # two stripes of two rows
    assert smooth_runs(runs_from_mask(stripe_HW), 5).area == 0


def test_half_a_disc_is_no_majority() -> None:
    pair = runs_from_mask(np.array([[1, 0]]))  # at the border a disc may hold an even number of pixels
    assert smooth_runs(pair, 1) == pair


def test_touching_runs_are_one() -> None:
    touching = Runs(np.array([0, 8]), np.array([8, 16]), (6, 8))
    whole = Runs(np.array([0]), np.array([24]), (6, 8))
    assert smooth_runs(touching, 2) == smooth_runs(whole, 2) == whole
    assert smooth_runs(touching, 0) == whole


def test_half_widths_are_those_of_the_disc() -> None:
    for radius_px in (0, 1, *RADII_PX):
        widths = disc(radius_px)[int(radius_px) :].sum(axis=1)
        assert (2 * disc_half_widths(radius_px, 1000, 1000) + 1).tolist() == widths.tolist()
    assert disc_half_widths(50, 3, 7).tolist() == [7, 7, 7]


@pytest.mark.parametrize("radius_px", [-1, math.nan, math.inf])
def test_a_radius_that_is_none_is_refused(radius_px: float) -> None:
    with pytest.raises(ValueError, match="finite number of pixels"):
        smooth_runs(runs_from_mask(np.eye(3)), radius_px)
