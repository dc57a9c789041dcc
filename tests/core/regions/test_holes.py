"""Holes on runs: those of scipy, for both implementations of the labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from hard_masks import STRUCTURE, hard_masks, use_implementation
from histofold.core.regions import fill_holes, invert_runs
from histofold.core.rle.runs import Runs, parse_rle, runs_from_mask, runs_to_text


@pytest.fixture(params=["numba", "numpy"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return use_implementation(request.param, monkeypatch)


@pytest.mark.parametrize("order", ["F", "C"])
def test_filled_masks_equal_those_of_scipy(order: str) -> None:
    around = STRUCTURE[4]
    changed = 0
    for mask_HW in hard_masks(160, seed=0):
        runs = runs_from_mask(mask_HW, order)
        filled = fill_holes(runs, math.inf)
        theirs_HW = ndimage.binary_fill_holes(mask_HW, around)
        assert filled == runs_from_mask(theirs_HW, order)
        labels_HW, _ = ndimage.label(theirs_HW & ~mask_HW, around)
        areas_HW = np.bincount(labels_HW.ravel())[labels_HW]
        for max_area_px in (0, 2.5, 7):
            some_HW = fill_holes(runs, max_area_px).to_mask()
            assert np.array_equal(some_HW, mask_HW | (theirs_HW & (areas_HW <= max_area_px)))
        changed += filled != runs
    assert changed > 20, "masks without holes show nothing"


def test_filling_twice_is_filling_once() -> None:
    for mask_HW in hard_masks(120, seed=1):
        filled = fill_holes(runs_from_mask(mask_HW), math.inf)
        assert fill_holes(filled, math.inf) == filled


def test_the_background_is_the_rest() -> None:
    for index, mask_HW in enumerate(hard_masks(120, seed=2)):
        runs = runs_from_mask(mask_HW, "FC"[index % 2])
        background = invert_runs(runs)
        assert background == runs_from_mask(~mask_HW, runs.order)
        assert invert_runs(background) == runs


def test_touching_runs_have_no_background_between_them() -> None:
    touching = Runs(np.array([0, 3]), np.array([3, 4]), (4, 5))
    assert runs_to_text(invert_runs(touching)) == "8 13"
    assert runs_to_text(fill_holes(touching, math.inf)) == "1 7"


def test_a_ring_of_corners_holds() -> None:
    ring_HW = np.array([[0, 0, 1, 0, 0, 0], [0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]], bool)
    assert fill_holes(runs_from_mask(ring_HW), 1).area == 5


@pytest.mark.parametrize("missing_yx", [(0, 3), (4, 3), (2, 0), (2, 6)])
def test_what_reaches_the_border_is_no_hole(missing_yx: tuple[int, int]) -> None:
    mask_HW = np.ones((5, 7), bool)
    mask_HW[missing_yx] = False
    for order in ("F", "C"):
        runs = runs_from_mask(mask_HW, order)
        assert fill_holes(runs, math.inf) == runs


def test_a_hole_of_just_the_largest_area_is_filled() -> None:
    mask_HW = np.ones((6, 9), bool)
    mask_HW[2:4, 3:6] = False
    runs = runs_from_mask(mask_HW)
    assert fill_holes(runs, 5.99) == runs
    assert fill_holes(runs, 6).area == 54


def test_refusals() -> None:
    runs = parse_rle("1 2", (3, 4))
    for area in (-1, math.nan):
        with pytest.raises(ValueError, match="0 or more"):
            fill_holes(runs, area)
