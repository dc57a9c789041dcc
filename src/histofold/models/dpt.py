"""DPT: a plain vision transformer whose maps, all of one scale, a convolutional decoder makes fine again."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from histofold.models.shells import AnySize
from histofold.schema.encoders import PLAIN_TRANSFORMERS

TAPS = 4
STRIDE = 32
"""What images' sides must be divisible by: the decoder doubles its way back from maps of this stride."""
WIDTHS = (256, 512, 1024, 1024)


class TransformerMaps(nn.Module):
    """A vision transformer of timm as an encoder: the maps of four of its blocks, evenly spaced, the last among them.

    The decoder doubles, so that a patch must be a power of two of the image's pixels. One of 14 px is given 16 of them:
    the image is scaled to 7/8.

    Args:
        transformer: It takes any multiple of its patch.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.model = transformer
        depth, self.patch = len(transformer.blocks), transformer.patch_embed.patch_size[0]
        self.taps = [depth * (place + 1) // TAPS - 1 for place in range(TAPS)]
        self.stride = 2 ** round(math.log2(self.patch))

    def forward(self, images_NCHW: torch.Tensor) -> list[torch.Tensor]:
        """Images (N, 3, H, W), sides divisible by 32, to four maps (N, C, H / stride, W / stride)."""
        if self.patch != self.stride:
            sides = [side * self.patch // self.stride for side in images_NCHW.shape[2:]]
            images_NCHW = interpolate(images_NCHW, sides, mode="bilinear", antialias=True)
        return self.model.forward_intermediates(images_NCHW, indices=self.taps, intermediates_only=True)


class TransformerDpt(nn.Module):
    """DPT (Ranftl 2021, arXiv:2103.13413) with smp's decoder, which reads maps alone and no class token.

    Args:
        transformer: The encoder's network, of `build_transformer`.
        classes: Number of output channels K.
    """

    def __init__(self, transformer: Any, classes: int) -> None:
        from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
        from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder, DPTSegmentationHead

        super().__init__()
        self.encoder = TransformerMaps(transformer)
        channels, strides = [transformer.embed_dim] * TAPS, [self.encoder.stride] * TAPS
        self.decoder = DPTDecoder(channels, strides, readout="ignore", intermediate_channels=WIDTHS)
        self.segmentation_head = DPTSegmentationHead(256, classes)
        initialize_decoder(self.decoder)
        initialize_head(self.segmentation_head)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W), sides divisible by 32, to logits (N, K, H, W)."""
        maps = self.encoder(images_NCHW)
        return self.segmentation_head(self.decoder(maps, [None] * len(maps)))


def build_transformer(encoder: str, image_size: int = 0, pretrained: bool = False) -> Any:
    """A vision transformer of timm without what follows its blocks, taking any multiple of its patch.

    Args:
        encoder: Its name, tu-NAME.
        image_size: Side in pixels of the images that its position embedding is made for; 0: its own.
        pretrained: Whether to fetch the hub's weights, their embedding resampled to that side.
    """
    import timm

    if not encoder.startswith(PLAIN_TRANSFORMERS):
        raise ValueError(f"encoder={encoder!r}: dpt takes {', '.join(f'{name}*' for name in PLAIN_TRANSFORMERS)}")
    side = {"img_size": image_size} if image_size else {}
    settings = {"num_classes": 0, "global_pool": "", "dynamic_img_size": True, **side}
    transformer = timm.create_model(encoder.removeprefix("tu-"), pretrained=pretrained, **settings)
    transformer.norm = transformer.fc_norm = nn.Identity()  # no map passes them
    return transformer


def build_dpt(encoder: str, classes: int = 1, image_size: int = 0) -> nn.Module:
    """DPT on a vision transformer of timm, for images of any size.

    Args:
        encoder: Its name, tu-NAME.
        classes: Number of output channels K.
        image_size: As of `build_transformer`.

    Raises:
        ValueError: If the encoder is no plain vision transformer of timm.
    """
    return AnySize(TransformerDpt(build_transformer(encoder, image_size), classes), STRIDE)
