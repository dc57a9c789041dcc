"""YOLO for segmentation, of the package ultralytics, where the user has installed it.

The package is under the AGPL-3.0 (or a licence that is paid for), so it is neither a dependency nor in any kernel that
is written here; `check weights` says so of weights that need it. Only its network and its loss are called: training,
tiles, views and scores are ours. It is kept from asking the network when it is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from histofold.core.faults import InputError
from histofold.models.instances.finds import (
    MASKS_AT_ONCE,
    TARGETS_AT_ONCE,
    TileFinds,
    check_images,
    no_numbers,
    swap_xy,
)
from histofold.models.shells import Shell
from histofold.schema.network import DetectorConfig

LEAST_VERSION = "8.4.190"
"""Of ultralytics: the one whose outputs and losses are known here."""
MASK_SIDE = 28
"""Side of the grid that a mask is given on, as of Mask R-CNN."""


class Yolo(Shell):
    """YOLO of one class; a box has 32 coefficients, and its mask is so weighted a sum of 32 maps of the tile.

    Its state dicts have the names of ultralytics, so that `YOLO(...).model.state_dict()` fits.

    Args:
        net: A `SegmentationModel` of ultralytics.
        config: The limits.
    """

    def __init__(self, net: nn.Module, config: DetectorConfig) -> None:
        super().__init__(net)
        self.config = config

    @property
    def encoder(self) -> nn.Module:
        """All but the head."""
        layers: Any = self.net.model
        return layers[:-1]

    def forward(self, images_NCHW: torch.Tensor, targets: list[dict[str, torch.Tensor]] | None = None) -> Any:
        """Losses by name in training, from targets (boxes x0 y0 x1 y1, labels, masks); else a `TileFinds` an image."""
        check_images(images_NCHW)
        *layers, head = self.net.model  # type: ignore[misc]
        outputs: list[Any] = []
        for layer in layers:
            outputs.append(layer(_inputs(layer, outputs, images_NCHW)))
        with torch.autocast(images_NCHW.device.type, enabled=False):  # bf16 cannot count to 512
            found = head([outputs[place].float() for place in head.f])
            if self.training:
                assert targets is not None
                return self._losses(found, targets, images_NCHW)
            values_NCA, maps_N32hw = found[0]
            return [self._finds(*each, images_NCHW.shape[2:]) for each in zip(values_NCA, maps_N32hw, strict=True)]

    def masks_in(self, images_NCHW: torch.Tensor, boxes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """It has no masks in boxes that others found.

        Raises:
            InputError: Always.
        """
        raise InputError("yolo has no mask head for boxes: take the masks of a maskrcnn, or fuse masks")

    def _losses(
        self, found: Any, targets: list[dict[str, torch.Tensor]], images_NCHW: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The weighted losses of box, mask, class and distribution, of the mean over the images."""
        from ultralytics.utils.loss import v8SegmentationLoss

        height, width = images_NCHW.shape[2:]
        boxes_M4 = torch.cat([target["boxes"] for target in targets]).to(images_NCHW.device, torch.float32)
        corner_sums, sizes = boxes_M4[:, :2] + boxes_M4[:, 2:], boxes_M4[:, 2:] - boxes_M4[:, :2]
        counts = torch.tensor([len(target["boxes"]) for target in targets], device=boxes_M4.device)
        batch = {
            "batch_idx": torch.repeat_interleave(counts).to(boxes_M4),
            "cls": boxes_M4.new_zeros(len(boxes_M4), 1),
            "bboxes": torch.cat([corner_sums / 2, sizes], 1) / boxes_M4.new_tensor([width, height, width, height]),
            "masks": torch.cat([_quarters(target["masks"]) for target in targets]).to(boxes_M4),
        }
        total_K, names = v8SegmentationLoss(self.net)(found, batch)
        losses = {name.removesuffix("_loss"): part / len(targets) for name, part in zip(names, total_K, strict=True)}
        del losses["sem"]  # of maps that these networks do not have
        losses["box"] = losses["box"] + found["boxes"].sum() * 0  # without an object it has no gradient
        return losses

    def _finds(self, values_CA: torch.Tensor, maps_32hw: torch.Tensor, shape_hw: Sequence[int]) -> TileFinds:
        """What remains of an image's anchors after suppression; values are box (middle, size), score, coefficients."""
        from torchvision.ops import box_convert, clip_boxes_to_image, nms, roi_align

        if not (values_CA.isfinite().all() and maps_32hw.isfinite().all()):
            return no_numbers(shape_hw, values_CA)
        values_MC = values_CA.T[values_CA[4] > self.config.score_threshold]
        boxes_M4 = clip_boxes_to_image(box_convert(values_MC[:, :4], "cxcywh", "xyxy"), tuple(shape_hw))
        seen_M = (boxes_M4[:, 2:] > boxes_M4[:, :2]).all(1)
        boxes_M4, values_MC = boxes_M4[seen_M], values_MC[seen_M]
        kept = nms(boxes_M4, values_MC[:, 4], self.config.nms_threshold)[: self.config.max_detections]
        boxes_M4, values_MC = boxes_M4[kept], values_MC[kept]
        masks = [maps_32hw.new_zeros(0, MASK_SIDE, MASK_SIDE)]
        for boxes, coefficients in zip(
            boxes_M4.split(MASKS_AT_ONCE), values_MC[:, 5:].split(MASKS_AT_ONCE), strict=True
        ):
            scale = maps_32hw.shape[1] / shape_hw[0]
            grids = roi_align(maps_32hw[None], [boxes], (MASK_SIDE, MASK_SIDE), scale, aligned=True)
            masks.append(torch.einsum("mc,mchw->mhw", coefficients, grids).sigmoid())
        return TileFinds(swap_xy(boxes_M4), values_MC[:, 4], torch.cat(masks))


