"""Cleaning of masks: the order of its steps, and what holds whatever the mask."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from hard_masks import STRUCTURE, hard_masks
from histofold.core.regions import fill_holes, keep_largest, keep_seeded, remove_small
from histofold.core.rle.runs import Runs, class_runs, runs_from_mask
from histofold.predict.postprocess import clean_masks
from histofold.schema.prediction import PredictConfig

OFF = PredictConfig()
ALL = PredictConfig(min_area_um2=50.0, max_hole_um2=30.0, seed_threshold=0.8)
SIDE_UM = 2.0


def spot(shape_hw: tuple[int, int], *boxes: tuple[slice, slice]) -> Runs:
    mask_HW = np.zeros(shape_hw, bool)
    for box in boxes:
        mask_HW[box] = True
    return runs_from_mask(mask_HW)


def peak_of(runs: Runs) -> Runs:
    return spot(runs.shape_hw, (slice(0, 1), slice(0, 1)))


def test_nothing_is_done_where_all_is_off() -> None:
    for mask_HW in hard_masks(64, seed=0):
        found = runs_from_mask(mask_HW)
        assert clean_masks(found, None, peak_of(found), OFF, SIDE_UM, False) == found


def test_steps_come_in_their_order() -> None:
    rng = np.random.default_rng(1)
    changed = 0
    for mask_HW in hard_masks(200, seed=1):
        found, seeds = runs_from_mask(mask_HW), runs_from_mask(mask_HW & (rng.random(mask_HW.shape) < 0.05))
        expected = fill_holes(keep_seeded(found, seeds), 30 / 4)
        expected = remove_small(expected, 50 / 4)
        cleaned = clean_masks(found, seeds, peak_of(found), ALL, SIDE_UM, False)
        assert cleaned == expected
        changed += 0 < cleaned.area != found.area
    assert changed > 30


def test_holes_are_filled_before_areas_are_looked_at_and_after_seeds() -> None:
    ring_HW = np.zeros((9, 12), bool)
    ring_HW[2:7, 3:8] = True
    ring_HW[3:6, 4:7] = False
    ring, peak = runs_from_mask(ring_HW), spot((9, 12), (slice(0, 1), slice(0, 1)))
    settings = PredictConfig(max_hole_um2=9.0, min_area_um2=25.0)
    assert clean_masks(ring, None, peak, settings, 1.0, False) == spot((9, 12), (slice(2, 7), slice(3, 8)))
    # A seed inside the hole is none: where the ring itself is not sure, it goes.
    inside = spot((9, 12), (slice(4, 5), slice(5, 6)))
    assert clean_masks(ring, inside, peak, settings, 1.0, False) == spot((9, 12))


def test_kept_components_have_a_seed_and_the_area() -> None:
    rng = np.random.default_rng(2)
    settings = PredictConfig(min_area_um2=20.0, seed_threshold=0.9)
    for mask_HW in hard_masks(120, seed=2):
        seeds_HW = rng.random(mask_HW.shape) < 0.03
        found, seeds = runs_from_mask(mask_HW), runs_from_mask(seeds_HW)
        kept_HW = clean_masks(found, seeds, peak_of(found), settings, SIDE_UM, False).to_mask()
        labels_HW, count = ndimage.label(mask_HW, STRUCTURE[8])
        for label in range(1, count + 1):
            part_HW = labels_HW == label
            assert kept_HW[part_HW].all() == (part_HW.sum() >= 5 and (part_HW & seeds_HW).any())
        assert not (kept_HW & ~mask_HW).any()


def test_cleaning_twice_is_cleaning_once() -> None:
    rng = np.random.default_rng(3)
    for mask_HW in hard_masks(120, seed=3):
        found, seeds = runs_from_mask(mask_HW), runs_from_mask(mask_HW & (rng.random(mask_HW.shape) < 0.1))
        once = clean_masks(found, seeds, peak_of(found), ALL, SIDE_UM, False)
        assert clean_masks(once, seeds, peak_of(found), ALL, SIDE_UM, False) == once


@pytest.mark.parametrize("pixel_size_um", [None, 0.0, -1.0, math.nan, math.inf])
def test_without_a_pixel_size_only_seeds_count(pixel_size_um: float | None) -> None:
    for mask_HW in hard_masks(64, seed=4):
        found = runs_from_mask(mask_HW)
        seeds = peak_of(found)
        cleaned = clean_masks(found, seeds, peak_of(found), ALL, pixel_size_um, False)
        assert cleaned == keep_seeded(found, seeds)
        assert clean_masks(found, None, peak_of(found), ALL, pixel_size_um, False) == found


def test_sizes_are_in_micrometres() -> None:
    found = spot((30, 40), (slice(2, 7), slice(3, 13)))  # 50 pixels
    for pixel_size_um in (0.5, 2.0):
        area_um2 = 50 * pixel_size_um**2
        for limit_um2, area in ((area_um2, 50), (1.01 * area_um2, 0)):
            settings = PredictConfig(min_area_um2=limit_um2)
            cleaned = clean_masks(found, None, found, settings, pixel_size_um, False)
            assert class_runs(cleaned)[0].area == area


def test_a_single_class_is_never_empty_where_that_is_asked() -> None:
    for mask_HW in hard_masks(120, seed=5):
        found = runs_from_mask(mask_HW)
        nothing = runs_from_mask(np.zeros_like(mask_HW))
        expected = keep_largest(found) if mask_HW.any() else peak_of(found)
        huge = PredictConfig(min_area_um2=1e9)
        assert clean_masks(found, None, peak_of(found), huge, SIDE_UM, True) == expected
        assert clean_masks(found, nothing, peak_of(found), OFF, SIDE_UM, True) == expected
        assert clean_masks(found, nothing, peak_of(found), OFF, SIDE_UM, False) == nothing
        assert clean_masks(found, None, peak_of(found), huge, SIDE_UM, False) == nothing


def test_several_classes_are_cleaned_each_by_itself_and_may_be_empty() -> None:
    rng = np.random.default_rng(6)
    for mask_HW in hard_masks(60, seed=6):
        classes = tuple(runs_from_mask(mask_HW & (rng.random(mask_HW.shape) < share)) for share in (1, 0.5, 0))
        seeds = tuple(runs_from_mask(runs.to_mask() & (rng.random(mask_HW.shape) < 0.1)) for runs in classes)
        peak = peak_of(classes[0])
        cleaned = clean_masks(classes, seeds, peak, ALL, SIDE_UM, True)
        assert isinstance(cleaned, tuple)
        for runs, found, seed in zip(cleaned, classes, seeds, strict=True):
            assert runs == clean_masks(found, seed, peak, ALL, SIDE_UM, False)
        assert cleaned[2].area == 0


def test_seeds_of_other_classes_or_images_are_refused() -> None:
    found = spot((5, 7), (slice(1, 3), slice(2, 4)))
    for seeds in ((found, found), spot((7, 5), (slice(1, 3), slice(2, 4)))):
        with pytest.raises(ValueError, match=r"argument 2 is longer|take both from one image"):
            clean_masks(found, seeds, found, OFF, None, False)
