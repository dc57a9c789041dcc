"""The heads of training: what they give, what they cost, and that the plain network does not know of them."""

import copy

import pytest
import torch

from histofold.core.faults import InputError
from histofold.models.build import build_model
from histofold.schema.experiment import LossConfig
from histofold.train.heads import TrainingNetwork, caught_calls, deep_stages
from small_runs import TinyNet, same_tensors

ALL_HEADS = LossConfig(organ=0.1, pixel_size=0.1, deep_supervision=0.1)
UNET = {"encoder": "resnet18", "decoder_channels": (32, 16, 12, 8, 4), "classes": 1}


def small_unet(architecture="unet"):
    torch.manual_seed(0)
    return build_model(architecture, UNET)


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_without_weights_it_is_the_bare_network():
    bare = small_unet()
    wrapped = TrainingNetwork(copy.deepcopy(bare), classes=1, organs=3, config=LossConfig())
    assert not list(wrapped.heads.parameters())
    assert same_tensors(wrapped.model.state_dict(), bare.state_dict())
    batch = images(2, 3, 64, 96)
    outputs = wrapped(batch)
    assert outputs.keys() == {"logits"}
    logits = bare(batch)
    assert torch.equal(outputs["logits"], logits)
    outputs["logits"].square().mean().backward()
    logits.square().mean().backward()
    pairs = zip(wrapped.parameters(), bare.parameters(), strict=True)
    assert all(torch.equal(ours.grad, theirs.grad) for ours, theirs in pairs)


def test_shapes_of_all_heads_on_a_unet():
    wrapped = TrainingNetwork(small_unet(), classes=3, organs=4, config=ALL_HEADS)
    outputs = wrapped(images(2, 3, 64, 96))
    assert outputs["logits"].shape == (2, 1, 64, 96)
    assert outputs["organ"].shape == (2, 4)
    assert outputs["log_zoom"].shape == (2,)
    assert [tuple(maps.shape) for maps in outputs["deep"]] == [
        *((2, 3, 4, 6), (2, 3, 8, 12), (2, 3, 16, 24), (2, 3, 32, 48))
    ]
    assert [head.in_channels for head in wrapped.heads["deep"]] == [32, 16, 12, 8]


def test_networks_without_such_stages_are_supervised_on_the_encoders_maps():
    net = TinyNet()
    assert deep_stages(net) == []
    wrapped = TrainingNetwork(net, classes=1, organs=0, config=LossConfig(deep_supervision=1.0))
    outputs = wrapped(images(2, 3, 40, 52))
    assert outputs.keys() == {"logits", "deep"}
    assert [tuple(maps.shape) for maps in outputs["deep"]] == [(2, 1, 20, 26), (2, 1, 10, 13)]


@pytest.mark.parametrize("architecture", ["unetplusplus", "unext50"])
def test_stages_of_other_decoders(architecture):
    arguments = UNET if architecture == "unetplusplus" else {"classes": 1}
    model = build_model(architecture, arguments)
    config = LossConfig(deep_supervision=1.0)
    sides = [
        maps.shape[2:]
        for maps in TrainingNetwork(model, classes=1, organs=0, config=config)(images(2, 3, 64, 96))["deep"]
    ]
    assert sides == sorted(sides)
    assert len(sides) >= 3
    assert sides[0] == (4, 6)


def test_gradients_reach_every_parameter_of_every_head():
    wrapped = TrainingNetwork(small_unet(), classes=1, organs=2, config=ALL_HEADS)
    outputs = wrapped(images(2, 3, 64, 64))
    total = outputs["logits"].square().mean() + outputs["organ"].square().sum() + outputs["log_zoom"].square().sum()
    (total + sum(maps.square().mean() for maps in outputs["deep"])).backward()
    assert [name for name, p in wrapped.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_building_heads_leaves_the_network_as_it_was():
    bare = small_unet().train()
    wrapped = TrainingNetwork(copy.deepcopy(bare), classes=1, organs=2, config=ALL_HEADS)
    assert same_tensors(wrapped.model.state_dict(), bare.state_dict())
    assert all(module.training for module in wrapped.modules())
    batch = images(2, 3, 64, 64)
    assert torch.equal(wrapped(batch)["logits"], bare(batch))
    assert not any(module._forward_hooks for module in wrapped.modules()), "copies must not carry hooks"


def test_the_encoder_runs_once():
    wrapped = TrainingNetwork(small_unet(), classes=1, organs=2, config=ALL_HEADS)
    calls = []
    wrapped.model.encoder.register_forward_hook(lambda *_: calls.append(1))
    wrapped(images(2, 3, 64, 64))
    assert len(calls) == 1


def test_an_organ_head_needs_organs():
    with pytest.raises(InputError, match="no training slide has an organ"):
        TrainingNetwork(TinyNet(), classes=1, organs=0, config=LossConfig(organ=0.5))


def test_hooks_go_even_when_the_call_fails():
    net = TinyNet()
    with pytest.raises(RuntimeError), caught_calls([net.encoder, net.head]):
        net(torch.zeros(2, 5, 8, 8))
    assert not any(module._forward_hooks for module in net.modules())


def test_deep_maps_of_padded_images_show_the_images():
    wrapped = TrainingNetwork(small_unet(), classes=1, organs=0, config=LossConfig(deep_supervision=1.0))
    deep = wrapped(images(2, 3, 80, 50))["deep"]
    assert [tuple(maps.shape[2:]) for maps in deep] == [(5, 3), (10, 6), (20, 12), (40, 25)]
