"""Components of volumes on runs against scipy's on voxels."""

import numpy as np
import pytest
from scipy import ndimage

from histofold.core.rle.runs import runs_from_mask
from histofold.core.volumes import clean_volume, label_volume


def random_volume(rng: np.random.Generator) -> np.ndarray:
    """A volume of any shape and density, bool (D, H, W)."""
    shape = rng.integers(1, 12, 3)
    return rng.random(shape) < rng.choice([0.0, 0.1, 0.3, 0.6, 1.0])


def as_slices(volume_DHW, order):
    return [runs_from_mask(mask_HW, order) for mask_HW in volume_DHW]


def as_volume(slices):
    return np.stack([runs.to_mask() for runs in slices])


def structure(corners):
    return ndimage.generate_binary_structure(3, 3 if corners else 1)


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize("order", ["F", "C"])
def test_components_are_those_of_scipy(order, corners):
    rng = np.random.default_rng(0)
    for _ in range(150):
        volume_DHW = random_volume(rng)
        expected_DHW, count = ndimage.label(volume_DHW, structure(corners))
        pieces, labels, found = label_volume(as_slices(volume_DHW, order), corners=corners)
        assert found == count
        pairs = set()
        for z, (runs, of_runs) in enumerate(zip(pieces, labels, strict=True)):
            flat = expected_DHW[z].ravel(order)
            pairs |= set(zip(of_runs.tolist(), flat[runs.starts].tolist(), strict=True))
        assert len(pairs) == count  # one name for one component, and the reverse


def test_hysteresis_and_size_are_those_of_voxels():
    rng = np.random.default_rng(1)
    for _ in range(150):
        low_DHW = random_volume(rng)
        high_DHW = rng.random(low_DHW.shape) < 0.1
        fewest = int(rng.integers(0, 6))
        labels_DHW, count = ndimage.label(low_DHW, structure(True))
        sizes = np.bincount(labels_DHW.ravel(), minlength=count + 1)
        kept = [k for k in range(1, count + 1) if sizes[k] >= fewest and high_DHW[labels_DHW == k].any()]
        found = clean_volume(as_slices(low_DHW, "F"), as_slices(high_DHW, "F"), fewest)
        np.testing.assert_array_equal(as_volume(found), np.isin(labels_DHW, kept))


def test_without_seeds_and_size_nothing_changes():
    rng = np.random.default_rng(2)
    for _ in range(30):
        volume_DHW = random_volume(rng)
        np.testing.assert_array_equal(as_volume(clean_volume(as_slices(volume_DHW, "F"))), volume_DHW)


def test_what_does_not_fit_is_refused():
    slices = as_slices(np.ones((2, 3, 4), bool), "F")
    for others in (as_slices(np.ones((1, 3, 4), bool), "F"), as_slices(np.ones((2, 4, 3), bool), "F")):
        with pytest.raises(ValueError, match="one shape and one order"):
            clean_volume(slices, others)
    assert clean_volume([]) == []
