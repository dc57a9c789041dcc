"""UneXt50 and EffUnet against their published description."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from histofold.models.pyramid_unet import (
    Aspp,
    PyramidHead,
    ShuffleUp,
    UnetBlock,
    build_effunet,
    build_unext50,
    pad_as_for,
)

UNEXT50_TAPS = (64, 256, 512, 1024, 2048)
B0_TAPS = (32, 24, 40, 112, 320)
B5_TAPS = (48, 40, 64, 176, 512)


@pytest.fixture(scope="module")
def unext50():
    torch.manual_seed(0)
    return build_unext50(classes=2)


@pytest.fixture(scope="module")
def effunet_b0():
    torch.manual_seed(0)
    return build_effunet("efficientnet-b0", classes=5)


def conv_parameters(inputs, outputs, kernel, groups=1, *, bias):
    return inputs // groups * outputs * kernel**2 + (outputs if bias else 0)


def decoder_parameters(taps, pooled, classes, mid=256):
    """Parameters after the encoder, counted from the published description alone."""
    branches = 2 * (conv_parameters(taps[-1], mid, 1, bias=False) + 2 * mid)
    branches += 4 * (conv_parameters(taps[-1], mid, 3, 4, bias=False) + 2 * mid)
    total = branches + conv_parameters((2 + 4) * mid, pooled, 1, bias=False) + 2 * pooled
    deep = [pooled, 256, 128, 64]
    for up, skip, width in zip(deep, (taps[3], taps[2], taps[1], taps[0]), (256, 128, 64, 32), strict=True):
        total += conv_parameters(up, 4 * (up // 2), 1, bias=True) + 2 * skip
        total += conv_parameters(up // 2 + skip, width, 3, bias=True) + conv_parameters(width, width, 3, bias=True)
    for wide in deep:
        total += conv_parameters(wide, 32, 3, bias=True) + 2 * 32 + conv_parameters(32, 16, 3, bias=True)
    return total + conv_parameters(32 + 4 * 16, classes, 1, bias=True)


def resnext50_parameters():
    """ResNeXt50 32x4d without its classifier: Xie et al. 2017, table 1; every convolution with a BatchNorm."""
    total, inputs = 3 * 64 * 49 + 2 * 64, 64
    for blocks, wide in ((3, 128), (4, 256), (6, 512), (3, 1024)):
        outputs = 2 * wide
        total += inputs * outputs + 2 * outputs  # the first block's shortcut
        for _ in range(blocks):
            total += inputs * wide + 2 * wide + wide // 32 * wide * 9 + 2 * wide + wide * outputs + 2 * outputs
            inputs = outputs
    return total


def efficientnet_parameters(width, depth):
    """EfficientNet up to its last block: Tan and Le 2019, table 1, scaled; squeeze to a quarter of a block's input."""

    def scaled(channels):
        rounded = max(8, int(channels * width + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * channels * width else rounded

    inputs = scaled(32)
    total = 27 * inputs + 2 * inputs
    kernels, expansions = (3, 3, 5, 3, 5, 5, 3), (1, 6, 6, 6, 6, 6, 6)
    channels, repeats = (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)
    for kernel, expand, wanted, count in zip(kernels, expansions, channels, repeats, strict=True):
        for _ in range(math.ceil(count * depth)):
            wide, squeezed, outputs = inputs * expand, max(1, inputs // 4), scaled(wanted)
            total += inputs * wide + 2 * wide if expand > 1 else 0
            total += kernel**2 * wide + 2 * wide + 2 * wide * squeezed + squeezed + wide
            total += wide * outputs + 2 * outputs
            inputs = outputs
    return total


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameters_of_unext50_are_those_of_the_description(unext50):
    assert count(unext50.encoder) == resnext50_parameters()
    assert count(unext50) == resnext50_parameters() + decoder_parameters(UNEXT50_TAPS, 512, 2)


@pytest.mark.parametrize(
    ("encoder", "width", "depth", "taps"),
    [("efficientnet-b0", 1.0, 1.0, B0_TAPS), ("efficientnet-b5", 1.6, 2.2, B5_TAPS)],
)
def test_parameters_of_effunet_are_those_of_the_description(encoder, width, depth, taps):
    with torch.device("meta"):
        model = build_effunet(encoder)
    assert tuple(model.encoder.out_channels[-5:]) == taps
    assert count(model) == efficientnet_parameters(width, depth) + decoder_parameters(taps, 384, 1)


def output_shapes(model, images):
    """Shapes that leave the parts of a net in one forward pass, by name."""
    parts = {"aspp": model.aspp, "pyramid": model.pyramid, "head": model.head}
    parts |= {f"decoder{i}": stage for i, stage in enumerate(model.decoder)}
    parts |= {f"up{i}": stage.up for i, stage in enumerate(model.decoder)}
    parts |= {f"level{i}": level for i, level in enumerate(model.pyramid.levels)}
    shapes = {}
    hooks = [
        part.register_forward_hook(lambda _, __, output, name=name: shapes.__setitem__(name, tuple(output.shape[1:])))
        for name, part in parts.items()
    ]
    encoded = []
    hooks.append(model.encoder.register_forward_hook(lambda _, __, maps: encoded.append(maps)))
    with torch.inference_mode():
        shapes["logits"] = tuple(model.eval()(images).shape[1:])
    for hook in hooks:
        hook.remove()
    assert len(encoded) == 1, "heads hook on an encoder that is called once"
    shapes["taps"] = [tuple(features.shape[1:]) for features in encoded[0][-5:]]
    return shapes


@pytest.mark.parametrize(
    ("name", "taps", "pooled", "classes"), [("unext50", UNEXT50_TAPS, 512, 2), ("effunet_b0", B0_TAPS, 384, 5)]
)
def test_every_stage_has_its_published_channels(request, name, taps, pooled, classes):
    height, width = 64, 96
    shapes = output_shapes(request.getfixturevalue(name), torch.rand(1, 3, height, width))
    at = [(height >> k, width >> k) for k in range(1, 6)]
    assert shapes["taps"] == [(channels, *size) for channels, size in zip(taps, at, strict=True)]
    assert shapes["aspp"] == (pooled, *at[4])
    deep = (pooled, 256, 128, 64)
    for i, wide in enumerate((256, 128, 64, 32)):
        assert shapes[f"up{i}"] == (deep[i] // 2, *at[3 - i])
        assert shapes[f"decoder{i}"] == (wide, *at[3 - i])
        assert shapes[f"level{i}"] == (16, *at[4 - i])
    assert shapes["pyramid"] == (4 * 16 + 32, *at[0])
    assert shapes["head"] == (classes, *at[0])
    assert shapes["logits"] == (classes, height, width)


@pytest.mark.parametrize("stride", [1, 2])
def test_dilations_are_the_strides_multiples(stride):
    model = build_effunet("efficientnet-b0", stride=stride)
    convs = [branch[0] for branch in model.aspp.dilated]
    assert [conv.dilation for conv in convs] == [(stride * d,) * 2 for d in (1, 2, 3, 4)]
    assert [conv.padding for conv in convs] == [conv.dilation for conv in convs]
    assert {conv.groups for conv in convs} == {4}
    assert (model.pooled_dropout.p, model.head_dropout.p) == (0.5, 0.1)


@pytest.mark.parametrize("name", ["unext50", "effunet_b0"])
def test_gradients_reach_every_parameter(request, name):
    torch.manual_seed(1)
    model = request.getfixturevalue(name).train()
    model.zero_grad()
    model(torch.rand(2, 3, 64, 64)).square().mean().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_evaluation_is_deterministic_and_training_is_not(effunet_b0):
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(effunet_b0.eval()(images), effunet_b0(images))
        assert not torch.equal(effunet_b0.train()(images), effunet_b0(images)), "dropout is drawn anew"


@pytest.mark.parametrize("shape", [(1, 1), (3, 5)])
def test_the_shuffle_starts_as_nearest_upsampling(shape):
    torch.manual_seed(2)
    up = ShuffleUp(6, 4)
    features = torch.randn(2, 6, *shape)
    coarse = up[0](features)[:, ::4].relu()  # one of each output channel's four
    assert up(features).shape == (2, 4, 2 * shape[0], 2 * shape[1])
    assert torch.allclose(up(features), interpolate(coarse, scale_factor=2.0, mode="nearest"), atol=1e-6)
    constant = up(torch.ones(1, 6, *shape))
    assert torch.allclose(constant, constant[:, :, :1, :1].expand_as(constant), atol=1e-6)
    assert constant.amax() > 0, "the law says nothing of a map that is all zero"


@pytest.mark.parametrize("size", [(5, 7), (6, 7), (5, 8), (6, 8)])
def test_an_odd_skip_takes_the_nearest_resized_map(size):
    torch.manual_seed(3)
    block = UnetBlock(8, 3, 6).eval()
    deep, skip = torch.randn(1, 8, 3, 4), torch.randn(1, 3, *size)
    raised = interpolate(block.up(deep), size, mode="nearest")
    expected = block.conv2(block.conv1(torch.cat([raised, block.skip_norm(skip)], 1).clamp_min(0)))
    assert torch.equal(block(deep, skip), expected)
    assert block(deep, skip).shape == (1, 6, *size)


def test_the_global_branch_sees_the_maximum_and_nothing_else():
    torch.manual_seed(4)
    aspp = Aspp(8, 4, 5, [1, 2]).eval()
    with torch.no_grad():
        aspp.join[0].weight[:, 4:] = 0  # only the global branch is heard
    low = torch.rand(1, 8, 6, 9)
    moved = low.flip(2).roll(2, dims=3)
    assert torch.allclose(aspp(low), aspp(moved), atol=1e-6), "where the maximum lies does not matter"
    assert torch.allclose(aspp(low)[:, :, :1, :1].expand(-1, -1, 6, 9), aspp(low), atol=1e-6)
    peak = low.clone()
    peak[0, :, 5, 8] = 3.0  # one pixel, which a mean would hardly see
    alone = aspp.overall[1:](torch.full((1, 8, 1, 1), 3.0))
    assert torch.allclose(aspp.overall(peak), alone)
    assert not torch.allclose(aspp(peak), aspp(low))


def test_pooling_joins_two_branches_and_one_for_each_dilation():
    aspp = Aspp(8, 4, 5, [1, 2, 6])
    assert aspp.join[0].in_channels == (2 + 3) * 4
    assert aspp(torch.rand(2, 8, 3, 5)).shape == (2, 5, 3, 5)


def test_a_pyramid_level_is_conv_relu_norm_conv_and_the_finest_map_comes_last():
    head = PyramidHead([6, 4], [3, 2]).eval()
    assert [type(layer) for layer in head.levels[0]] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d, nn.Conv2d]
    levels, finest = [torch.rand(1, 6, 2, 3), torch.rand(1, 4, 4, 6)], torch.rand(1, 7, 8, 12)
    joined = head(levels, finest)
    assert torch.equal(joined[:, 5:], finest)
    coarse = interpolate(head.levels[0](levels[0]), scale_factor=4.0, mode="bilinear")
    assert torch.allclose(joined[:, :3], coarse, atol=1e-6)


def test_padding_follows_the_size_that_the_encoder_is_built_for():
    with torch.device("meta"):
        b0, b5, wide = (build_effunet(f"efficientnet-{name}", image_size=0) for name in ("b0", "b5", "b5"))
        own = paddings(b5)
        assert paddings(b0) == paddings(build_effunet("efficientnet-b0", image_size=512)), "224 is a multiple of 32"
        pad_as_for(wide.encoder, 512)
        of_512 = paddings(wide)
        assert own != of_512, "456 is none"
        pad_as_for(wide.encoder, 96)
        assert of_512 == paddings(wide), "all multiples of 32 pad alike"
        pad_as_for(wide.encoder, 456)
        assert own == paddings(wide)


def paddings(model):
    return [m.static_padding.padding for m in model.encoder.modules() if isinstance(m, nn.Conv2d) and m.stride[0] == 2]


def test_another_encoder_is_refused():
    with pytest.raises(ValueError, match="efficientnet-b0 to efficientnet-b7"):
        build_effunet("resnet18")
