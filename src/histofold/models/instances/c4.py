"""Mask R-CNN without a pyramid: the fourth stage's map for all boxes, the fifth stage as their common head.

The layout of detectron2's R50-C4 and R101-C4 (He et al. 2017, arXiv:1703.06870, figure 4 left): one map of 1024
channels at 1/16, boxes sampled 14x14, the ResNet's last stage on each to 2048x7x7, whose mean gives class and box, and
which a deconvolution and a 1x1 convolution turn into a mask of 14x14.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from histofold.models.instances.anchors import proposal_network
from histofold.models.instances.maskrcnn import (
    MaskRcnn,
    RoiPool,
    frozen_where_asked,
    resnet_body,
    roi_heads,
)
from histofold.schema.network import DetectorConfig


class C4Backbone(nn.Module):
    """A ResNet up to its fourth stage.

    Args:
        resnet: One of torchvision.
    """

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"):
            self.add_module(name, resnet.get_submodule(name))

    def forward(self, images_NCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        """The one map, at 1/16."""
        for stage in self.children():
            images_NCHW = stage(images_NCHW)
        return {"0": images_NCHW}


class MaskRcnnC4(MaskRcnn):
    """Mask R-CNN whose boxes and masks share the fifth stage."""

    @property
    def encoder(self) -> nn.Module:
        """All five stages under the ResNet's names, whichever part has them."""
        return nn.ModuleDict(
            {**dict(self.backbone.named_children()), "layer4": self.roi_heads.get_submodule("box_head")}
        )

    def mask_features(self, levels: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]) -> torch.Tensor:
        """The same as of boxes."""
        return self.box_features(levels, boxes)

    def _positive_features(
        self,
        levels: Sequence[torch.Tensor],
        boxes: Sequence[torch.Tensor],
        features: torch.Tensor,
        positive: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """Those of all boxes hold them."""
        return features[torch.cat(list(positive))]


class MeanPredictor(nn.Module):
    """Class and box from the mean of a box's features, in torchvision's names.

    Args:
        channels: Of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(channels, 2)
        self.bbox_pred = nn.Linear(channels, 2 * 4)

    def forward(self, features_MChw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (M, 2) of background and object, and moves (M, 8) of the box."""
        means_MC = features_MChw.mean(dim=(2, 3))
        return self.cls_score(means_MC), self.bbox_pred(means_MC)


def build_maskrcnn_c4(encoder: str, config: DetectorConfig) -> nn.Module:
    """Mask R-CNN on the fourth stage of a ResNet.

    Args:
        encoder: resnet50, resnet101 or resnet152.
        config: Its anchors and limits.

    Raises:
        ValueError: If the encoder has not these stages.
    """
    from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

    if encoder not in ("resnet50", "resnet101", "resnet152"):
        raise ValueError(f"encoder={encoder!r} of maskrcnn_c4: known are resnet50, resnet101, resnet152")
    resnet = frozen_where_asked(resnet_body(encoder), config.norm)
    heads = roi_heads(
        config,
        box_roi_pool=RoiPool((16,), 14, 0),
        box_head=resnet.get_submodule("layer4"),
        box_predictor=MeanPredictor(2048),
        mask_predictor=MaskRCNNPredictor(2048, 256, 2),
    )
    return MaskRcnnC4(C4Backbone(resnet), proposal_network(1024, (tuple(config.anchor_sizes),), config), heads)
