"""What networks of objects learn: pieces, boxes, boundaries, distances."""

import cv2
import numpy as np
import pytest
import torch

from histofold.data.tiles.labels import IGNORED_LABEL
from histofold.data.tiles.masks import IGNORED_BIT
from histofold.train.objects.targets import (
    BOUNDARY_BIT,
    BOUNDARY_PX,
    DISTANCE_ONE,
    LEAST_PX,
    collate_examples,
    dense_example,
    detector_example,
    detector_targets,
    distance_target,
    object_pieces,
)
from object_scenes import random_labels

SHAPE = (41, 57)


def scene(seed, ignored=True):
    """Labels of large boxes, some of them in pieces, with the first and the last pixel set, and what is ignored."""
    rng = np.random.default_rng(seed)
    labels_HW = np.kron(random_labels(rng, (7, 10)), np.ones((6, 6)))[: SHAPE[0], : SHAPE[1]].astype(np.uint16)
    labels_HW[0, 0], labels_HW[-1, -1] = 13, 14
    if ignored:
        labels_HW[10:14, 5:30] = IGNORED_LABEL
    return labels_HW


def grey(labels_HW):
    return np.full((*labels_HW.shape, 3), 100, np.uint8)


def pieces_of(labels_HW):
    """Masks of the pieces, by OpenCV over the whole image for each label."""
    masks = []
    for label in sorted(set(labels_HW.ravel().tolist()) - {0, IGNORED_LABEL}):
        count, parts_HW = cv2.connectedComponents((labels_HW == label).astype(np.uint8), connectivity=8)
        masks += [parts_HW == part for part in range(1, count)]
    return masks


@pytest.mark.parametrize("seed", range(10))
def test_pieces_are_the_connected_parts_of_each_label(seed):
    labels_HW = scene(seed)
    found = []
    for y, x, mask_hw in object_pieces(labels_HW):
        whole_HW = np.zeros(SHAPE, bool)
        whole_HW[y, x] = mask_hw
        assert mask_hw.any(0).all() or mask_hw.any(0)[[0, -1]].all()  # the box is tight
        found.append(whole_HW.tobytes())
    assert sorted(found) == sorted(mask_HW.tobytes() for mask_HW in pieces_of(labels_HW))


@pytest.mark.parametrize("seed", range(10))
def test_a_detector_gets_each_piece_that_is_large_enough_with_its_tight_box(seed):
    labels_HW = scene(seed)
    example = detector_example(grey(labels_HW), labels_HW)
    (target,) = detector_targets(example["labels"][None], [example["boxes"]])
    wanted = [mask_HW for mask_HW in pieces_of(labels_HW) if mask_HW.sum() >= LEAST_PX]
    assert target["masks"].shape == (len(wanted), *SHAPE)
    assert target["masks"].dtype == torch.uint8
    assert target["labels"].tolist() == [1] * len(wanted)
    masks = {mask_HW.tobytes() for mask_HW in wanted}
    for box, mask in zip(target["boxes"].tolist(), target["masks"].numpy(), strict=True):
        assert mask.astype(bool).tobytes() in masks
        rows, columns = np.nonzero(mask)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_what_is_ignored_is_painted_over_for_a_detector_and_the_image_stays():
    labels_HW = scene(3)
    image_HWC = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)
    before_HWC = image_HWC.copy()
    seen_HWC = detector_example(image_HWC, labels_HW)["image"].numpy()
    ignored_HW = labels_HW == IGNORED_LABEL
    assert len(np.unique(seen_HWC[ignored_HW], axis=0)) == 1
    np.testing.assert_array_equal(seen_HWC[~ignored_HW], image_HWC[~ignored_HW])
    np.testing.assert_array_equal(image_HWC, before_HWC)