def _quarters(masks_MHW: torch.Tensor) -> torch.Tensor:
    """The share of each mask in squares of 4 px, float32: a disc of 12 px comes back with IoU 0.86, of samples 0.79."""
    parts = [avg_pool2d(part.float()[:, None], 4)[:, 0] for part in masks_MHW.split(TARGETS_AT_ONCE)]
    return torch.cat(parts)


def _inputs(layer: Any, outputs: Sequence[Any], images_NCHW: torch.Tensor) -> Any:
    """What a layer reads: `f` of ultralytics names the layers that it follows, -1 the one before."""
    if not outputs:
        return images_NCHW
    return outputs[layer.f] if isinstance(layer.f, int) else [outputs[place] for place in layer.f]


def build_yolo(encoder: str, config: DetectorConfig) -> nn.Module:
    """YOLO of one class, from random weights.

    Args:
        encoder: yolov8 or yolo11, its size, and -seg: yolo11n-seg, yolov8x-seg.
        config: Its limits.

    Raises:
        ValueError: If there is no such network.
        InputError: If ultralytics is not installed, or is older than is known here.
    """
    if not re.fullmatch(r"yolo(v8|11)[nsmlx]-seg", encoder):
        raise ValueError(f"encoder={encoder!r} of yolo is unknown: known are yolov8 and yolo11, n s m l or x, and -seg")
    for name, value in (("YOLO_OFFLINE", "true"), ("YOLO_VERBOSE", "false")):
        os.environ.setdefault(name, value)
    threads, printing = cv2.getNumThreads(), np.get_printoptions()
    remedy = (
        f"pip install 'ultralytics>={LEAST_VERSION}', under the AGPL-3.0 or its maker's own licence; or take maskrcnn"
    )
    try:
        from ultralytics import __version__ as version
        from ultralytics.cfg import get_cfg
        from ultralytics.nn.tasks import SegmentationModel
    except (ImportError, OSError) as error:  # a zip of it lacks its files of settings
        raise InputError(f"yolo needs ultralytics, which cannot be imported ({error}): {remedy}") from error
    finally:  # it sets both for itself
        cv2.setNumThreads(threads)
        np.set_printoptions(**printing)
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < tuple(map(int, LEAST_VERSION.split("."))):
        raise InputError(f"yolo needs another ultralytics than {version}: {remedy}")
    net = SegmentationModel(f"{encoder}.yaml", ch=3, nc=1, verbose=False)
    net.args = get_cfg(overrides={"overlap_mask": False})
    return Yolo(net, config)
