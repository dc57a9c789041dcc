"""Losses of overlap: soft Dice, Jaccard and Tversky."""

from __future__ import annotations

from collections.abc import Callable

import torch

from histoseg.schema.loss import LossConfig
from histoseg.train.losses_scores import Scores

ROOT_FLOOR = 1e-7


def dice_loss(scores: Scores, config: LossConfig) -> torch.Tensor:
    """One minus the soft Dice, 1 - (2 |P T| + s) / (|P| + |T| + s), after Milletari et al., arXiv:1606.04797.

    Over the whole batch as it stands, so that images without mask pixels lower the score by what is wrongly found on
    them, and a batch without any mask pixel still teaches, unless `dice_smooth` is 0.
    """

    def loss(true: torch.Tensor, wrong: torch.Tensor, missed: torch.Tensor) -> torch.Tensor:
        return _share(wrong, 2 * (true - missed) + wrong + config.dice_smooth)

    return _over_regions(scores, config, loss)


def jaccard_loss(scores: Scores, config: LossConfig) -> torch.Tensor:
    """One minus the soft Jaccard index, 1 - (|P T| + s) / (|P| + |T| - |P T| + s), otherwise as `dice_loss`."""

    def loss(true: torch.Tensor, wrong: torch.Tensor, missed: torch.Tensor) -> torch.Tensor:
        return _share(wrong, true + (wrong - missed) + config.dice_smooth)

    return _over_regions(scores, config, loss)


def tversky_loss(scores: Scores, config: LossConfig) -> torch.Tensor:
    """One minus the Tversky index, (TP + s) / (TP + alpha FP + beta FN + s), to the power of 1 / gamma.

    After Salehi et al., arXiv:1706.05721, and for gamma above 1 Abraham and Khan, arXiv:1810.07842. Otherwise as
    `dice_loss`, which it equals at alpha = beta = 0.5 with half the smoothing.
    """

    def loss(true: torch.Tensor, wrong: torch.Tensor, missed: torch.Tensor) -> torch.Tensor:
        penalty = config.tversky_alpha * (wrong - missed) + config.tversky_beta * missed
        share = _share(penalty, (true - missed) + penalty + config.dice_smooth)
        # The root has an infinite slope at 0.
        return share if config.tversky_gamma == 1 else _root(share, config.tversky_gamma)

    return _over_regions(scores, config, loss)


def _over_regions(scores: Scores, config: LossConfig, loss: Callable[..., torch.Tensor]) -> torch.Tensor:
    """A loss of soft counts, averaged over classes: once over the batch, or of each image with pixels that count."""
    truth = scores.truth
    if not config.dice_per_image:
        return loss(*truth.total(scores.regions_NK3).unbind(-1)).mean()
    losses_N = loss(*scores.regions_NK3.unbind(-1)).mean(1)
    present_N = (truth.pixels_N > 0).to(losses_N.dtype)
    cost, count = truth.total(torch.stack([losses_N * present_N, present_N], 1)).unbind()
    return _share(cost, count)


def _share(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """A fraction, 0 of nothing."""
    return part / whole.where(whole > 0, 1)


def _root(share: torch.Tensor, gamma: float) -> torch.Tensor:
    """A root that is 0 at 0 and has a finite slope everywhere."""
    return share.clamp_min(ROOT_FLOOR).pow(1 / gamma) - ROOT_FLOOR ** (1 / gamma)
