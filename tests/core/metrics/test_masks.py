import numpy as np
import pytest
from sklearn.metrics import f1_score

from histofold.core.metrics import dice


def test_dice_is_sklearns_f1_on_random_masks():
    rng = np.random.default_rng(0)
    for _ in range(50):
        shape = rng.integers(1, 30, 2)
        prediction, truth = rng.random(shape) < rng.random(), rng.random(shape) < rng.random()
        if prediction.any() or truth.any():
            assert dice(prediction, truth) == pytest.approx(f1_score(truth.ravel(), prediction.ravel()))


def test_both_empty_is_one_and_one_empty_is_zero():
    empty, full = np.zeros((3, 5), bool), np.ones((3, 5), bool)
    assert dice(empty, empty) == 1.0
    assert dice(empty, full) == dice(full, empty) == 0.0
    assert dice(full, full) == 1.0


def test_any_dtype_counts_non_zero():
    mask = np.array([[0, 255, 3]], np.uint8)
    assert dice(mask, mask.astype(float) / 255) == 1.0


def test_shapes_are_not_broadcast():
    with pytest.raises(ValueError, match="resize"):
        dice(np.ones((2, 3)), np.ones((3, 2)))
