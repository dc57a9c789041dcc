"""UneXt50 and EffUnet: an encoder, atrous pooling, a pixel-shuffle decoder and a feature pyramid head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps height and width, batch normalisation, ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def conv_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """A 3x3 convolution that keeps height and width, ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.ReLU(inplace=True))


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017, arXiv:1706.05587) with a global max-pool branch.

    The global maximum, one 1x1 branch, and one 3x3 branch in four groups for each dilation, each brought to `mid`
    channels; joined in this order by a 1x1 convolution to `out` channels.
    """

    GROUPS = 4

    def __init__(self, in_channels: int, mid: int, out: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.overall = nn.Sequential(nn.AdaptiveMaxPool2d(1), *conv_bn_relu(in_channels, mid, 1))
        self.point = conv_bn_relu(in_channels, mid, 1)
        self.dilated = nn.ModuleList(conv_bn_relu(in_channels, mid, 3, d, self.GROUPS) for d in dilations)
        self.join = conv_bn_relu(mid * (2 + len(dilations)), out, 1)

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Features (N, in, H, W) to (N, out, H, W)."""
        overall = self.overall(features_NCHW).expand(-1, -1, *features_NCHW.shape[2:])
        branches = [overall, self.point(features_NCHW), *(branch(features_NCHW) for branch in self.dilated)]
        return self.join(torch.cat(branches, dim=1))


class ShuffleUp(nn.Sequential):
    """Doubles height and width by a 1x1 convolution, ReLU and pixel shuffle (Shi et al. 2016, arXiv:1609.05158).

    Its weights start equal within each output pixel's four (ICNR, Aitken et al. 2017, arXiv:1707.02937), so that the
    map starts without a checkerboard.
    """

    FACTOR = 2

    def __init__(self, in_channels: int, out_channels: int) -> None:
        conv = nn.Conv2d(in_channels, out_channels * self.FACTOR**2, 1)
        with torch.no_grad():
            seed = torch.empty(out_channels, in_channels, 1, 1)
            nn.init.kaiming_normal_(seed)
            conv.weight.copy_(seed.repeat_interleave(self.FACTOR**2, dim=0))
            conv.bias.zero_()  # type: ignore[union-attr]
        super().__init__(conv, nn.ReLU(inplace=True), nn.PixelShuffle(self.FACTOR))


