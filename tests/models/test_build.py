from typing import get_args

import pytest
import segmentation_models_pytorch as smp
import torch
from torchvision.models.segmentation import deeplabv3_resnet101

from histoseg.core.faults import InputError
from histoseg.models.build import build_model
from histoseg.schema.network import Architecture, ModelConfig, needs_smp


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet10t"])
def test_unet_is_that_of_smp_to_the_bit(encoder):
    channels = [32, 16, 16, 8, 8]
    torch.manual_seed(0)
    ours = build_model("unet", {"encoder": encoder, "classes": 2, "decoder_channels": channels}).eval()
    torch.manual_seed(0)
    theirs = smp.Unet(encoder, encoder_weights=None, classes=2, decoder_channels=channels).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(ours(images), theirs(images))


def test_all_parts_of_a_unet_of_efficientnet_are_loaded_and_those_in_use_trained():
    model = build_model("unet", {"encoder": "efficientnet-b0"})
    theirs = smp.Unet("efficientnet-b0", encoder_weights=None)
    model.load_state_dict(theirs.state_dict(), strict=True)
    model(torch.rand(2, 3, 64, 64)).square().mean().backward()
    untrained = {name for name, p in model.encoder.named_parameters() if p.grad is None}
    assert untrained == {"_conv_head.weight", "_bn1.weight", "_bn1.bias"}
    assert all(p.requires_grad == (name not in untrained) for name, p in model.encoder.named_parameters())


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_every_architecture_is_built_from_its_own_settings(architecture):
    with torch.device("meta"):
        model = build_model(architecture, ModelConfig(architecture=architecture, classes=3).arguments())
    assert sum(p.numel() for p in model.parameters()) > 1e6
    assert isinstance(model.encoder, torch.nn.Module)


@pytest.mark.parametrize("encoder", ["mit_b0", "mit_b1", "mit_b5"])
def test_encoders_of_segformer_differ_in_size(encoder):
    with torch.device("meta"):
        model = build_model("segformer", {"encoder": encoder})
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    # Table 2 of the SegFormer paper: 3.8, 13.7 and 84.7 million parameters with a head of 150 classes.
    assert millions == pytest.approx({"mit_b0": 3.8, "mit_b1": 13.7, "mit_b5": 84.7}[encoder], rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("head_channel", "classes"), [(0, 1), (20, 1), (4, 3)])
def test_deeplab_gives_the_channels_that_torchvision_gives(head_channel, classes):
    theirs = deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=21, aux_loss=False).eval()
    ours = build_model("deeplabv3_resnet101", {"head_channel": head_channel, "classes": classes}).eval()
    state = {name.replace("backbone.", "encoder.", 1): tensor for name, tensor in theirs.state_dict().items()}
    ours.load_state_dict(state, strict=True)
    images = torch.rand(1, 3, 40, 64)
    with torch.inference_mode():
        wanted = theirs(images)["out"][:, head_channel : head_channel + classes]
        torch.testing.assert_close(ours(images), wanted, rtol=1e-5, atol=1e-6)


def test_smp_is_needed_where_it_is_imported():
    assert [a for a in get_args(Architecture) if not needs_smp(a)] == ["deeplabv3_resnet101", "segformer"]


@pytest.mark.parametrize(
    ("architecture", "arguments", "words"),
    [
        ("resnet", {}, r"known are unet, unetplusplus, unext50.*upernet"),
        ("unet", {"encoder": "nothing"}, r"cannot be built.*nothing"),
        ("unet", {"depth": 3}, r"cannot be built.*depth"),
        ("unet", {"activation": "tanh"}, r"known are sigmoid, softmax"),
        ("unet", {"encoder": "mit_b0"}, r"architecture segformer"),
        ("upernet", {"encoder": "mit_b3"}, r"architecture segformer"),
        ("upernet", {"encoder": "tu-maxvit_tiny_tf_224"}, r"one image size alone"),
        ("upernet", {"decoder_channels": [16, 16, 8, 8, 8]}, r"belong to unet"),
        ("deeplabv3", {"encoder": "tu-swin_tiny_patch4_window7_224"}, r"cannot be dilated"),
        ("segformer", {"encoder": "resnet18"}, r"known are mit_b0, mit_b1"),
        ("deeplabv3_resnet101", {"head_channel": 20, "classes": 2}, r"the head has 21"),
        ("deeplabv3_resnet101", {"head_channel": 20, "activation": "softmax"}, r"the head has 21"),
        ("unext50", {"encoder": "resnet18"}, r"cannot be built.*encoder"),
        ("effunet-b5", {"head_channel": 1}, r"cannot be built.*head_channel"),
    ],
)
def test_unknown_names_are_refused_in_words(architecture, arguments, words):
    with pytest.raises(InputError, match=words):
        build_model(architecture, arguments)
