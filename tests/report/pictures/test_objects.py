"""Pictures of objects: each pixel shows the object under it, neighbours differ, and the same object is so in both."""

import cv2
import numpy as np
import pytest

from histofold.core.objects.instances import Objects
from histofold.data.thumbnails import small_owners
from histofold.imaging.slide import open_slide
from histofold.report.pictures.objects import (
    OBJECT_COLOURS,
    UNSURE_RGB,
    close_up,
    draw_objects,
    neighbour_colours,
    object_rings,
    truth_and_found,
)
from histofold.report.pictures.overlays import FALSE_RGB
from object_scenes import random_labels, random_masks

SHAPE = (19, 31)


@pytest.mark.parametrize("small_hw", [(19, 31), (7, 31), (19, 10), (5, 6), (1, 1)])
def test_each_pixel_shows_the_last_object_under_its_middle(small_hw):
    rng = np.random.default_rng(0)
    rows, columns = (
        ((np.arange(small) + 0.5) * full / small).astype(int) for small, full in zip(small_hw, SHAPE, strict=True)
    )
    for _ in range(30):
        masks = random_masks(rng, SHAPE)
        owners_HW = np.full(SHAPE, -1)
        for index, mask_HW in enumerate(masks):
            owners_HW[mask_HW != 0] = index
        found_HW = small_owners(Objects.from_masks(masks, SHAPE), small_hw)
        np.testing.assert_array_equal(found_HW, owners_HW[np.ix_(rows, columns)])


def test_rings_enclose_what_they_are_of():
    rng = np.random.default_rng(1)
    for _ in range(20):
        objects = Objects.from_labels(random_labels(rng, SHAPE))
        for runs, rings in zip(objects, object_rings(objects), strict=True):
            drawn_HW = np.zeros(SHAPE, np.uint8)
            cv2.drawContours(drawn_HW, [(ring - 0.5).astype(np.int32)[:, None] for ring in rings], -1, 1, cv2.FILLED)
            np.testing.assert_array_equal(drawn_HW, runs.to_mask())
    assert object_rings(Objects.from_masks([np.zeros(SHAPE)])) == [[]]


def test_neighbours_differ_in_colour():
    labels_HW = np.arange(1, 101).reshape(10, 10).repeat(6, 0).repeat(6, 1)
    colours_HW = neighbour_colours(Objects.from_labels(labels_HW)).reshape(10, 10)
    for other_HW in (colours_HW[:, 1:], colours_HW[1:, :]):
        assert (colours_HW[: other_HW.shape[0], : other_HW.shape[1]] != other_HW).all()
    assert set(colours_HW.ravel()) == set(range(len(OBJECT_COLOURS)))
    assert len(neighbour_colours(Objects.from_masks([], SHAPE))) == 0


def test_nothing_is_drawn_of_no_objects_and_the_picture_is_a_copy():
    picture_HWC = np.full((*SHAPE, 3), 200, np.uint8)
    drawn_HWC = draw_objects(picture_HWC, Objects.from_masks([], SHAPE))
    np.testing.assert_array_equal(drawn_HWC, picture_HWC)
    assert not np.shares_memory(drawn_HWC, picture_HWC)
    draw_objects(picture_HWC, Objects.from_masks([np.ones(SHAPE)]))
    assert (picture_HWC == 200).all()


def boxes_of(*spans, shape_hw=(60, 90)):
    masks = []
    for top, left, bottom, right in spans:
        mask_HW = np.zeros(shape_hw, bool)
        mask_HW[top:bottom, left:right] = True
        masks.append(mask_HW)
    return Objects.from_masks(masks, shape_hw)


@pytest.fixture
def slide(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((60, 90, 3), 200, np.uint8))
    with open_slide(tmp_path / "a.png") as opened:
        yield opened


def test_an_object_has_one_colour_in_truth_and_prediction_and_false_ones_their_own(slide):
    truth = boxes_of((5, 5, 25, 25), (5, 40, 25, 60))
    found = boxes_of((30, 70, 50, 85), (6, 41, 26, 61), (5, 5, 25, 24))
    unsure = boxes_of((30, 5, 50, 25))
    picture_HWC = truth_and_found(slide, truth, found, unsure, 90)
    assert picture_HWC.shape == (60, 90 + 8 + 90, 3)
    left_HWC, right_HWC = picture_HWC[:, :90].astype(int), picture_HWC[:, 98:].astype(int)
    for y, x in ((15, 15), (15, 50)):
        np.testing.assert_array_equal(left_HWC[y, x], right_HWC[y, x])
    assert (left_HWC[15, 15] != left_HWC[15, 50]).any()
    false = 0.65 * 200 + 0.35 * np.array(FALSE_RGB)
    grey = 0.65 * 200 + 0.35 * np.array(UNSURE_RGB)
    np.testing.assert_allclose(right_HWC[40, 77], false, atol=1)
    np.testing.assert_allclose(left_HWC[40, 15], grey, atol=1)
    assert (left_HWC[40, 77] == 200).all()
    assert (right_HWC[40, 15] == 200).all()


@pytest.mark.parametrize("box", [(0, 0, 4, 4), (50, 80, 60, 90), (0, 0, 60, 90), (30, 40, 31, 41)])
def test_a_close_up_is_square_and_shows_what_it_is_about(slide, box):
    truth, nothing = boxes_of(box), Objects.from_masks([], (60, 90))
    picture_HWC = close_up(slide, truth, nothing, ((0,), ()), 120)
    assert picture_HWC.shape == (120, 120, 3)
    assert (picture_HWC.astype(int)[..., 2] - picture_HWC[..., 0] > 100).any(), "its outline"
