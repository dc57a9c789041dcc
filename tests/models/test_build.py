from typing import get_args

import pytest
import segmentation_models_pytorch as smp
import torch
from torchvision.models.segmentation import deeplabv3_resnet101

from histofold.core.faults import InputError
from histofold.models.build import build_model
from histofold.schema.network import Architecture, DenseArchitecture, ModelConfig, is_detector, needs_smp


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


@pytest.mark.parametrize("architecture", ["deeplabv3", "deeplabv3plus"])
@pytest.mark.parametrize(("stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18))])
def test_a_deeplab_of_chosen_dilations_is_that_of_smp_to_the_bit(architecture, stride, rates):
    config = ModelConfig(architecture=architecture, encoder="resnet18", output_stride=stride, atrous_rates=rates)
    torch.manual_seed(0)
    ours = build_model(architecture, config.arguments()).eval()
    torch.manual_seed(0)
    kind = {"deeplabv3": smp.DeepLabV3, "deeplabv3plus": smp.DeepLabV3Plus}[architecture]
    theirs = kind("resnet18", encoder_weights=None, encoder_output_stride=stride, decoder_atrous_rates=rates)
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        assert ours.encoder(images)[-1].shape[2:] == (64 // stride, 96 // stride)
        assert torch.equal(ours(images), theirs.eval()(images))
        odd = images[:, :, :31, :50]
        assert ours(odd).shape == (1, 1, 31, 50)


def test_weights_of_one_dilation_load_into_another_that_computes_differently():
    wide, narrow = (
        build_model("deeplabv3", {"encoder": "resnet18", "output_stride": 16, "atrous_rates": rates}).eval()
        for rates in ([12, 24, 36], [1, 2, 3])
    )
    narrow.load_state_dict(wide.state_dict(), strict=True)
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        assert not torch.equal(wide(images), narrow(images))


def test_dilations_are_recorded_where_they_are_not_the_usual_ones():
    usual = ModelConfig(architecture="deeplabv3")
    assert usual.arguments() == {"classes": 1, "encoder": "resnet50"}
    chosen = ModelConfig(architecture="deeplabv3plus", output_stride=8, atrous_rates=(1, 2, 3))
    assert chosen.arguments() == {"classes": 1, "encoder": "resnet50", "output_stride": 8, "atrous_rates": [1, 2, 3]}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"architecture": "unet", "output_stride": 16}, r"belong to deeplabv3 .*leave them out for unet"),
        ({"architecture": "deeplabv3_resnet101", "atrous_rates": (6, 12, 18)}, r"leave them out for deeplabv3_resnet"),
        ({"architecture": "deeplabv3", "atrous_rates": (0, 12, 18)}, r"must each be 1 or more"),
    ],
)
def test_dilations_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig(**settings)


def test_all_parts_of_a_unet_of_efficientnet_are_loaded_and_those_in_use_trained():
    model = build_model("unet", {"encoder": "efficientnet-b0"})
    theirs = smp.Unet("efficientnet-b0", encoder_weights=None)
    model.load_state_dict(theirs.state_dict(), strict=True)
    model(torch.rand(2, 3, 64, 64)).square().mean().backward()
    untrained = {name for name, p in model.encoder.named_parameters() if p.grad is None}
    assert untrained == {"_conv_head.weight", "_bn1.weight", "_bn1.bias"}
    assert all(p.requires_grad == (name not in untrained) for name, p in model.encoder.named_parameters())


@pytest.mark.parametrize("architecture", get_args(DenseArchitecture))
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
    free = [a for a in get_args(Architecture) if not needs_smp(a)]
    assert [a for a in free if not is_detector(a)] == ["deeplabv3_resnet101", "segformer"]
    assert {a for a in get_args(Architecture) if is_detector(a)} < set(free)


@pytest.mark.parametrize(
    ("architecture", "arguments", "words"),
    [
        ("resnet", {}, r"known are unet, unetplusplus, manet.*upernet, dpt"),
        ("unet", {"encoder": "nothing"}, r"cannot be built.*nothing"),
        ("unet", {"depth": 3}, r"cannot be built.*depth"),
        ("unet", {"activation": "tanh"}, r"known are sigmoid, softmax"),
        ("unet", {"encoder": "mit_b0"}, r"architecture segformer"),
        ("upernet", {"encoder": "mit_b3"}, r"architecture segformer"),
        ("upernet", {"decoder_channels": [16, 16, 8, 8, 8]}, r"belong to unet"),
        ("dpt", {"encoder": "resnet18"}, r"dpt takes tu-vit_\*"),
        ("dpt", {"encoder": "tu-hf-hub:bioptimus/H-optimus-0"}, r"is no name.*file:PATH"),
        ("unet", {"encoder": "tu-hf_hub:timm/resnet18.a1_in1k"}, r"is no name"),
        ("pan", {"encoder": "tu-pvt_v2_b0"}, r"cannot be dilated"),
        ("unet", {"output_stride": 16}, r"belong to deeplabv3 and deeplabv3plus"),
        ("upernet", {"atrous_rates": [6, 12, 18]}, r"belong to deeplabv3 and deeplabv3plus"),
        ("deeplabv3", {"output_stride": 32}, r"cannot be built.*8 or 16"),
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


@pytest.mark.parametrize("slices", [1, 5])
@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [("unet", "resnet18"), ("unet", "tu-lcnet_035"), ("segformer", "mit_b0"), ("effunet-b0", ""), ("unext50", "")],
)
def test_networks_see_any_number_of_slices(architecture, encoder, slices):
    config = ModelConfig(architecture=architecture, encoder=encoder)
    model = build_model(architecture, config.arguments(slices)).eval()
    images = torch.rand(1, slices, 64, 96)
    with torch.inference_mode():
        before = model(images)
        images[:, slices - 1] = 0
        assert before.shape == (1, 1, 64, 96)
        assert not torch.equal(model(images), before), "the last of them is seen"
    assert "slices" not in config.arguments(3), "weights of pictures keep their arguments"


@pytest.mark.parametrize("slices", [0, 4, "5", None])
def test_other_numbers_of_slices_are_refused(slices):
    with pytest.raises(InputError, match=r"slices=.* is unknown: known are 1, 3, 5"):
        build_model("unet", {"encoder": "resnet18", "slices": slices})
