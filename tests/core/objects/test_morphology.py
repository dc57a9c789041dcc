import math

import numpy as np
import pytest
from scipy import ndimage

from hard_masks import STRUCTURE, hard_masks
from histofold.core.objects import Detections, Objects
from histofold.core.objects.morphology import (
    drop_small,
    fill_objects,
    grow_objects,
    largest_components,
    without_overlaps,
)
from object_scenes import random_masks

RADII = [0, 0.9, 1, math.sqrt(2), 2, 2.5, 3, math.sqrt(13), 8, 60]


def scenes(count, seed):
    """Masks that may overlap, with and without pixels, some of them hard ones; H != W."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        shape_hw = tuple(rng.choice(np.arange(1, 30), 2, replace=False).tolist())
        masks = random_masks(rng, shape_hw)
        if index % 2:
            hard = hard_masks(8, seed=index)
            masks, shape_hw = [hard[index % 8]], hard[index % 8].shape
            masks += [np.ones(shape_hw, bool), np.zeros(shape_hw, bool), masks[0][::-1]]
        yield masks, Objects.from_masks(masks, shape_hw)


def assert_masks(objects, masks):
    assert len(objects) == len(masks)
    for runs, mask_HW in zip(objects, masks, strict=True):
        np.testing.assert_array_equal(runs.to_mask(), mask_HW)
    assert (objects.starts % objects.shape_hw[0] + objects.lengths <= objects.shape_hw[0]).all()


def grown_mask(mask_HW, radius):
    """By scipy's distances to the mask, or to what is not the mask."""
    background = ~mask_HW if radius >= 0 else mask_HW
    if background.all():  # nothing that distances could be measured to
        return ~background if radius >= 0 else background
    distance = ndimage.distance_transform_edt(background)
    return distance <= radius if radius >= 0 else distance > -radius


@pytest.mark.parametrize("radius", [*RADII, *(-radius for radius in RADII[1:])])
def test_objects_grow_and_shrink_by_euclidean_discs(radius):
    for masks, objects in scenes(30, seed=1):
        assert_masks(grow_objects(objects, radius), [grown_mask(mask_HW, radius) for mask_HW in masks])


def test_many_objects_grow_as_each_alone():
    rng = np.random.default_rng(2)
    labels = np.zeros((200, 230), int)
    for label, (y, x) in enumerate(rng.integers(0, 195, (700, 2)), start=1):
        labels[y : y + 5, x : x + 4] = label
    objects = Objects.from_labels(labels)
    assert len(objects) > 300
    for radius in (2, -1):
        together = grow_objects(objects, radius)
        for index in range(0, len(objects), 37):
            assert grow_objects(objects.select([index]), radius)[0] == together[index]


@pytest.mark.parametrize("radius", [0, 2, -1])
def test_of_overlapping_objects_the_higher_score_keeps_its_pixels(radius):
    rng, shared = np.random.default_rng(3), 0
    for masks, objects in scenes(40, seed=4):
        scores = rng.integers(0, 3, len(masks)) / 2  # ties: the first wins
        taken, expected = np.zeros(objects.shape_hw, bool), [None] * len(masks)
        for index in np.argsort(-scores, kind="stable"):
            grown = grown_mask(masks[index], radius)
            expected[index] = grown & ~taken
            shared += np.count_nonzero(grown & taken)
            taken |= grown
        assert_masks(grow_objects(objects, radius, scores), expected)
        if radius == 0:
            assert_masks(without_overlaps(objects, scores), expected)
    assert shared > 100


def test_holes_of_each_object_are_filled():
    filled = 0
    for masks, objects in scenes(60, seed=5):
        expected = [ndimage.binary_fill_holes(mask_HW) for mask_HW in masks]
        assert_masks(fill_objects(objects), expected)
        filled += sum(map(np.count_nonzero, expected)) - objects.areas.sum()
    assert filled > 100


def test_a_hole_that_another_object_fills_is_still_one():
    ring = np.ones((5, 7), bool)
    ring[1:4, 2:5] = False
    core = ~ring
    core[0] = False
    assert fill_objects(Objects.from_masks([ring, core])).areas.tolist() == [35, 9]


def test_the_largest_component_of_each_object_is_kept():
    parted = 0
    for masks, objects in scenes(60, seed=6):
        expected = []
        for mask_HW in masks:
            labels, count = ndimage.label(mask_HW.T, STRUCTURE[8])  # by columns, as ties go
            largest = np.bincount(labels.ravel(), minlength=2)[1:].argmax() + 1
            expected.append(np.equal(labels.T, largest))
            parted += count > 1
        assert_masks(largest_components(objects), expected)
    assert parted > 20


def test_small_detections_are_dropped_with_their_scores():
    labels = np.array([[1, 2, 2, 3, 3, 3], [0, 2, 0, 3, 0, 0]])
    detections = Detections(Objects.from_labels(labels), [0.3, 0.1, 0.2])
    for least, kept in ((0, [0.3, 0.1, 0.2]), (3, [0.1, 0.2]), (3.5, [0.2]), (99, [])):
        assert drop_small(detections, least).scores.tolist() == kept
    assert drop_small(detections, 4).objects.areas.tolist() == [4]


def test_no_objects_stay_none():
    none = Objects.from_masks([], (4, 6))
    for done in (
        grow_objects(none, 2),
        grow_objects(none, -2, np.zeros(0)),
        fill_objects(none),
        largest_components(none),
    ):
        assert (len(done), done.shape_hw) == (0, (4, 6))


@pytest.mark.parametrize("radius", [math.nan, math.inf, -math.inf])
def test_a_radius_is_a_number(radius):
    with pytest.raises(ValueError, match="number of pixels"):
        grow_objects(Objects.from_masks([np.ones((2, 3))]), radius)
