"""Dense maps become the objects of the image, in one slab or in many."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from histofold.core.objects.instances import Objects
from histofold.core.objects.overlaps import pairwise_iou
from histofold.predict.objects.dense import dense_detections, row_slabs
from histofold.predict.stages import OutOfTimeError
from histofold.schema.objects import ObjectConfig

CONFIG = ObjectConfig(marker=0.3)


def scene(shape_hw, count, seed):
    """Discs that touch but do not cover each other, as labels, and the maps that a perfect network gives of them."""
    rng = np.random.default_rng(seed)
    labels_HW = np.zeros(shape_hw, np.int32)
    for label in range(1, count + 1):
        disc_HW = np.zeros(shape_hw, np.uint8)
        middle = int(rng.integers(0, shape_hw[1])), int(rng.integers(0, shape_hw[0]))
        cv2.circle(disc_HW, middle, int(rng.integers(4, 14)), 1, -1)
        if not labels_HW[disc_HW > 0].any():
            labels_HW[disc_HW > 0] = label
    distance_HW, boundary_HW = np.zeros(shape_hw, np.float32), np.zeros(shape_hw, np.float32)
    for label in np.unique(labels_HW)[1:]:
        deep_HW = ndimage.distance_transform_edt(np.pad(labels_HW == label, 1))[1:-1, 1:-1]
        distance_HW += (deep_HW / deep_HW.max()).astype(np.float32)
        boundary_HW += (deep_HW > 0) & (deep_HW <= 1)
    return labels_HW, np.stack([np.where(labels_HW > 0, 0.6 + 0.01 * (labels_HW % 30), 0.1), boundary_HW, distance_HW])


def bands_of(maps_KHW, rows=7):
    for y in range(0, maps_KHW.shape[1], rows):
        yield y, maps_KHW[:, y : y + rows].astype(np.float32)


@pytest.mark.parametrize("shape_hw", [(300, 200), (123, 77), (90, 210)])
@pytest.mark.parametrize("seed", range(3))
def test_slabs_give_what_the_whole_gives(shape_hw, seed):
    labels_HW, maps_KHW = scene(shape_hw, 60, seed)
    truth = Objects.from_labels(labels_HW)
    whole, rows_done = dense_detections(bands_of(maps_KHW), shape_hw, CONFIG)
    assert rows_done == shape_hw[0]
    assert_same(whole, truth, 0.9)
    touching = np.array([0.6 + 0.01 * (label % 30) for label in np.unique(labels_HW)[1:]])
    np.testing.assert_allclose(np.sort(whole.scores), np.sort(touching), rtol=0.05)
    for rows in (100, 64):
        slabs, rows_done = dense_detections(bands_of(maps_KHW), shape_hw, CONFIG, 1, rows)
        assert rows_done == shape_hw[0]
        assert_same(slabs, whole.objects, 1)
        np.testing.assert_allclose(np.sort(slabs.scores), np.sort(whole.scores), rtol=0.03)


def assert_same(detections, objects, at_least):
    """Each object is found once."""
    iou_NM = pairwise_iou(detections.objects, objects)
    np.testing.assert_array_equal(np.sort(iou_NM.argmax(1)), np.arange(len(objects)))
    assert iou_NM.max(1, initial=1).min() >= at_least


@pytest.mark.parametrize(("rows", "shared"), [(10, 4), (100, 30), (7, 1)])
@pytest.mark.parametrize("height", [1, 9, 10, 11, 64])
def test_slabs_hold_every_row_and_share_some(rows, shared, height):
    maps_KHW = np.random.default_rng(0).random((3, height, 5)).astype(np.float32)
    seen = np.zeros(height, int)
    slabs = 0
    for slab in row_slabs(bands_of(maps_KHW, 3), (height, 5), rows, shared):
        held = slice(slab.top, slab.top + slab.maps.shape[1])
        np.testing.assert_array_equal(slab.maps, maps_KHW[:, held])
        assert slab.is_last == (held.stop == height)
        seen[held] += 1
        slabs += 1
    assert seen.min() == 1
    assert (seen == 2).sum() == shared * (slabs - 1)


@pytest.mark.parametrize("stop", [0, 3, 80, 150])
def test_rows_that_came_before_time_ran_out_count(stop):
    labels_HW, maps_KHW = scene((200, 90), 40, 5)

    def bands():
        for y, band_KHW in bands_of(maps_KHW, 1):
            if y == stop:
                raise OutOfTimeError
            yield y, band_KHW

    if stop == 0:
        with pytest.raises(OutOfTimeError):
            dense_detections(bands(), (200, 90), CONFIG)
        return
    for pixels, rows in ((1 << 22, 1024), (1, 64)):
        detections, rows_done = dense_detections(bands(), (200, 90), CONFIG, pixels, rows)
        assert rows_done == stop
        assert len(detections) == len(np.unique(labels_HW[:stop])) - 1
        assert detections.objects.shape_hw == (200, 90)


def test_other_maps_are_refused():
    with pytest.raises(ValueError, match="object, boundary and distance"):
        dense_detections(bands_of(np.zeros((1, 8, 8))), (8, 8), CONFIG)
