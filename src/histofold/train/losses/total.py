"""Losses on logits: a weighted sum of terms, in float32 whatever the network's precision.

All terms but `boundary` are at least 0. A batch without any mask pixel teaches through every term (it pushes the logits
of the classes down), but not through dice, jaccard and tversky without smoothing, nor through tversky with alpha = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from histofold.schema.loss import LossConfig
from histofold.train.losses.boundary import boundary_loss
from histofold.train.losses.regions import dice_loss, jaccard_loss, lovasz_loss, tversky_loss
from histofold.train.losses.scores import SigmoidScores, SoftmaxScores, make_truth, same

SMALLEST_ERROR = 1e-12


def segmentation_loss(
    logits: torch.Tensor,
    bits_NHW: torch.Tensor,
    config: LossConfig,
    *,
    activation: str = "sigmoid",
    weights_N: torch.Tensor | None = None,
    across: Callable[[torch.Tensor], torch.Tensor] = same,
) -> dict[str, torch.Tensor]:
    """The weighted sum of the configured terms under `loss`, and each term under `loss_` and its name.

    Means are weighted means: an example of weight 0 is as good as absent, and a common factor changes nothing. A batch
    in which no pixel counts has the loss 0, with a graph.

    Args:
        logits: (N, K, H, W) with sigmoid, (N, K + 1, H, W) with softmax, where channel 0 is the background.
        bits_NHW: uint8, bit k = class k, bit 7 = this pixel is ignored. With softmax the highest class of a pixel wins.
        config: Weights and settings of the terms.
        activation: `sigmoid` or `softmax`.
        weights_N: Weight of each example, not negative; 1 where left out.
        across: Adds up sums over processes, differentiably, so that the loss is that of the joint batch (all but
            lovasz); left out, each process takes the loss of its own.

    Raises:
        ValueError: If shapes or the bits' type do not fit, or a term does not go with the activation.
    """
    config.check_activation(activation)
    softmax = activation == "softmax"
    classes = logits.shape[1] - softmax
    size = (logits.shape[0], *logits.shape[2:])
    if bits_NHW.dtype != torch.uint8 or bits_NHW.shape != size or not 1 <= classes <= 7:
        raise ValueError(
            f"logits {tuple(logits.shape)} and masks {tuple(bits_NHW.shape)} of {bits_NHW.dtype} do not fit: needed "
            f"are logits (N, {'K + 1' if softmax else 'K'}, H, W) for {activation}, K from 1 to 7, and uint8 (N, H, W)"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    truth = make_truth(bits_NHW, classes, activation=activation, weights_N=weights_N, dtype=logits.dtype, across=across)
    scores = SoftmaxScores(logits, truth) if softmax else SigmoidScores(logits, truth)
    weights = config.weights()
    terms = {name: TERM_LOSSES[name](scores, config) for name in weights}
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    return {"loss": total, **{f"loss_{name}": term for name, term in terms.items()}}


def bce_loss(scores: SigmoidScores, config: LossConfig) -> torch.Tensor:
    """Mean binary cross-entropy of all pixels and classes, in nats."""
    costs_NKHW = scores.smoothed_entropy(config.label_smoothing, config.bce_pos_weight)
    return scores.truth.mean_cost(costs_NKHW)


def ce_loss(scores: SoftmaxScores, config: LossConfig) -> torch.Tensor:
    """Mean cross-entropy of all pixels, in nats."""
    smoothing = config.label_smoothing
    return scores.truth.mean_cost(scores.smoothed_entropy(smoothing) if smoothing else scores.entropy_NCHW)


def focal_loss(scores: SigmoidScores | SoftmaxScores, config: LossConfig) -> torch.Tensor:
    """Mean of (1 - p)^gamma times cross-entropy, p the probability of the truth; Lin et al., arXiv:1708.02002."""
    entropy_NCHW = scores.entropy_NCHW
    # Not 1 - exp(-entropy), which loses all digits of a small error. Small powers have no slope at 0.
    errors_NCHW = (-torch.expm1(-entropy_NCHW)).clamp_min(SMALLEST_ERROR)
    costs_NCHW = entropy_NCHW * errors_NCHW**config.focal_gamma
    if config.focal_alpha != -1:
        planes_NKHW = scores.truth.planes_NKHW
        # With softmax there is one decision a pixel, which is of a mask or of the background.
        found_NCHW = planes_NKHW if entropy_NCHW.shape == planes_NKHW.shape else planes_NKHW.sum(1, keepdim=True)
        costs_NCHW = costs_NCHW * ((1 - config.focal_alpha) + (2 * config.focal_alpha - 1) * found_NCHW)
    return scores.truth.mean_cost(costs_NCHW)


TERM_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "bce": bce_loss,
    "ce": ce_loss,
    "dice": dice_loss,
    "jaccard": jaccard_loss,
    "tversky": tversky_loss,
    "lovasz": lovasz_loss,
    "focal": focal_loss,
    "boundary": boundary_loss,
}
