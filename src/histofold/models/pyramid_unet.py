"""UneXt50 and EffUnet: an encoder, atrous pooling, a pixel-shuffle decoder and a feature pyramid head."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate

from histofold.models.blocks import Aspp, PyramidHead, UnetBlock

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
