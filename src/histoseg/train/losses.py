"""Losses on logits."""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from histoseg.schema.experiment import LossConfig


def soft_dice_loss(logits_NKHW: torch.Tensor, masks_NKHW: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
    """One minus the soft Dice of each class over the whole batch, averaged over classes.

    Over the batch and not over each image, so that images without mask pixels lower the score by what is wrongly found
    on them, and a batch without any mask pixel still teaches. After Milletari et al., arXiv:1606.04797.
    """
    probs_NKHW = logits_NKHW.float().sigmoid()
    axes = (0, 2, 3)
    overlap_K = (probs_NKHW * masks_NKHW).sum(axes)
    total_K = probs_NKHW.sum(axes) + masks_NKHW.sum(axes)
    return (1 - (2 * overlap_K + smooth) / (total_K + smooth)).mean()


def segmentation_loss(
    logits_NKHW: torch.Tensor, masks_NKHW: torch.Tensor, config: LossConfig
) -> dict[str, torch.Tensor]:
    """The weighted sum of the configured terms under `loss`, and each term under its own name."""
    bce = binary_cross_entropy_with_logits(logits_NKHW.float(), masks_NKHW)
    dice = soft_dice_loss(logits_NKHW, masks_NKHW)
    return {"loss": config.bce * bce + config.dice * dice, "loss_bce": bce, "loss_dice": dice}
