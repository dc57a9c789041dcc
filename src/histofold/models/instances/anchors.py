"""Anchors and proposals (Ren et al. 2015, arXiv:1506.01497) of torchvision, for many objects in little memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from histofold.schema.network import DetectorConfig

ASPECT_RATIOS = (0.5, 1.0, 2.0)
FOREGROUND_IOU = 0.7
BACKGROUND_IOU = 0.3
PAIRS_AT_ONCE = 1 << 18
"""Overlaps that are held at one time: 400 objects and the 65,000 anchors of a tile of 512 px have a hundred times more,
and are compared five times faster so."""


class AnchorMatcher:
    """The object that each anchor is to find, as torchvision's `Matcher` says it, without the matrix of all overlaps.

    An object whose overlap with all anchors is 0 has none, where torchvision gives it all anchors.
    """

    BELOW_LOW_THRESHOLD = -1
    BETWEEN_THRESHOLDS = -2

    def __call__(self, boxes_and_anchors: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Match anchors and objects.

        Args:
            boxes_and_anchors: One or more boxes (M, 4) and the anchors, x0 y0 x1 y1.

        Returns:
            For each anchor the index of its object, int64: the one it overlaps most, by 0.7 or more, or as much as no
            other anchor does; -1 where that is below 0.3, -2 between.
        """
        boxes_M4, anchors = boxes_and_anchors
        parts = anchors.split(max(1, PAIRS_AT_ONCE // len(boxes_M4)))
        best_of_box_M = boxes_M4.new_full((len(boxes_M4),), 1e-9)
        best = []
        for part in parts:
            overlaps = _overlaps(part, boxes_M4)
            best.append(overlaps.max(dim=1))
            best_of_box_M = torch.maximum(best_of_box_M, overlaps.amax(dim=0))
        overlap, box = (torch.cat(column) for column in zip(*best, strict=True))
        # The overlaps are computed a second time: cheaper than to keep them.
        leading = torch.cat([(_overlaps(part, boxes_M4) == best_of_box_M).any(dim=1) for part in parts])
        found = torch.where(overlap < BACKGROUND_IOU, self.BELOW_LOW_THRESHOLD, self.BETWEEN_THRESHOLDS)
        return torch.where(leading | (overlap >= FOREGROUND_IOU), box, found)


def _overlaps(anchors: torch.Tensor, boxes_M4: torch.Tensor) -> torch.Tensor:
    """IoU (anchors, M), axis by axis: torchvision's `box_iou` has the two axes side by side in memory, and is slow."""
    ax0, ay0, ax1, ay1 = anchors.T.contiguous()[:, :, None]
    bx0, by0, bx1, by1 = boxes_M4.T.contiguous()
    shared = (torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0)).clamp_(min=0)
    shared *= (torch.minimum(ay1, by1) - torch.maximum(ay0, by0)).clamp_(min=0)
    return shared / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared)


def _unmatched(boxes_M4: torch.Tensor, anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What an `AnchorMatcher` takes in place of overlaps."""
    return boxes_M4, anchors


def _widened(_: nn.Module, __: Any, maps: Any) -> Any:
    """The outputs of a proposal head in float32, whatever precision it ran in."""
    return tuple([part.float() for part in group] for group in maps)


def proposal_network(
    channels: int, sizes: tuple[tuple[int, ...], ...], config: DetectorConfig, depth: int = 1
) -> nn.Module:
    """torchvision's network of proposals (Ren et al. 2015, arXiv:1506.01497).

    Args:
        channels: Of the feature maps.
        sizes: Sides of the anchors of each map, in pixels.
        config: The limits.
        depth: Convolutions before the two outputs.
    """
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

    before = dict.fromkeys(("training", "testing"), config.proposals_before_nms)
    after = dict.fromkeys(("training", "testing"), config.proposals_after_nms)
    anchors = AnchorGenerator(sizes, (ASPECT_RATIOS,) * len(sizes))
    head = RPNHead(channels, len(sizes[0]) * len(ASPECT_RATIOS), depth)
    head.register_forward_hook(_widened)
    network = RegionProposalNetwork(anchors, head, FOREGROUND_IOU, BACKGROUND_IOU, 256, 0.5, before, after, 0.7)
    network.box_similarity, network.proposal_matcher = _unmatched, AnchorMatcher()
    return network
