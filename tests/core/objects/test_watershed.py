import cv2
import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import watershed

from hard_masks import STRUCTURE
from histofold.core.objects import Objects
from histofold.core.objects.watershed import flood_jit, label_scores, watershed_labels


def random_maps(rng, shape_hw):
    """Three smooth maps, 0 to 1, without equal values."""
    noise = [cv2.GaussianBlur(rng.random(shape_hw), (0, 0), rng.uniform(0.5, 4)) for _ in range(3)]
    return [(each_HW - each_HW.min()) / max(np.ptp(each_HW), 1e-9) for each_HW in noise]


def random_scene(rng):
    """Maps of any shape and levels for them."""
    maps = random_maps(rng, tuple(rng.integers(1, 45, 2).tolist()))
    return maps, {"threshold": rng.uniform(0.2, 0.7), "marker": rng.uniform(-0.3, 0.5)}


def skimage_labels(maps, threshold, marker):
    """The same by scikit-image, and components without a marker one by one."""
    probs, boundary, distance = maps
    foreground = probs >= threshold
    markers, count = ndimage.label(foreground & (distance - boundary >= marker), STRUCTURE[8])
    labels = watershed(-distance, markers, mask=foreground, connectivity=2)
    rest, _ = ndimage.label(foreground & (labels == 0), STRUCTURE[8])
    return np.where(rest > 0, rest + count, labels)


def test_labels_are_scikit_images_where_no_two_pixels_tie():
    rng, several = np.random.default_rng(0), 0
    for _ in range(200):
        maps, levels = random_scene(rng)
        labels = watershed_labels(*maps, **levels)
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, skimage_labels(maps, **levels))
        several += labels.max() > 2
    assert several > 50


def test_objects_part_the_foreground_and_those_too_small_are_left_out():
    rng, dropped = np.random.default_rng(1), 0
    for _ in range(50):
        maps, levels = random_scene(rng)
        every = watershed_labels(*maps, **levels)
        assert np.array_equal(every > 0, maps[0] >= levels["threshold"])
        areas = np.bincount(every.ravel())[1:]
        large = watershed_labels(*maps, **levels, min_area_px=12)
        expected = [every == label for label in np.flatnonzero(areas >= 12) + 1]
        assert large.max() == len(expected)
        for label, mask_HW in enumerate(expected, start=1):
            assert np.array_equal(large == label, mask_HW)
        dropped += (areas < 12).sum()
    assert dropped > 10


def test_two_discs_that_touch_become_two_objects():
    y, x = np.mgrid[:30, :50]
    depth = np.maximum(1 - np.hypot(y - 14, x - 15) / 12, 1 - np.hypot(y - 14, x - 33) / 12)
    labels = watershed_labels(depth > 0, np.zeros((30, 50)), depth, threshold=0.5, marker=0.5)
    assert np.unique(labels).tolist() == [0, 1, 2]
    assert labels[14, 15] == 1
    assert labels[14, 33] == 2
    boundary = np.abs(x - 24) < 1  # what the boundary cuts is no marker
    assert watershed_labels(depth > 0, boundary, depth * 0 + 1, threshold=0.5, marker=0.5).max() == 2


@pytest.mark.parametrize("shape_hw", [(1, 1), (1, 9), (7, 1), (6, 11)])
def test_full_and_empty_maps(shape_hw):
    full, none = np.ones(shape_hw, np.float32), np.zeros(shape_hw, np.float32)
    assert (watershed_labels(full, none, full, threshold=0.5, marker=0.5) == 1).all()
    assert (watershed_labels(full, none, none, threshold=0.5, marker=0.5) == 1).all()  # without a marker
    assert not watershed_labels(none, none, full, threshold=0.5, marker=0.5).any()
    assert not watershed_labels(full, none, full, threshold=0.5, marker=0.5, min_area_px=100).any()


def test_the_compiled_flood_is_its_own_source():
    rng = np.random.default_rng(2)
    for _ in range(10):
        depths = rng.integers(0, 4, 30 * 23).astype(float)  # many ties
        labels = np.where(rng.random((23, 30)) < 0.7, 0, -1).astype(np.int32)
        labels[rng.integers(1, 22, 5), rng.integers(1, 29, 5)] = np.arange(1, 6)
        labels = np.pad(labels[1:-1, 1:-1], 1, constant_values=-1).ravel()
        compiled, plain = labels.copy(), labels.copy()
        flood_jit(compiled, depths, 30)
        getattr(flood_jit, "py_func", flood_jit)(plain, depths, 30)
        assert np.array_equal(compiled, plain)


def test_scores_are_the_mean_probability_of_each_object():
    rng = np.random.default_rng(3)
    labels, probs = rng.choice([0, 2, 3, 7], (9, 14)), rng.random((9, 14)).astype(np.float32)
    scores = label_scores(labels, probs)
    assert scores.dtype == np.float64
    assert scores == pytest.approx([probs[runs.to_mask()].mean() for runs in Objects.from_labels(labels)], rel=1e-6)
    assert label_scores(np.zeros((3, 4), int), np.ones((3, 4))).shape == (0,)


def test_maps_of_several_sizes_are_refused():
    with pytest.raises(ValueError, match=r"one size \(H, W\)"):
        watershed_labels(np.ones((3, 4)), np.ones((4, 3)), np.ones((3, 4)), threshold=0.5, marker=0.5)
    with pytest.raises(ValueError, match=r"one size \(H, W\)"):
        label_scores(np.ones((3, 4), int), np.ones((4, 3)))
