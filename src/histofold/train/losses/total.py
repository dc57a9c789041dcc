"""The loss of a batch: the weighted terms of the segmentation and of the auxiliary heads, in float32.

Each function takes what a network gave and the truth beside it, and gives numbers with a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, smooth_l1_loss

from histofold.data.tiles.masks import IGNORED_BIT
from histofold.schema.loss import LossConfig
from histofold.train.losses.scores import SigmoidScores, SoftmaxScores, identity, make_truth
from histofold.train.losses.terms import TERM_LOSSES

UNKNOWN_ORGAN = -1
MAX_PLANES = 7


def segmentation_loss(
    logits: torch.Tensor,
    bits_NHW: torch.Tensor,
    config: LossConfig,
    *,
    activation: str = "sigmoid",
    weights_N: torch.Tensor | None = None,
    across: Callable[[torch.Tensor], torch.Tensor] = identity,
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
    if config.ignore == "background":
        bits_NHW = bits_NHW.where(bits_NHW > 0, IGNORED_BIT)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    truth = make_truth(bits_NHW, classes, activation=activation, weights_N=weights_N, dtype=logits.dtype, across=across)
    scores = SoftmaxScores(logits, truth) if softmax else SigmoidScores(logits, truth)
    weights = config.weights()
    terms = {name: TERM_LOSSES[name](scores, config) for name in weights}
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    return {"loss": total, **{f"loss_{name}": term for name, term in terms.items()}}


def auxiliary_losses(
    outputs: Mapping[str, Any],
    batch: Mapping[str, torch.Tensor],
    config: LossConfig,
    activation: str,
    *,
    weights_N: torch.Tensor | None = None,
    across: Callable[[torch.Tensor], torch.Tensor] = identity,
) -> dict[str, torch.Tensor]:
    """The losses of the heads that a network in training has: `loss_organ`, `loss_pixel_size`, `loss_deep`.

    Unweighted: their weights are `organ`, `pixel_size` and `deep_supervision` of the settings.

    Args:
        outputs: Of a network with heads: `organ` (N, organs), `log_zoom` (N,), `deep` list of (N, K', h, w), or fewer.
        batch: `organ` int64 (N,), `log_zoom` float (N,), `mask` uint8 (N, H, W), on the device of the outputs.
        config: Terms of the segmentation loss at each scale.
        activation: `sigmoid` or `softmax`.
        weights_N: Weight of each example's mask, for the coarser scales; organ and pixel size are known for certain.
        across: As for `segmentation_loss`; processes have batches of one size, so that the pixel size needs none.
    """
    losses = {}
    if "organ" in outputs:
        losses["loss_organ"] = organ_loss(outputs["organ"], batch["organ"], across)
    if "log_zoom" in outputs:
        losses["loss_pixel_size"] = pixel_size_loss(outputs["log_zoom"], batch["log_zoom"])
    if "deep" in outputs:
        losses["loss_deep"] = deep_loss(
            outputs["deep"], batch["mask"], config, activation, weights_N=weights_N, across=across
        )
    return losses


def organ_loss(
    logits_NO: torch.Tensor, organs_N: torch.Tensor, across: Callable[[torch.Tensor], torch.Tensor] = identity
) -> torch.Tensor:
    """Mean cross-entropy over the examples whose organ is known (not -1); 0, with a graph, if none is."""
    costs_N = cross_entropy(logits_NO.float(), organs_N, ignore_index=UNKNOWN_ORGAN, reduction="none")
    known_N = (organs_N != UNKNOWN_ORGAN).to(costs_N.dtype)
    cost, count = across(torch.stack([costs_N.sum(), known_N.sum()])).unbind()
    return cost / count.clamp_min(1)


def pixel_size_loss(zooms_N: torch.Tensor, log_zoom_N: torch.Tensor) -> torch.Tensor:
    """Smooth L1 distance of the logarithm of the pixel size relative to the tile as it was cut."""
    return smooth_l1_loss(zooms_N.float(), log_zoom_N.float())


def deep_loss(
    logits_levels: Sequence[torch.Tensor],
    bits_NHW: torch.Tensor,
    config: LossConfig,
    activation: str,
    *,
    weights_N: torch.Tensor | None = None,
    across: Callable[[torch.Tensor], torch.Tensor] = identity,
) -> torch.Tensor:
    """The segmentation loss at coarser scales, each level half the weight of the next finer one, together 1.

    After Lee et al., arXiv:1409.5185, with the weights of nnU-Net (Isensee et al., arXiv:1809.10486).

    Args:
        logits_levels: At least one map (N, K', h, w) that spans the tile, in any order.
        bits_NHW: uint8, as for `segmentation_loss`.
        config: Terms of the loss.
        activation: `sigmoid` or `softmax`.
        weights_N: Weight of each example; 1 where left out.
        across: As for `segmentation_loss`.

    Raises:
        ValueError: If there is no map.
    """
    if not logits_levels:
        raise ValueError("deep supervision needs at least one coarser map: give its head one, or set its weight to 0")
    levels = sorted(logits_levels, key=lambda logits: logits.shape[-2] * logits.shape[-1], reverse=True)
    total = 2 - 0.5 ** (len(levels) - 1)
    losses = []
    for number, logits in enumerate(levels):
        coarse_Nhw = coarse_bits(bits_NHW, (logits.shape[-2], logits.shape[-1]))
        loss = segmentation_loss(logits, coarse_Nhw, config, activation=activation, weights_N=weights_N, across=across)[
            "loss"
        ]
        losses.append(loss * (0.5**number / total))
    return torch.stack(losses).sum()


@torch.no_grad()
def coarse_bits(bits_NHW: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Masks at a coarser size, by area as everywhere: a class where it covers half of what counts of a cell or more.

    A cell is ignored where more than half of it is. Sides need no whole ratio.

    Args:
        bits_NHW: uint8, bit k = class k, bit 7 = ignored.
        size_hw: Height and width wanted.

    Returns:
        uint8 (N, h, w) of bits.
    """
    if tuple(bits_NHW.shape[1:]) == tuple(size_hw):
        return bits_NHW
    truth = make_truth(bits_NHW, MAX_PLANES)
    counted_N1hw = 1 - adaptive_avg_pool2d(truth.ignored_N1HW, size_hw)
    covered_NKhw = adaptive_avg_pool2d(truth.planes_NKHW, size_hw)
    masks_NKhw = ((2 * covered_NKhw >= counted_N1hw) & (counted_N1hw > 0)).to(torch.uint8)
    numbers_K = torch.arange(MAX_PLANES, dtype=torch.uint8, device=bits_NHW.device)
    bits_Nhw = (masks_NKhw << numbers_K[:, None, None]).sum(1, dtype=torch.uint8)
    return bits_Nhw + IGNORED_BIT * (2 * counted_N1hw[:, 0] < 1).to(torch.uint8)
