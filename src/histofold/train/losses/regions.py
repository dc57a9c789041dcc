"""Losses on regions: soft Dice, Jaccard and Tversky, and the Lovasz extension of Jaccard."""

from __future__ import annotations

from collections.abc import Callable

import torch

from histofold.schema.loss import LossConfig
from histofold.train.losses.scores import Scores

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


def lovasz_loss(scores: Scores, config: LossConfig) -> torch.Tensor:
    """Lovasz hinge (sigmoid) or Lovasz-softmax, over the whole batch, averaged over all classes, present or not.

    After Berman et al., arXiv:1705.08790, with a weight for each example. `lovasz_symmetric` averages it with the loss
    of turned logits against the complement, whose errors are the same (Yu and Blaschko, arXiv:1512.07797). Without it
    a batch that lacks a class teaches by its most wrong pixel alone. Under several processes each takes the loss of
    its own pixels.
    """
    truth = scores.truth
    weights_N1HW = (1 - truth.ignored_N1HW) * truth.weights_N[:, None, None, None]
    true_KP = _rows(truth.planes_NKHW * weights_N1HW)
    other_KP = _rows((1 - truth.planes_NKHW) * weights_N1HW)
    errors_KP = _rows(scores.surplus_NKHW)
    errors_KP, order_KP = errors_KP.sort(dim=1, descending=True)
    true_KP, other_KP = true_KP.gather(1, order_KP), other_KP.gather(1, order_KP)
    steps_KP = jaccard_steps(true_KP, other_KP)
    if config.lovasz_symmetric:
        steps_KP = (steps_KP + jaccard_steps(other_KP, true_KP)) / 2
    return (errors_KP * steps_KP).sum(1).mean()


def jaccard_steps(true_KP: torch.Tensor, other_KP: torch.Tensor) -> torch.Tensor:
    """How much the Jaccard loss grows when one more pixel becomes wrong, the first pixel first.

    From the sets themselves, not from differences of the loss, which float32 cannot resolve among millions of pixels.

    Args:
        true_KP: Weight of each mask pixel, 0 elsewhere.
        other_KP: Weight of each other pixel, 0 elsewhere.

    Returns:
        (K, P), not negative; a row adds up to 1, or to 0 where nothing has a weight.
    """
    whole_K1 = true_KP.sum(1, keepdim=True)
    kept_KP = (whole_K1 - true_KP.cumsum(1)).clamp_min_(0)
    union_KP = whole_K1 + other_KP.cumsum(1)
    before_KP = union_KP - other_KP
    # Without any mask pixel the first wrong one takes the loss from 0 to 1.
    first_KP = (before_KP <= 0) & (other_KP > 0)
    product_KP = union_KP * before_KP
    false_KP = kept_KP * other_KP / product_KP.where(product_KP > 0, 1)
    missed_KP = true_KP / union_KP.where(union_KP > 0, 1)
    return (missed_KP + false_KP).masked_fill_(first_KP, 1)


def _rows(values_NKHW: torch.Tensor) -> torch.Tensor:
    return values_NKHW.transpose(0, 1).flatten(1)
