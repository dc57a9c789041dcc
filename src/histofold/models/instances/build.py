"""From an architecture's name and arguments to a network: detectors, and all networks.

Code that serves masks alone builds with `build_model`, so that its kernels hold no detector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from histofold.core.faults import InputError
from histofold.models.build import BUILD_ERRORS, build_model
from histofold.models.instances.c4 import build_maskrcnn_c4
from histofold.models.instances.calibrated import Calibrated
from histofold.models.instances.mask2former import build_mask2former
from histofold.models.instances.maskrcnn import build_maskrcnn
from histofold.models.instances.yolo import build_yolo
from histofold.schema.network import DETECTOR_ENCODERS, SCORE_LINE, DetectorConfig, check_encoder_name, is_detector

BUILDERS = {
    "maskrcnn": build_maskrcnn,
    "maskrcnn_c4": build_maskrcnn_c4,
    "mask2former": build_mask2former,
    "yolo": build_yolo,
}


def build_network(architecture: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """Build any network: by `build_detector`, or by `build_model`.

    Args:
        architecture: One of `Architecture`.
        arguments: As `ModelConfig.arguments` gives and the manifest holds them.

    Raises:
        InputError: If the architecture or an argument is unknown.
    """
    return (build_detector if is_detector(architecture) else build_model)(architecture, arguments)


def build_detector(architecture: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """Build a network that finds objects of one class in normalised images whose sides are multiples of 32.

    In training it maps images (N, 3, H, W) and a target an image (boxes float32 (M, 4) x0 y0 x1 y1, labels int64 (M,)
    of ones, masks uint8 (M, H, W); M may be 0) to losses by name; in evaluation, images to one `TileFinds` each. Its
    `masks_in` gives masks of boxes that others have found. Weights are random.

    Args:
        architecture: One of `DetectorArchitecture`.
        arguments: As `ModelConfig.arguments` gives and the manifest holds them, there perhaps with a `SCORE_LINE`.

    Raises:
        InputError: If the architecture or an argument is unknown.

    Example:
        >>> model = build_detector("maskrcnn", {"encoder": "resnet18"}).eval()
        >>> [finds.masks_Mhw.shape[1:] for finds in model(torch.zeros(1, 3, 64, 96))]
        [torch.Size([28, 28])]
    """
    if not is_detector(architecture):
        raise InputError(f"architecture={architecture!r} is no detector: known are {', '.join(DETECTOR_ENCODERS)}")
    settings = dict(arguments)
    try:
        if settings.pop("classes", 1) != 1:
            raise ValueError("detectors find one class")
        line = settings.pop(SCORE_LINE, None)
        encoder = settings.pop("encoder", DETECTOR_ENCODERS[architecture])
        check_encoder_name(encoder)
        if "anchor_sizes" in settings:
            settings["anchor_sizes"] = tuple(settings["anchor_sizes"])
        config = DetectorConfig(**settings)
        config.check_architecture(architecture)
        network = BUILDERS[architecture](encoder, config)
        return network if line is None else Calibrated(network, line)
    except BUILD_ERRORS as error:
        raise InputError(f"{architecture} cannot be built with {dict(arguments)}: {error}") from error
