import numpy as np
import pytest

from histofold.core.objects.detections import Detections
from histofold.core.objects.frames import framed_detections, framed_objects
from histofold.core.objects.instances import Objects

SHAPE = (17, 23)


def scene(seed):
    masks_NHW = np.random.default_rng(seed).random((6, *SHAPE)) < 0.4
    masks_NHW[0], masks_NHW[1] = True, False
    return masks_NHW, Objects.from_masks(masks_NHW)


@pytest.mark.parametrize("window", [(0, 0, 17, 23), (3, 5, 9, 4), (16, 22, 1, 1), (-4, -2, 30, 40), (10, -3, 20, 9)])
@pytest.mark.parametrize("seed", range(5))
def test_framed_objects_are_those_of_framed_masks(window, seed):
    top, left, height, width = window
    masks_NHW, objects = scene(seed)
    framed = framed_objects(objects, (top, left), (height, width))
    assert len(framed) == len(objects)
    padded_NHW = np.pad(masks_NHW, ((0, 0), (50, 50), (50, 50)))
    expected_NHW = padded_NHW[:, top + 50 : top + 50 + height, left + 50 : left + 50 + width]
    for runs, mask_HW in zip(framed, expected_NHW, strict=True):
        np.testing.assert_array_equal(runs.to_mask(), mask_HW)


def test_detections_without_a_pixel_in_the_frame_are_gone():
    _, objects = scene(0)
    found = Detections(objects, np.arange(6.0))
    own = framed_detections(found, (0, 0), SHAPE)
    assert own.scores.tolist() == [0, 2, 3, 4, 5]
    assert len(framed_detections(found, (40, 40), (5, 5))) == 0
    there_and_back = framed_objects(framed_objects(objects, (-3, -7), (30, 40)), (3, 7), SHAPE)
    assert (there_and_back.starts.tolist(), there_and_back.lengths.tolist()) == (
        objects.starts.tolist(),
        objects.lengths.tolist(),
    )
