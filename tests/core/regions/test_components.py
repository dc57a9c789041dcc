"""Connected components on runs: the same as of pixels, for both implementations."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import ndimage

from hard_masks import STRUCTURE, hard_masks, use_implementation
from histofold.core.regions import (
    component_areas,
    keep_largest,
    label_runs,
    merge_touching,
    remove_small,
    split_runs,
)
from histofold.core.rle.runs import Runs, encode_rle, parse_rle, runs_from_mask, runs_to_text


@pytest.fixture(params=["numba", "numpy"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return use_implementation(request.param, monkeypatch)


def label_map(runs: Runs, labels: np.ndarray) -> np.ndarray:
    """Labels from 1 painted on pixels, 0 for background."""
    flat = np.zeros(runs.shape_hw[0] * runs.shape_hw[1], np.int64)
    for start, length, label in zip(runs.starts, runs.lengths, labels, strict=True):
        flat[start : start + length] = label + 1
    return flat.reshape(runs.shape_hw, order=runs.order)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("order", ["F", "C"])
def test_labels_and_areas_equal_those_of_scipy(connectivity: int, order: str) -> None:
    for mask_HW in hard_masks(160, seed=0):
        runs = split_runs(runs_from_mask(mask_HW, order))
        labels = label_runs(runs, corners=connectivity == 8)
        # scipy numbers components row by row; turned, it numbers them as column-major runs do.
        turned = mask_HW if order == "C" else mask_HW.T
        theirs, count = ndimage.label(turned, STRUCTURE[connectivity])
        theirs_HW = theirs if order == "C" else theirs.T
        assert labels.dtype == np.int64
        assert np.array_equal(label_map(runs, labels), theirs_HW)
        assert np.array_equal(component_areas(runs, labels), np.bincount(theirs.ravel(), minlength=count + 1)[1:])


def test_remove_small_and_keep_largest_equal_those_of_opencv() -> None:
    for index, mask_HW in enumerate(hard_masks(160, seed=1)):
        runs = runs_from_mask(mask_HW, "FC"[index % 2])
        _, labels_HW, stats, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8), connectivity=8)
        areas = stats[:, cv2.CC_STAT_AREA].copy()
        areas[0] = 0
        for min_area_px in (0, 1, 2.5, 7, 1e9):
            kept_HW = remove_small(runs, min_area_px).to_mask()
            assert np.array_equal(kept_HW, (areas >= min_area_px)[labels_HW] & mask_HW)
        largest = keep_largest(runs)
        assert largest.area == areas.max()
        if (areas == areas.max()).sum() == 1 and mask_HW.any():
            assert np.array_equal(largest.to_mask(), labels_HW == areas.argmax())


def test_a_run_that_passes_a_columns_end_is_two_components() -> None:
    runs = parse_rle("5 2", (5, 7))  # the bottom of column 0 and the top of column 1
    with pytest.raises(ValueError, match="split_runs"):
        label_runs(runs)
    pieces = split_runs(runs)
    assert runs_to_text(pieces) == "5 1 6 1"
    assert label_runs(pieces).tolist() == [0, 1]
    assert remove_small(runs, 1) == runs
    assert remove_small(runs, 2).area == 0
    assert runs_to_text(keep_largest(runs)) == "5 1"


def test_ends_of_lines_that_are_not_neighbours() -> None:
    # Shifted by a line, these ends of columns 0 and 2 touch in the numbering, but not in the image.
    mask_HW = np.zeros((4, 5), bool)
    mask_HW[3, 0] = mask_HW[0, 2] = mask_HW[3, 2] = mask_HW[0, 3] = True
    runs = split_runs(runs_from_mask(mask_HW))
    assert label_runs(runs).tolist() == [0, 1, 2, 1]


def test_corners_join_eight_neighbours_only() -> None:
    runs = runs_from_mask(np.array([[1, 0, 0], [0, 1, 0]]))
    assert label_runs(runs).tolist() == [0, 0]
    assert label_runs(runs, corners=False).tolist() == [0, 1]


def test_a_spiral_is_one_component() -> None:
    y, x = np.mgrid[:61, :83]
    rings_HW = np.minimum.reduce([y, x, 60 - y, 82 - x]) % 2 == 0
    rings_HW[1::4, 41] = True
    joined = runs_from_mask(rings_HW)
    _, count = ndimage.label(rings_HW, STRUCTURE[4])
    assert len(np.unique(label_runs(split_runs(joined), corners=False))) == count


@pytest.mark.parametrize("order", ["F", "C"])
def test_split_and_merge_keep_the_mask(order: str) -> None:
    for mask_HW in hard_masks(100, seed=2):
        runs = runs_from_mask(mask_HW, order)
        pieces = split_runs(runs)
        last = pieces.starts + pieces.lengths - 1
        assert np.array_equal(pieces.starts // pieces.line_length, last // pieces.line_length)
        assert np.array_equal(pieces.to_mask(), mask_HW)
        assert merge_touching(pieces) == runs
        assert remove_small(runs, 0) == runs


def test_of_equal_components_the_first_is_kept() -> None:
    assert runs_to_text(keep_largest(parse_rle("1 1 9 2 22 2", (5, 7)))) == "9 2"


def test_no_runs() -> None:
    empty = runs_from_mask(np.zeros((3, 5)))
    assert label_runs(empty).shape == (0,)
    assert component_areas(empty, label_runs(empty)).shape == (0,)
    assert keep_largest(empty) == remove_small(empty, 3) == merge_touching(empty) == empty


def test_refusals() -> None:
    runs = runs_from_mask(np.eye(3, 5))
    with pytest.raises(ValueError, match="2 labels for 3 runs"):
        component_areas(runs, np.array([0, 1]))


def test_both_agree_on_noise_larger_than_the_rest() -> None:
    mask_HW = np.random.default_rng(3).random((301, 517)) < 0.42
    assert encode_rle(mask_HW) == encode_rle(runs_from_mask(mask_HW).to_mask())
    for connectivity in (4, 8):
        runs = split_runs(runs_from_mask(mask_HW))
        theirs, count = ndimage.label(mask_HW.T, STRUCTURE[connectivity])
        labels = label_runs(runs, corners=connectivity == 8)
        assert labels.max() + 1 == count
        assert np.array_equal(label_map(runs, labels), theirs.T)
