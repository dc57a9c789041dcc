"""Logits of a slide, thinned for a picture."""

import numpy as np
import pytest
import tifffile
import torch

from histofold.report.comparison import LARGEST_LOGIT, draw_logits, logit_map
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample
from small_stages import stages_of_models


class Redness(torch.nn.Module):
    """A logit that is the red channel, 0 to 1, scaled; a network without memory of its neighbours."""

    def forward(self, images_NCHW):
        return images_NCHW[:, :1] * 40 - 20


@pytest.mark.parametrize("side", [16, 70, 1000])
def test_the_map_is_the_slide_thinned_whatever_the_tiles(tmp_path, side):
    rng = np.random.default_rng(0)
    image_HWC = rng.integers(0, 256, (97, 143, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image_HWC)
    spec = Preprocessing(target_pixel_size_um=1.0, normalise="none")
    manifest = Manifest(competition="folder", preprocessing=spec, tile=64, halo=8, views=("identity", "hflip"))
    (stage,) = stages_of_models([Redness()], manifest)
    sample = Sample(id="a", image_path=tmp_path / "a.tif", pixel_size_um=1.0)
    logits_KHW = logit_map(stage, sample, side)
    step = -(-143 // side) if side < 143 else 1
    expected_HW = np.clip(image_HWC[::step, ::step, 0] / 255 * 40 - 20, -LARGEST_LOGIT, LARGEST_LOGIT)
    assert logits_KHW.shape == (1, *expected_HW.shape)
    np.testing.assert_allclose(logits_KHW[0], expected_HW, atol=2e-2)


def test_colours_tell_the_sign_and_know_their_limit():
    picture_HWC = draw_logits(np.array([[-50.0, -6.0, 0.0, 6.0, 50.0]]), (1, 5)).astype(int)
    blue, white, red = picture_HWC[0, 0], picture_HWC[0, 2], picture_HWC[0, 4]
    assert blue[2] > blue[0] + 50
    assert red[0] > red[2] + 50
    assert white.min() > 240
    assert (picture_HWC[0, 0] == picture_HWC[0, 1]).all()
    assert (picture_HWC[0, 3] == picture_HWC[0, 4]).all()