def test_an_example_without_an_object_has_no_box_and_joins_a_batch():
    empty = np.zeros(SHAPE, np.uint16)
    full = np.ones(SHAPE, np.uint16)
    examples = [detector_example(grey(labels_HW), labels_HW) for labels_HW in (empty, full)]
    batch = collate_examples([{**example, "organ": torch.tensor(0)} for example in examples])
    assert batch["image"].shape == (2, *SHAPE, 3)
    assert batch["organ"].tolist() == [0, 0]
    nothing, whole = detector_targets(batch["labels"], batch["boxes"])
    assert nothing["boxes"].shape == (0, 4)
    assert nothing["masks"].shape == (0, *SHAPE)
    assert whole["boxes"].tolist() == [[0, 0, SHAPE[1], SHAPE[0]]]
    assert whole["masks"].all()
    assert (dense_example(grey(full), full)["distance"] == DISTANCE_ONE).all()
    assert not dense_example(grey(empty), empty)["mask"].any()


@pytest.mark.parametrize("seed", range(10))
def test_the_distance_is_1_in_the_middle_of_each_piece_and_falls_to_its_border(seed):
    labels_HW = scene(seed)
    distances_HW = distance_target(labels_HW)
    assert not distances_HW[(labels_HW == 0) | (labels_HW == IGNORED_LABEL)].any()
    for mask_HW in pieces_of(labels_HW):
        # Of the whole image, continued beyond its border: what the tile cuts has no border there.
        around_HW = cv2.copyMakeBorder(mask_HW.view(np.uint8), 60, 60, 60, 60, cv2.BORDER_REPLICATE)
        depths_HW = cv2.distanceTransform(around_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[60:-60, 60:-60]
        if mask_HW.any(1).sum() < SHAPE[0] and mask_HW.any(0).sum() < SHAPE[1]:
            shares_HW = depths_HW[mask_HW] / depths_HW[mask_HW].max()
            np.testing.assert_allclose(distances_HW[mask_HW] / DISTANCE_ONE, shares_HW, atol=0.51 / DISTANCE_ONE)
        assert distances_HW[mask_HW].max() == DISTANCE_ONE


def test_a_disc_has_its_distance_and_its_boundary():
    labels_HW = np.zeros(SHAPE, np.uint16)
    cv2.circle(labels_HW, (28, 20), 14, 7, -1)
    example = dense_example(grey(labels_HW), labels_HW)
    bits_HW, distances_HW = example["mask"].numpy(), example["distance"].numpy()
    assert (bits_HW[20, 28], distances_HW[20, 28]) == (1, DISTANCE_ONE)
    boundary_HW = bits_HW & BOUNDARY_BIT > 0
    square = np.ones((2 * BOUNDARY_PX + 1, 2 * BOUNDARY_PX + 1), np.uint8)
    disc_HW = (labels_HW > 0).astype(np.uint8)
    np.testing.assert_array_equal(boundary_HW, disc_HW > cv2.erode(disc_HW, square))
    np.testing.assert_array_equal(bits_HW & 1 > 0, labels_HW > 0)


def test_objects_that_touch_have_a_boundary_between_them_and_none_at_the_border_of_the_tile():
    labels_HW = np.ones((20, 30), np.uint16)
    labels_HW[:, 15:] = 2
    bits_HW = dense_example(grey(labels_HW), labels_HW)["mask"].numpy()
    expected_HW = np.zeros((20, 30), bool)
    expected_HW[:, 15 - BOUNDARY_PX : 15 + BOUNDARY_PX] = True
    np.testing.assert_array_equal(bits_HW & BOUNDARY_BIT > 0, expected_HW)


def test_what_is_ignored_is_so_in_every_channel_and_makes_no_boundary():
    labels_HW = np.full((20, 30), 5, np.uint16)
    labels_HW[8:12] = IGNORED_LABEL
    bits_HW = dense_example(grey(labels_HW), labels_HW)["mask"].numpy()
    assert (bits_HW[8:12] == IGNORED_BIT).all()
    assert (np.delete(bits_HW, np.s_[8:12], 0) == 1).all()
