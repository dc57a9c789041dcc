import tracemalloc

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from histofold.core.objects.paste import paste_masks


def random_boxes(rng, shape_hw, count=6):
    """Boxes of all sizes, some beyond the image, every other time on whole pixels."""
    middles, sides = rng.uniform(-10, np.array(shape_hw) + 10, (count, 2)), rng.exponential(25, (count, 2))
    boxes_M4 = np.concatenate([middles - sides / 2, middles + sides / 2], axis=1).astype(np.float32)
    return boxes_M4.round() if rng.random() < 0.5 else boxes_M4


def torchvision_mask(box_4, probs_hw, shape_hw):
    """torchvision's mask; nothing where the box lies outside of the image, which it cannot do."""
    box = torch.from_numpy(box_4[None, [1, 0, 3, 2]])
    grown = paste_masks_in_image.__globals__["expand_boxes"](box, (len(probs_hw) + 2) / len(probs_hw)).long()[0]
    x0, y0, x1, y1 = grown.tolist()
    if x0 >= shape_hw[1] or y0 >= shape_hw[0] or x1 < 0 or y1 < 0:
        return np.zeros(shape_hw, bool)
    return (paste_masks_in_image(torch.from_numpy(probs_hw)[None, None], box, shape_hw)[0, 0] > 0.5).numpy()


@pytest.mark.parametrize("cells", [1, 2, 7, 28, 56])
def test_pasted_masks_are_torchvisions(cells):
    rng, pixels = np.random.default_rng(cells), 0
    for _ in range(40):
        shape_hw = tuple(rng.choice(np.arange(1, 120), 2, replace=False).tolist())
        boxes_M4, probs_Mhw = random_boxes(rng, shape_hw), rng.random((6, cells, cells), dtype=np.float32)
        objects = paste_masks(boxes_M4, probs_Mhw, shape_hw)
        assert (len(objects), objects.shape_hw) == (6, shape_hw)
        for runs, box_4, probs_hw in zip(objects, boxes_M4, probs_Mhw, strict=True):
            np.testing.assert_array_equal(runs.to_mask(), torchvision_mask(box_4, probs_hw, shape_hw))
        assert ((objects.starts % shape_hw[0] + objects.lengths) <= shape_hw[0]).all()  # runs end where columns end
        pixels += objects.areas.sum()
    assert pixels > 1000


def test_the_whole_image_its_corners_and_nothing():
    boxes_M4 = np.array([[-5, -5, 14, 19], [6, 11, 11, 17], [-5, -5, 3, 3], [40, 0, 50, 5], [-90, -90, -80, -80]])
    maps_Mhw = np.ones((5, 3, 3))
    objects = paste_masks(boxes_M4, maps_Mhw, (9, 14))
    assert objects.areas[0] == 9 * 14
    assert objects[1].to_mask()[-1, -1]
    assert objects[2].to_mask()[0, 0]
    assert objects.areas[3:].tolist() == [0, 0]
    assert paste_masks(boxes_M4, maps_Mhw * 0.5, (9, 14)).areas.sum() == 0  # not above the threshold
    assert paste_masks(boxes_M4, maps_Mhw, (9, 14), threshold=1.0).areas.sum() == 0
    assert len(paste_masks(np.zeros((0, 4)), np.zeros((0, 28, 28)), (9, 14))) == 0


@pytest.mark.parametrize("size_hw", [(17, 31), (1, 1), (64, 5)])
def test_a_map_of_a_whole_tile_comes_back_as_it_is(size_hw):
    height, width = size_hw
    probs_1HW = np.random.default_rng(0).random((1, height, width), dtype=np.float32)
    for y, x in ((0, 0), (3, 8)):
        objects = paste_masks(np.array([[y, x, y + height, x + width]]), probs_1HW, (80, 70), framed=False)
        assert np.array_equal(objects[0].to_mask()[y : y + height, x : x + width], probs_1HW[0] > 0.5)
        assert objects.areas[0] == np.count_nonzero(probs_1HW > 0.5)


def test_a_coarse_map_of_a_whole_tile_is_resized_to_it():
    probs_1hw = np.random.default_rng(1).random((1, 12, 7), dtype=np.float32)
    resized = torch.nn.functional.interpolate(torch.from_numpy(probs_1hw)[None], size=(48, 35), mode="bilinear")
    objects = paste_masks(np.array([[0, 0, 48, 35]]), probs_1hw, (48, 35), framed=False)
    np.testing.assert_array_equal(objects[0].to_mask(), (resized[0, 0] > 0.5).numpy())


def test_without_a_frame_each_pixel_has_the_maps_value_at_its_centre():
    """Beside a sampling of the whole image, for boxes that begin anywhere and reach beyond it."""
    rng = np.random.default_rng(2)
    ys, xs = np.arange(40) + 0.5, np.arange(30) + 0.5
    for _ in range(50):
        y0, x0 = rng.uniform(-9, 36), rng.uniform(-9, 26)
        y1, x1 = y0 + rng.uniform(1, 30), x0 + rng.uniform(1, 30)
        probs_hw = rng.random((28, 28), dtype=np.float32)
        mask = paste_masks(np.array([[y0, x0, y1, x1]]), probs_hw[None], (40, 30), framed=False)[0].to_mask()
        inside = ((ys >= y0) & (ys < y1))[:, None] & (xs >= x0) & (xs < x1)
        grid = np.stack(np.meshgrid((xs - x0) / (x1 - x0) * 2 - 1, (ys - y0) / (y1 - y0) * 2 - 1), axis=-1)
        maps, places = torch.from_numpy(probs_hw)[None, None], torch.from_numpy(grid.astype(np.float32))[None]
        values = torch.nn.functional.grid_sample(maps, places, padding_mode="border", align_corners=False)[0, 0].numpy()
        sure = np.abs(values - 0.5) > 1e-4
        assert np.array_equal(mask & sure, inside & sure & (values > 0.5))


def test_memory_is_that_of_the_runs():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 980, (300, 2))
    boxes_M4, maps_Mhw = np.concatenate([corners, corners + 20], axis=1), np.ones((300, 28, 28), np.float32)
    tracemalloc.start()
    objects = paste_masks(boxes_M4, maps_Mhw, (1000, 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(objects) == 300
    assert peak < 3e6  # a mask of one of them as float32 has 4 MB


@pytest.mark.parametrize(
    "boxes", [[[0, 0, 5, 5]], [[0, 0, 5, np.nan], [0, 0, 1, 1]], [[0, 0, 5, np.inf], [0, 0, 1, 1]]]
)
def test_boxes_that_do_not_fit_the_maps_are_refused(boxes):
    with pytest.raises(ValueError, match="one box of finite numbers"):
        paste_masks(np.array(boxes), np.ones((2, 3, 3)), (9, 14))
