"""The terms of the segmentation loss: entropies of pixels, overlaps of regions, distances from a border.

All but `boundary` are at least 0. A batch without any mask pixel teaches through every term (it pushes the logits of
the classes down), but not through dice, jaccard and tversky without smoothing, nor through tversky with alpha = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch.nn.functional import max_pool2d, pad

from histofold.schema.loss import LossConfig
from histofold.train.losses.scores import Scores, SigmoidScores, SoftmaxScores

ROOT_FLOOR = 1e-7
SMALLEST_ERROR = 1e-12


def bce_loss(scores: SigmoidScores, config: LossConfig) -> torch.Tensor:
    """Mean binary cross-entropy of all pixels and classes, in nats; of mask pixels times `bce_positive_weight`."""
    costs_NKHW = scores.smoothed_entropy(config.label_smoothing)
    if config.bce_positive_weight != 1:
        costs_NKHW = costs_NKHW * (1 + (config.bce_positive_weight - 1) * scores.truth.planes_NKHW)
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

    After Berman et al., arXiv:1705.08790, with a weight for each example, and averaged with the loss of turned logits
    against the complement, whose errors are the same (Yu and Blaschko, arXiv:1512.07797): alone, a batch that lacks a
    class would teach by its most wrong pixel only. Under several processes each takes the loss of its own pixels.
    """
    truth = scores.truth
    weights_N1HW = (1 - truth.ignored_N1HW) * truth.weights_N[:, None, None, None]
    true_KP = _rows(truth.planes_NKHW * weights_N1HW)
    other_KP = _rows((1 - truth.planes_NKHW) * weights_N1HW)
    errors_KP = _rows(scores.surplus_NKHW)
    errors_KP, order_KP = errors_KP.sort(dim=1, descending=True)
    true_KP, other_KP = true_KP.gather(1, order_KP), other_KP.gather(1, order_KP)
    steps_KP = jaccard_steps(true_KP, other_KP)
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


def boundary_loss(scores: Scores, config: LossConfig) -> torch.Tensor:
    """Mean of probability times signed distance from the border, after Kervadec et al., arXiv:1812.07032.

    It lies in [-1, 1] and is below 0 for a good answer, so it goes beside a term of overlap. Ignored pixels do not
    count, and are background for the distances of others.
    """
    planes_NKHW = scores.truth.planes_NKHW
    distances = signed_distances(planes_NKHW.to("cpu", torch.uint8).numpy())
    distances_NKHW = torch.from_numpy(distances).to(planes_NKHW) * (1 - scores.truth.ignored_N1HW)
    probs_NKHW = planes_NKHW + scores.truth.signs_NKHW * scores.errors_NKHW
    return scores.truth.mean_cost(probs_NKHW * distances_NKHW)


def surface_loss(scores: Scores, config: LossConfig) -> torch.Tensor:
    """One minus the soft surface Dice of tiles, (S + s) / (A + s) for S the edges in cells that both have.

    As the metric of volumes, but of the square cells between four pixels: the edge of a cell is the length that
    marching squares give, in the mean over what its pixels may be, and that it holds an edge has a probability. Of
    certain answers it is the metric itself, background around the tile. It sees edges alone, so that it goes beside
    another term. Cells with an ignored pixel do not count.
    """
    planes_NKHW = scores.truth.planes_NKHW
    probs_NKHW = planes_NKHW + scores.truth.signs_NKHW * scores.errors_NKHW
    counted_N1hw = 1 - max_pool2d(pad(scores.truth.ignored_N1HW, (1, 1, 1, 1)), 2, 1)
    found_NKhw, found_edges_NKhw = cell_edges(pad(probs_NKHW, (1, 1, 1, 1)))
    true_NKhw, true_edges_NKhw = cell_edges(pad(planes_NKHW, (1, 1, 1, 1)))
    common_NKhw = (found_edges_NKhw * true_NKhw + true_edges_NKhw * found_NKhw) * counted_N1hw
    edges_NKhw = (found_edges_NKhw + true_edges_NKhw) * counted_N1hw
    sums = torch.stack([common_NKhw.sum((2, 3)), edges_NKhw.sum((2, 3))], -1)
    common_K, edges_K = scores.truth.total(sums).unbind(-1)
    return _share(edges_K - common_K, edges_K + config.dice_smooth).mean()


def cell_edges(probs_NKHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each cell between four pixels the probability that it holds an edge, and the mean length of edges in it.

    Args:
        probs_NKHW: Probabilities of pixels, independent of each other.

    Returns:
        Two of (N, K, H - 1, W - 1).
    """
    a, b = probs_NKHW[..., :-1, :-1], probs_NKHW[..., :-1, 1:]
    d, c = probs_NKHW[..., 1:, :-1], probs_NKHW[..., 1:, 1:]  # a to d go around the cell
    none, every = (1 - a) * (1 - b) * (1 - c) * (1 - d), a * b * c * d
    crossing = a * (1 - b) * c * (1 - d) + (1 - a) * b * (1 - c) * d
    rows = a * b * (1 - c) * (1 - d) + (1 - a) * (1 - b) * c * d
    columns = a * d * (1 - b) * (1 - c) + (1 - a) * (1 - d) * b * c
    corner = 1 - none - every - crossing - rows - columns
    return 1 - none - every, rows + columns + math.sqrt(2) * crossing + math.sqrt(0.5) * corner


def signed_distances(masks_NKHW: np.ndarray) -> np.ndarray:
    """Distance of each pixel's centre from the border, below 0 inside, as a share of the diagonal of the tile.

    The exact Euclidean distance to the nearest pixel of the other kind, less half a pixel. The border of an empty
    mask is as far as can be: 1 everywhere, so that it teaches; of a full one -1.

    Args:
        masks_NKHW: uint8, 0 or 1.

    Returns:
        float32 (N, K, H, W), in [-1, 1].
    """
    distances_NKHW = np.empty(masks_NKHW.shape, np.float32)
    for place in np.ndindex(masks_NKHW.shape[:2]):
        mask_HW = np.ascontiguousarray(masks_NKHW[place])
        if mask_HW.min() == mask_HW.max():
            distances_NKHW[place] = 1 - 2 * int(mask_HW.flat[0])
            continue
        outside_HW = cv2.distanceTransform(1 - mask_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        inside_HW = cv2.distanceTransform(mask_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        signs_HW = 1 - 2 * mask_HW.astype(np.float32)
        distances_NKHW[place] = (outside_HW - inside_HW - 0.5 * signs_HW) / np.hypot(*mask_HW.shape)
    return distances_NKHW


TERM_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "bce": bce_loss,
    "ce": ce_loss,
    "dice": dice_loss,
    "jaccard": jaccard_loss,
    "tversky": tversky_loss,
    "lovasz": lovasz_loss,
    "focal": focal_loss,
    "boundary": boundary_loss,
    "surface": surface_loss,
}
"""Each term by the name of its weight in the settings."""
