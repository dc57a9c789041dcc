"""Families of encoders of timm, each by a small member, at sizes that are not their own and not square."""

import pytest
import torch

from histofold.models.build import build_model

pytestmark = pytest.mark.slow

NARROW = [16, 16, 8, 8, 8]
FAMILIES = [
    ("tu-pvt_v2_b0", 0, (64, 96)),
    ("tu-caformer_s18", 0, (64, 96)),
    ("tu-coat_lite_tiny", 0, (64, 96)),
    ("tu-coat_tiny", 0, (50, 96)),
    ("tu-maxvit_rmlp_pico_rw_256", 64, (64, 128)),
    ("tu-maxvit_tiny_tf_224", 96, (96, 96)),
    ("tu-maxxvit_rmlp_nano_rw_256", 64, (50, 64)),
    ("tu-coatnet_nano_rw_224", 64, (50, 64)),
    ("tu-swin_tiny_patch4_window7_224", 0, (64, 96)),
    ("tu-swinv2_tiny_window8_256", 0, (64, 96)),
    ("tu-hiera_tiny_224", 96, (96, 64)),
    ("tu-hiera_small_abswin_256", 64, (64, 64)),
    ("tu-sam2_hiera_tiny", 0, (64, 96)),
]


@pytest.mark.parametrize(("encoder", "image_size", "hw"), FAMILIES)
def test_a_family_learns_at_the_size_of_the_tile(encoder, image_size, hw):
    torch.manual_seed(0)
    side = {"image_size": image_size} if image_size else {}
    model = build_model("unet", {"encoder": encoder, "decoder_channels": NARROW, "classes": 2, **side})
    logits_NKHW = model(torch.rand(2, 3, *hw))
    assert logits_NKHW.shape == (2, 2, *hw)
    logits_NKHW.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("architecture", ["fpn", "manet", "upernet"])
def test_decoders_take_encoders_without_a_finest_map(architecture):
    torch.manual_seed(0)
    model = build_model(architecture, {"encoder": "tu-pvt_v2_b0"})
    logits_NKHW = model(torch.rand(2, 3, 64, 96))
    assert logits_NKHW.shape == (2, 1, 64, 96)
    logits_NKHW.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_what_is_built_for_one_side_takes_less_and_refuses_more():
    model = build_model("unet", {"encoder": "tu-hiera_tiny_224", "decoder_channels": NARROW, "image_size": 64}).eval()
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 33, 64)).shape == (1, 1, 33, 64)
        with pytest.raises(ValueError, match=r"96 x 64 px: the network takes 64 px a side at most: set predict.tile"):
            model(torch.rand(1, 3, 96, 64))
