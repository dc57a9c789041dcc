"""DPT on plain vision transformers: that of smp where the patch is a power of two, any size, frozen in part."""

import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn.functional import interpolate

from histofold.core.faults import InputError
from histofold.models.build import build_model
from histofold.schema.optim import OptimConfig
from histofold.train.optim import freeze_encoder, make_optimizer

pytestmark = pytest.mark.slow

TINY = "tu-vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return build_model("dpt", {"encoder": TINY, "classes": 2}).eval()


def test_it_is_that_of_smp_without_class_tokens(tiny):
    theirs = smp.DPT(TINY, encoder_weights=None, decoder_readout="ignore", classes=2, dynamic_img_size=True).eval()
    own = tiny.state_dict()
    unread = [key for key in theirs.state_dict() if key not in own]
    assert all(key.startswith(("encoder.model.norm.", "encoder.model.head.")) for key in unread)
    theirs.load_state_dict({**theirs.state_dict(), **own}, strict=True)
    images_NCHW = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(tiny(images_NCHW), theirs(images_NCHW))


@pytest.mark.parametrize(
    ("encoder", "image_size"),
    [("tu-vit_small_patch14_reg4_dinov2", 224), ("tu-vit_small_patch16_dinov3", 0), ("tu-vit_small_patch8_224", 0)],
)
def test_patches_of_all_sides_give_logits_of_the_images_size(encoder, image_size):
    torch.manual_seed(0)
    model = build_model("dpt", {"encoder": encoder, "image_size": image_size})
    logits_NKHW = model(torch.rand(2, 3, 50, 96))
    assert logits_NKHW.shape == (2, 1, 50, 96)
    logits_NKHW.square().mean().backward()
    lost = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert lost == []


def test_a_patch_of_14_px_sees_16_of_the_image():
    encoder = build_model("dpt", {"encoder": "tu-vit_small_patch14_dinov2", "image_size": 224}).eval().encoder
    images_NCHW = torch.rand(1, 3, 64, 96)
    seen_NCHW = interpolate(images_NCHW, (56, 84), mode="bilinear", antialias=True)
    with torch.inference_mode():
        maps, wanted = encoder(images_NCHW), encoder.model.forward_intermediates(seen_NCHW, 4, intermediates_only=True)
        assert torch.equal(maps[-1], wanted[-1])
    assert [tuple(m.shape[2:]) for m in maps] == [(4, 6)] * 4


@pytest.mark.parametrize("blocks", [0, 1, 12])
def test_frozen_blocks_have_neither_gradients_nor_a_state_and_stay_to_the_bit(blocks):
    torch.manual_seed(0)
    model = build_model("dpt", {"encoder": TINY})
    freeze_encoder(model, blocks)
    optimizer = make_optimizer(model, OptimConfig(optimizer="adamw", lr=1e-2, encoder_blocks=blocks))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(torch.rand(2, 3, 64, 32)).square().mean().backward()
    optimizer.step()
    trained = tuple(f"encoder.model.blocks.{12 - place - 1}." for place in range(blocks))
    for name, p in dict(model.net.named_parameters()).items():
        learns = not name.startswith("encoder.") or name.startswith(trained or "none")
        assert (p.grad is not None) == learns == (p in optimizer.state), name
        assert learns or torch.equal(p, before[name]), name


@pytest.mark.parametrize(
    ("architecture", "encoder", "blocks", "words"),
    [
        ("dpt", TINY, 13, "12 blocks that follow each other"),
        ("unet", "tu-pvt_v2_b0", 1, "0 blocks that follow each other"),
        ("unet", "resnet18", 0, "batch normalisation would go on changing"),
    ],
)
def test_what_cannot_be_frozen_is_refused(architecture, encoder, blocks, words):
    with pytest.raises(InputError, match=words):
        freeze_encoder(build_model(architecture, {"encoder": encoder}), blocks)


def test_none_and_a_rate_of_none_exclude_each_other():
    with pytest.raises(ValueError, match="leave encoder_lr_factor out"):
        OptimConfig(encoder_blocks=0, encoder_lr_factor=0.1)
    with pytest.raises(ValueError, match="encoder_blocks=-2"):
        OptimConfig(encoder_blocks=-2)
