"""Hysteresis on two run lists: that of scikit-image and of scipy, for both implementations of the labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from hard_masks import STRUCTURE, hard_masks, use_implementation
from histofold.core.regions import keep_seeded
from histofold.core.rle.runs import Runs, parse_rle, runs_from_mask, runs_to_text


@pytest.fixture(params=["numba", "numpy"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return use_implementation(request.param, monkeypatch)


@pytest.mark.parametrize("order", ["F", "C"])
def test_any_two_masks_equal_scipys_propagation(order: str) -> None:
    rng = np.random.default_rng(1)
    for low_HW in hard_masks(120, seed=1):
        high_HW = rng.random(low_HW.shape) < rng.choice([0, 0.02, 0.2, 1])
        theirs_HW = ndimage.binary_propagation(high_HW & low_HW, STRUCTURE[8], low_HW)
        kept = keep_seeded(runs_from_mask(low_HW, order), runs_from_mask(high_HW, order))
        assert kept == runs_from_mask(theirs_HW, order)


def test_a_mask_seeds_itself_and_keeping_twice_is_keeping_once() -> None:
    seeds = hard_masks(120, seed=3)
    for mask_HW in hard_masks(120, seed=2):
        runs = runs_from_mask(mask_HW)
        assert keep_seeded(runs, runs) == runs
        high = runs_from_mask(np.resize(seeds.pop(), mask_HW.shape))
        kept = keep_seeded(runs, high)
        assert keep_seeded(kept, high) == kept


def test_a_seed_beside_a_component_is_none() -> None:
    low = parse_rle("4 3", (5, 4))  # rows 3 and 4 of column 0, and row 0 of column 1: two components
    assert keep_seeded(low, parse_rle("3 1", (5, 4))).area == 0
    assert keep_seeded(low, parse_rle("7 1", (5, 4))).area == 0
    assert runs_to_text(keep_seeded(low, parse_rle("5 1", (5, 4)))) == "4 2"
    assert runs_to_text(keep_seeded(low, parse_rle("6 1", (5, 4)))) == "6 1"
    assert runs_to_text(keep_seeded(low, parse_rle("1 20", (5, 4)))) == "4 3", "touching runs are joined again"


def test_touching_seed_runs_count_like_one() -> None:
    low = parse_rle("2 1 9 2", (4, 5))
    high = Runs(np.array([7, 8]), np.array([1, 1]), (4, 5))
    assert runs_to_text(keep_seeded(low, high)) == "9 2"


def test_refusals() -> None:
    low = parse_rle("1 2", (3, 4))
    for other in (parse_rle("1 2", (4, 3)), parse_rle("1 2", (3, 4), "C")):
        with pytest.raises(ValueError, match="take both from one image"):
            keep_seeded(low, other)
