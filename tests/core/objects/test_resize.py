"""Objects of another size against indexing of decoded masks."""

import numpy as np
import pytest

from histofold.core.objects.instances import Objects
from histofold.core.objects.resize import resize_objects

SIZES = [
    ((7, 5), (7, 5)),
    ((7, 5), (14, 15)),
    ((9, 13), (4, 5)),
    ((11, 6), (23, 3)),
    ((1, 1), (5, 2)),
    ((30, 40), (1, 1)),
]


def indexed(mask_HW, shape_hw):
    """Each pixel from the old one in which its middle lies."""
    rows, columns = (
        ((2 * np.arange(new) + 1) * old) // (2 * new) for old, new in zip(mask_HW.shape, shape_hw, strict=True)
    )
    return mask_HW[rows][:, columns]


@pytest.mark.parametrize(("old_hw", "new_hw"), SIZES)
def test_it_is_the_mask_indexed(old_hw, new_hw):
    rng = np.random.default_rng(0)
    masks = [rng.random(old_hw) < share for share in (0.5, 0.9, 0.1, 0.0, 1.0)]
    masks[0][0, 0] = masks[0][-1, -1] = True
    resized = resize_objects(Objects.from_masks(masks, old_hw), new_hw)
    expected = Objects.from_masks([indexed(mask_HW, new_hw) for mask_HW in masks], new_hw)
    for name in ("starts", "lengths", "offsets"):
        np.testing.assert_array_equal(getattr(resized, name), getattr(expected, name))
    assert resized.shape_hw == new_hw


def test_no_objects_stay_none():
    assert len(resize_objects(Objects.from_masks([], (8, 9)), (3, 4))) == 0
