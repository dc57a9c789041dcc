"""Modules round a network that no state dict shows: any image size, and softmax classes as sigmoid logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad


def rename_in_state_dicts(module: nn.Module, outward: Callable[[str], str], inward: Callable[[str], str]) -> None:
    """Let state dicts of a module hold its tensors under other names, and let it load from these.

    Args:
        module: A module whose tensors keep their names from now on.
        outward: From a tensor's own name to the one in state dicts; one to one.
        inward: From a name in a state dict to the tensor's own; it may know more names than `outward` gives.
    """

    def write(_: nn.Module, state: dict[str, Any], prefix: str, __: Mapping[str, Any]) -> None:
        _rename(state, prefix, outward)

    def read(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
        _rename(state, prefix, inward)

    module.register_state_dict_post_hook(write)
    module.register_load_state_dict_pre_hook(read)


def _rename(state: dict[str, Any], prefix: str, new_name: Callable[[str], str]) -> None:
    """Rename the entries under a prefix, in place and in their order."""
    # All are taken out first: a new name may be another's old one.
    taken = {key: state.pop(key) for key in list(state) if key.startswith(prefix)}
    state.update({prefix + new_name(key.removeprefix(prefix)): tensor for key, tensor in taken.items()})


def _without_shell(name: str) -> str:
    return name.removeprefix("net.")


def _within_shell(name: str) -> str:
    return f"net.{name}"


class Shell(nn.Module):
    """Base of a module round a network: its state dict is the network's own, and its encoder is the network's.

    Args:
        net: A network with an `encoder`.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        rename_in_state_dicts(self, _without_shell, _within_shell)

    @property
    def encoder(self) -> nn.Module:
        """The part that is called once in a forward pass and returns feature maps, finest first."""
        return self.net.encoder  # type: ignore[return-value]


class AnySize(Shell):
    """Gives a network that needs multiples of some side images of any size.

    Args:
        net: Maps images (N, C, H, W), H and W multiples of `multiple`, to logits (N, K, H, W).
        multiple: What height and width must be divisible by, in pixels.
        largest: Height and width that it takes at most; None: any.
    """

    def __init__(self, net: nn.Module, multiple: int, largest: int | None = None) -> None:
        super().__init__(net)
        self.multiple, self.largest = multiple, largest

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) to logits (N, K, H, W); sizes that fit reach the network untouched.

        Raises:
            ValueError: If they are larger than the network takes.
        """
        height, width = images_NCHW.shape[2:]
        if self.largest is not None and max(height, width) > self.largest:
            remedy = "set predict.tile, or build it with image_size"
            raise ValueError(f"{height} x {width} px: the network takes {self.largest} px a side at most: {remedy}")
        padded_NCHW = pad_to_multiple(images_NCHW, self.multiple)
        logits_NKHW = self.net(padded_NCHW)
        if padded_NCHW is images_NCHW:
            return logits_NKHW
        return logits_NKHW[:, :, :height, :width]


def pad_to_multiple(images_NCHW: torch.Tensor, multiple: int) -> torch.Tensor:
    """Pad images below and on the right, each axis by reflection, or by its last row or column where it is too short.

    Returns:
        Images (N, C, H', W'), H' and W' the next multiples; the very same tensor where both fit already.
    """
    height, width = images_NCHW.shape[2:]
    below, right = -height % multiple, -width % multiple
    if below:
        images_NCHW = pad(images_NCHW, (0, 0, 0, below), mode="reflect" if below < height else "replicate")
    if right:
        images_NCHW = pad(images_NCHW, (0, right, 0, 0), mode="reflect" if right < width else "replicate")
    return images_NCHW


class SoftmaxLogits(Shell):
    """Lets classes exclude each other, and prediction need not know of it.

    In training it gives the logits of background (channel 0) and classes, for a softmax; in evaluation one logit a
    class, z_k = l_k - logsumexp of the others, whose sigmoid is that class's softmax probability.

    Args:
        net: Maps images (N, C, H, W) to logits (N, K + 1, H, W).
    """

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Images to logits (N, K + 1, H, W) in training, and to float32 logits (N, K, H, W) in evaluation."""
        logits_NKHW = self.net(images_NCHW)
        return logits_NKHW if self.training else softmax_to_sigmoid(logits_NKHW)


def softmax_to_sigmoid(logits_NKHW: torch.Tensor) -> torch.Tensor:
    """Logits of background and K classes (N, K + 1, H, W) to float32 logits (N, K, H, W) for a sigmoid."""
    channels = logits_NKHW.float().unbind(dim=1)
    against = [torch.stack(channels[:k] + channels[k + 1 :]).logsumexp(dim=0) for k in range(1, len(channels))]
    return torch.stack([channels[k + 1] - others for k, others in enumerate(against)], dim=1)
