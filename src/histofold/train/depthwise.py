"""Depthwise convolutions, some of whose gradients a processor computes several times faster in fp32 than in bf16."""

from __future__ import annotations

import torch
from torch import nn


class FullPrecision(nn.Module):
    """Of a convolution: one that computes in fp32 while it is trained, whatever comes in and goes out."""

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """The convolution; in validation as it always was, since there bf16 is faster."""
        if not self.training:
            return super().forward(x_NCHW)
        with torch.autocast(x_NCHW.device.type, enabled=False):
            return super().forward(x_NCHW.float()).to(x_NCHW.dtype)


def widen_depthwise(network: nn.Module, device: torch.device, precision: torch.dtype) -> None:
    """Train in fp32 the depthwise convolutions that are larger than 3 x 3, strided or dilated; in place.

    oneDNN has fast bf16 gradients of the others alone: on a Zen 4 core those of 5 x 5 took 3 times as long as in fp32,
    those of stride 2 up to 10 times. Elsewhere than on a processor, and in another precision, nothing is changed.
    """
    if device.type != "cpu" or precision != torch.bfloat16:
        return
    for module in network.modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.groups == module.in_channels > 1
            and (max(module.kernel_size) > 3 or max(*module.stride, *module.dilation) > 1)
        ):
            own = type(module)
            module.__class__ = type(own.__name__, (FullPrecision, own), {})