class UnetBlock(nn.Module):
    """One stage of a decoder: shuffle up to half the channels, join the normalised skip, two 3x3 convolutions."""

    def __init__(self, up_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = ShuffleUp(up_channels, up_channels // 2)
        self.skip_norm = nn.BatchNorm2d(skip_channels)
        joined = up_channels // 2 + skip_channels
        self.conv1, self.conv2 = conv_relu(joined, out_channels), conv_relu(out_channels, out_channels)

    def forward(self, deep_NCHW: torch.Tensor, skip_NCHW: torch.Tensor) -> torch.Tensor:
        """Deep features (N, up, h, w) and a skip (N, skip, H, W), H about 2h, to (N, out, H, W)."""
        raised = self.up(deep_NCHW)
        if raised.shape[2:] != skip_NCHW.shape[2:]:  # an odd side was halved
            raised = interpolate(raised, skip_NCHW.shape[2:], mode="nearest")
        joined = torch.cat([raised, self.skip_norm(skip_NCHW)], dim=1).relu()
        return self.conv2(self.conv1(joined))


class PyramidHead(nn.Module):
    """The feature pyramid of UneXt50: each level to a few channels, all resized to the finest map and joined to it."""

    def __init__(self, in_channels: Sequence[int], out_channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(wide, 2 * narrow, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.BatchNorm2d(2 * narrow),
                nn.Conv2d(2 * narrow, narrow, 3, padding=1),
            )
            for wide, narrow in zip(in_channels, out_channels, strict=True)
        )

    def forward(self, levels_NCHW: Sequence[torch.Tensor], finest_NCHW: torch.Tensor) -> torch.Tensor:
        """Levels (N, in_i, h_i, w_i) and the finest map (N, F, H, W) to (N, sum(out) + F, H, W)."""
        size = finest_NCHW.shape[2:]
        resized = [
            interpolate(level(features), size, mode="bilinear", align_corners=False)
            for level, features in zip(self.levels, levels_NCHW, strict=True)
        ]
        return torch.cat([*resized, finest_NCHW], dim=1)


PYRAMID_MID = 256
PYRAMID_LEVEL = 16


class PyramidUnet(nn.Module):
    """The shared body of UneXt50 and EffUnet.

    Args:
        encoder: Gives feature maps at 1/1, 1/2, ..., 1/32 for images NCHW, and has their channels as `out_channels`.
        pooled: Channels after the atrous pooling; the decoder's first stage takes them.
        classes: Number of mask classes K.
        stride: Factor of the dilations 1, 2, 3, 4 of the atrous pooling.
    """

    WIDTHS = (256, 128, 64, 32)

    def __init__(self, encoder: nn.Module, pooled: int, classes: int, stride: int = 1) -> None:
        super().__init__()
        self.encoder = encoder
        taps = list(encoder.out_channels)[-5:]  # type: ignore[arg-type]
        self.aspp = Aspp(taps[-1], PYRAMID_MID, pooled, [stride * d for d in (1, 2, 3, 4)])
        self.pooled_dropout = nn.Dropout2d(0.5)
        deep = (pooled, *self.WIDTHS[:-1])
        stages = zip(deep, taps[-2::-1], self.WIDTHS, strict=True)
        self.decoder = nn.ModuleList(UnetBlock(up, skip, width) for up, skip, width in stages)
        self.pyramid = PyramidHead(deep, [PYRAMID_LEVEL] * len(deep))
        self.head_dropout = nn.Dropout2d(0.1)
        self.head = nn.Conv2d(self.WIDTHS[-1] + PYRAMID_LEVEL * len(deep), classes, 1)
        nn.init.kaiming_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W), H and W multiples of 32, to logits (N, K, H, W)."""
        taps = self.encoder(images_NCHW)[-5:]
        pooled = self.aspp(taps[-1])
        levels, deep = [pooled], self.pooled_dropout(pooled)
        for stage, skip in zip(self.decoder, taps[-2::-1], strict=True):
            deep = stage(deep, skip)
            levels.append(deep)
        joined = self.pyramid(levels[:-1], levels[-1])
        logits_NKHW = self.head(self.head_dropout(joined))
        return interpolate(logits_NKHW, images_NCHW.shape[2:], mode="bilinear", align_corners=False)


def build_unext50(classes: int = 1, stride: int = 1) -> PyramidUnet:
    """U-Net on ResNeXt50 32x4d (Xie et al. 2017, arXiv:1611.05431) as published by a 2022 team.

    Args:
        classes: Number of mask classes K.
        stride: Factor of the dilations of the atrous pooling.
    """
    import segmentation_models_pytorch as smp

    return PyramidUnet(smp.encoders.get_encoder("resnext50_32x4d", weights=None), 512, classes, stride)


def build_effunet(
    encoder: str = "efficientnet-b5",
    classes: int = 1,
    stride: int = 1,
    image_size: int = 0,
) -> PyramidUnet:
    """U-Net on EfficientNet b0 to b7 (Tan and Le 2019, arXiv:1905.11946) as published by the same team.

    Args:
        encoder: efficientnet-b0 to efficientnet-b7.
        classes: Number of mask classes K.
        stride: Factor of the dilations of the atrous pooling.
        image_size: Side in pixels of the images that decide the encoder's padding; 0: those of its ImageNet weights.

    Raises:
        ValueError: The encoder is no EfficientNet.
    """
    import segmentation_models_pytorch as smp

    if not encoder.startswith("efficientnet-b"):
        raise ValueError(f"encoder={encoder!r} of effunet must be efficientnet-b0 to efficientnet-b7")
    network = smp.encoders.get_encoder(encoder, weights=None)
    # Left over from classification: no feature map passes through these two, so they would never learn.
    network._conv_head, network._bn1 = nn.Identity(), nn.Identity()
    if image_size:
        pad_as_for(network, image_size)
    return PyramidUnet(network, 384, classes, stride)


def pad_as_for(encoder: nn.Module, image_size: int) -> None:
    """Give an EfficientNet the zero padding that it has for square images of one size.

    Its halving convolutions pad as TensorFlow's "same" does: as much as the size at hand lacks, the odd row below and
    on the right. The padding is fixed when the net is built, so nets of one architecture with the same weights differ
    where they were built for other sizes. All multiples of 32 give one and the same padding.

    Args:
        encoder: smp's EfficientNet encoder, changed in place.
        image_size: Side of the images in pixels, at least 32.
    """
    side = image_size
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.stride[0] == 2:
            halved = -(-side // 2)
            missing = max(2 * (halved - 1) + module.kernel_size[0] - side, 0)
            low, high = missing // 2, missing - missing // 2
            module.static_padding = nn.ZeroPad2d((low, high, low, high))
            side = halved
