"""Objects of a tile and its neighbours, whole again across the lines between them."""

import numpy as np
from skimage.measure import label

from histofold.competitions.surroundings import PlacedTruth, truth_in_surroundings
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import runs_from_mask

HEIGHT, WIDTH, CONTEXT = 20, 24, 8


def part(labels_HW, y, x, unsure_HW=None):
    """The truth of the tile whose first pixel is (y, x) of a slide, as outlines have it: first row and column empty."""
    own_HW = labels_HW[y : y + HEIGHT, x : x + WIDTH].copy()
    own_HW[0] = own_HW[:, 0] = 0
    unsure = Objects.from_masks([] if unsure_HW is None else [unsure_HW], (HEIGHT, WIDTH))
    return PlacedTruth(y - HEIGHT, x - WIDTH, Objects.from_labels(own_HW), unsure)


def test_objects_of_a_slide_cut_into_tiles_are_whole_again():
    slide_HW = np.zeros((3 * HEIGHT, 3 * WIDTH), int)
    boxes = [(15, 30, 24, 36), (22, 20, 30, 40), (33, 44, 45, 52), (25, 50, 29, 60), (8, 60, 12, 64), (16, 44, 20, 47)]
    for number, (top, left, bottom, right) in enumerate(boxes, 1):
        slide_HW[top:bottom, left:right] = number
    places = [(HEIGHT, WIDTH)] + [
        (y, x) for y in (0, HEIGHT, 2 * HEIGHT) for x in (0, WIDTH, 2 * WIDTH) if (y, x) != (HEIGHT, WIDTH)
    ]
    objects, ignored = truth_in_surroundings([part(slide_HW, *place) for place in places], CONTEXT)
    frame_HW = slide_HW[HEIGHT - CONTEXT : 2 * HEIGHT + CONTEXT, WIDTH - CONTEXT : 2 * WIDTH + CONTEXT]
    assert ignored.area == 0
    assert len(objects) == len(np.unique(frame_HW)) - 1
    for runs in objects:
        mask_HW = runs.to_mask()
        (number,) = np.unique(frame_HW[mask_HW])
        np.testing.assert_array_equal(mask_HW, frame_HW == number)


def test_objects_that_touch_within_a_tile_stay_apart():
    labels_HW = np.zeros((HEIGHT, WIDTH), int)
    labels_HW[5:9, 5:9], labels_HW[5:9, 9:14] = 1, 2
    own = PlacedTruth(0, 0, Objects.from_labels(labels_HW), Objects.from_masks([], (HEIGHT, WIDTH)))
    objects, ignored = truth_in_surroundings([own], CONTEXT)
    assert objects.areas.tolist() == [16, 20]
    assert objects.boxes[0].tolist() == [5 + CONTEXT, 5 + CONTEXT, 9 + CONTEXT, 9 + CONTEXT]
    assert ignored.area == (HEIGHT + 2 * CONTEXT) * (WIDTH + 2 * CONTEXT) - HEIGHT * WIDTH


def test_unsure_pixels_are_ignored_and_of_overlapping_tiles_the_first_counts():
    slide_HW = np.zeros((3 * HEIGHT, 3 * WIDTH), int)
    unsure_HW = np.zeros((HEIGHT, WIDTH), bool)
    unsure_HW[2:5, 3:7] = True
    own = part(slide_HW, HEIGHT, WIDTH, unsure_HW)
    slide_HW[30:40, 40:60] = 1
    beside = part(slide_HW, HEIGHT, WIDTH + 10)
    objects, ignored = truth_in_surroundings([own, beside], CONTEXT)
    frame_HW = slide_HW[HEIGHT - CONTEXT : 2 * HEIGHT + CONTEXT, WIDTH - CONTEXT : 2 * WIDTH + CONTEXT].copy()
    frame_HW[:, : CONTEXT + WIDTH] = 0  # the tile itself has no object there
    np.testing.assert_array_equal(objects[0].to_mask(), frame_HW > 0)
    expected_HW = np.ones(frame_HW.shape, bool)
    expected_HW[CONTEXT : CONTEXT + HEIGHT, CONTEXT:] = False
    expected_HW[CONTEXT + 2 : CONTEXT + 5, CONTEXT + 3 : CONTEXT + 7] = True
    np.testing.assert_array_equal(ignored.to_mask(), expected_HW)
    assert label(objects[0].to_mask()).max() == 1
    assert runs_from_mask(expected_HW).area == ignored.area
