"""The Lovasz losses: the Jaccard loss of a decision, extended to answers that are none yet."""

from __future__ import annotations

import torch

from histoseg.schema.loss import LossConfig
from histoseg.train.losses_scores import Scores


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
