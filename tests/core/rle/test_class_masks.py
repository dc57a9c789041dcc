import numpy as np
import pytest

from histofold.core.rle.runs import class_runs, join_classes, runs_from_mask


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_joined_classes_come_apart_again_and_a_single_one_is_bare(classes):
    rng = np.random.default_rng(classes)
    runs = [runs_from_mask(rng.random((5, 9)) < 0.4) for _ in range(classes)]
    masks = join_classes(runs)
    assert class_runs(masks) == tuple(runs)
    assert isinstance(masks, tuple) == (classes > 1)
