import dataclasses

import numpy as np
import pytest
import tifffile

from histofold.core.faults import InputError
from histofold.core.rle.runs import runs_from_mask
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample
from histofold.trust.blank_tiles import blank_truth_pixels, refuse_costly_skipping

MANIFEST = Manifest(
    competition="folder", preprocessing=Preprocessing(target_pixel_size_um=1.0), tile=32, halo=4, skip_blank=True
)


class Truth:
    """A competition whose truth is given."""

    def __init__(self, mask_HW):
        self.mask_HW = mask_HW

    def target(self, sample):
        return runs_from_mask(self.mask_HW)


@pytest.fixture
def sample(tmp_path):
    image_HWC = np.full((90, 150, 3), 245, np.uint8)
    image_HWC[20:40, 20:60] = np.random.default_rng(0).integers(0, 200, (20, 40, 3))
    tifffile.imwrite(tmp_path / "s.tif", image_HWC)
    return Sample(id="s", image_path=tmp_path / "s.tif", pixel_size_um=1.0)


def test_truth_on_tissue_is_not_lost_and_truth_on_glass_is(sample):
    mask_HW = np.zeros((90, 150), bool)
    mask_HW[25:35, 25:50] = True
    assert blank_truth_pixels(MANIFEST, Truth(mask_HW), sample) == 0
    refuse_costly_skipping(MANIFEST, Truth(mask_HW), [sample])
    mask_HW[-1, -1] = mask_HW[80, 120] = True
    assert blank_truth_pixels(MANIFEST, Truth(mask_HW), sample) == 2
    with pytest.raises(InputError, match="2 pixels of its truth"):
        refuse_costly_skipping(MANIFEST, Truth(mask_HW), [sample])
    refuse_costly_skipping(dataclasses.replace(MANIFEST, skip_blank=False), Truth(mask_HW), [sample])
