"""From an architecture's name and arguments to a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from histoseg.core.faults import InputError

ARCHITECTURES = ("unet",)


def build_model(architecture: str, arguments: Mapping[str, Any], encoder_weights: str | None = None) -> torch.nn.Module:
    """Build a network that maps NCHW float images to NKHW logits of the same height and width.

    Args:
        architecture: One of `ARCHITECTURES`.
        arguments: As the manifest holds them: encoder, decoder_channels, classes.
        encoder_weights: Name of pretrained weights on the hub; None (as in every kernel) never touches a network.

    Raises:
        InputError: If the architecture or an argument is unknown.
    """
    if architecture not in ARCHITECTURES:
        raise InputError(f"architecture={architecture!r} is unknown: known are {', '.join(ARCHITECTURES)}")
    try:
        return _build_unet(encoder_weights=encoder_weights, **arguments)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{architecture} cannot be built with {dict(arguments)}: {error}") from error


def _build_unet(
    encoder: str = "resnet34",
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16),
    classes: int = 1,
    encoder_weights: str | None = None,
) -> torch.nn.Module:
    """U-Net (Ronneberger 2015, arXiv:1505.04597) of segmentation-models-pytorch, with any of its encoders."""
    import segmentation_models_pytorch as smp

    return smp.Unet(encoder, encoder_weights=encoder_weights, decoder_channels=list(decoder_channels), classes=classes)
