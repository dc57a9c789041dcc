"""From an architecture's name and arguments to a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import torch

from histofold.core.faults import InputError
from histofold.models.deeplab_torchvision import build_torchvision_deeplab
from histofold.models.pyramid_unet import build_effunet, build_unext50
from histofold.models.segformer import build_segformer
from histofold.models.shells import AnySize, SoftmaxLogits
from histofold.models.smp_nets import build_smp_net
from histofold.schema.network import DEFAULT_ENCODERS, Architecture

PYRAMID_STRIDE = 32


def build_model(architecture: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """Build a network that maps NCHW float images of any size to NKHW logits of the same height and width.

    Its `encoder` is called once in a forward pass and returns NCHW feature maps, finest first. With softmax classes it
    gives N(K+1)HW logits in training, background first. Its weights are random, see `load_encoder_weights` for others:
    building never touches the internet.

    Args:
        architecture: One of `Architecture`.
        arguments: As `ModelConfig.arguments` gives and the manifest holds them: classes, encoder, ...

    Raises:
        InputError: If the architecture or an argument is unknown.

    Example:
        >>> model = build_model("unet", {"encoder": "resnet18", "classes": 2}).eval()
        >>> model(torch.zeros(1, 3, 75, 50)).shape
        torch.Size([1, 2, 75, 50])
    """
    known = get_args(Architecture)
    if architecture not in known:
        raise InputError(f"architecture={architecture!r} is unknown: known are {', '.join(known)}")
    settings = dict(arguments)
    activation = settings.pop("activation", "sigmoid")
    if activation not in ("sigmoid", "softmax"):
        raise InputError(f"activation={activation!r} is unknown: known are sigmoid, softmax")
    if activation == "softmax":
        settings["classes"] = settings.get("classes", 1) + 1
    try:
        net = _build_plain(architecture, **settings)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{architecture} cannot be built with {dict(arguments)}: {error}") from error
    return SoftmaxLogits(net) if activation == "softmax" else net


def _build_plain(architecture: str, **settings: Any) -> torch.nn.Module:
    """A network that gives as many logits as `classes` says."""
    if architecture == "unext50":
        return AnySize(build_unext50(**settings), PYRAMID_STRIDE)
    if architecture.startswith("effunet-"):
        return AnySize(build_effunet(architecture.replace("effunet", "efficientnet"), **settings), PYRAMID_STRIDE)
    if architecture == "deeplabv3_resnet101":
        return build_torchvision_deeplab(**settings)
    settings.setdefault("encoder", DEFAULT_ENCODERS[architecture])
    if architecture == "segformer":
        return build_segformer(**settings)
    return build_smp_net(architecture, **settings)
