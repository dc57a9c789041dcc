"""Networks as they predict: batch normalisation folded into the convolutions before it, the same for less."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

PROBE_SIDE = 64
MOST_CHANGED = 1e-3
"""By how much noise may come out otherwise, relative to the largest value: rounding gives 1e-5, a wrong fold 1."""


def probe_noise(channels: int, device: torch.device) -> torch.Tensor:
    """The noise that networks are asked about, always the same: float32 (1, channels, 64, 64) from 0 to 1."""
    shape = (1, channels, PROBE_SIDE, PROBE_SIDE)
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).to(device)


def ready_to_predict(model: nn.Module, device: torch.device, channels: int = 3) -> nn.Module:
    """A network as it predicts: in evaluation mode, folded, channels last, on a device.

    Args:
        model: The network, which stays as it is but for the mode.
        device: Where to.
        channels: Of its images.
    """
    return fold_norms(model.eval(), channels).to(device).to(memory_format=torch.channels_last)


def fold_norms(model: nn.Module, channels: int = 3) -> nn.Module:
    """A copy in which each convolution does the batch normalisation of its output too (Jacob et al. 2018, 3.2).

    Which convolution stands before which normalisation is seen on noise, and the copy must answer the noise as the
    network does: where one cannot be folded, or the answer is no tensor, the network itself is given.

    Args:
        model: In evaluation mode.
        channels: Of its images.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()).eval()
        >>> [type(layer).__name__ for layer in fold_norms(net)]
        ['Conv2d', 'Identity', 'ReLU']
    """
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()):
        return model
    noise_NCHW = probe_noise(channels, next(model.parameters()).device)
    with torch.inference_mode(False), torch.no_grad():  # in inference mode tensors have no version
        pairs, answer = _watched(model, noise_NCHW)
        if not pairs or not isinstance(answer, torch.Tensor):
            return model
        folded = copy.deepcopy(model)
        for conv_name, norm_name in pairs:
            _fold(folded, conv_name, norm_name)
        changed = (folded(noise_NCHW) - answer).abs().max()
    return folded if changed <= MOST_CHANGED * answer.abs().max() else model


def _watched(model: nn.Module, noise_NCHW: torch.Tensor) -> tuple[list[tuple[str, str]], Any]:
    """The names of convolutions and of the normalisations that take what they give, each called once; the answer."""
    # The tensors are held, so that no other one gets their id.
    made: dict[int, tuple[str, int, torch.Tensor | None]] = {}
    pairs: list[tuple[str, str]] = []
    calls = Counter[str]()

    def gave(name: str, output_NCHW: torch.Tensor) -> None:
        calls[name] += 1
        made[id(output_NCHW)] = name, output_NCHW._version, output_NCHW

    def takes(name: str, input_NCHW: torch.Tensor) -> None:
        calls[name] += 1
        source, version, _ = made.get(id(input_NCHW), ("", 0, None))
        if source and version == input_NCHW._version:  # nothing was done to it in place on the way
            pairs.append((source, name))

    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            hooks.append(layer.register_forward_hook(lambda _, inputs, output, name=name: gave(name, output)))
        elif isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None:
            hooks.append(layer.register_forward_pre_hook(lambda _, inputs, name=name: takes(name, inputs[0])))
    answer = model(noise_NCHW)
    for hook in hooks:
        hook.remove()
    return [pair for pair in pairs if all(calls[name] == 1 for name in pair)], answer


def _fold(model: nn.Module, conv_name: str, norm_name: str) -> None:
    """Let a convolution normalise; of timm's normalisation the activation stays."""
    from timm.layers import BatchNormAct2d  # a kernel's networks load their libraries late

    conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    moments = norm.running_mean, norm.running_var, norm.eps
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *moments, norm.weight, norm.bias)
    rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
    for parent in list(model.modules()):  # some encoders hold a layer under several names
        for name, layer in list(parent._modules.items()):
            if layer is norm:
                setattr(parent, name, rest)
