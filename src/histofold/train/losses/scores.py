"""What every loss term works on: the truth of a batch, and how far the network's answers are from it.

A pixel that is ignored counts as background found with certainty, so that it adds an exact zero to every sum and has no
gradient; nothing here waits for a GPU to find out whether there are any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn.functional import cross_entropy, nll_loss, softplus

CERTAIN = -1e4
NO_LABEL = -100


def identity(values: torch.Tensor) -> torch.Tensor:
    """Sums that concern this process alone."""
    return values


@dataclass(frozen=True, eq=False)
class BatchTruth:
    """The truth of a batch as the terms need it."""

    planes_NKHW: torch.Tensor  # noqa: N815
    """Float 0 or 1; 0 where ignored."""
    signs_NKHW: torch.Tensor  # noqa: N815
    """Float: 1 background, -1 mask, 0 ignored."""
    ignored_N1HW: torch.Tensor  # noqa: N815
    """Float 0 or 1; 1 where ignored."""
    labels_NHW: torch.Tensor | None  # noqa: N815
    """int64: 0 = background, k + 1 = class k, `NO_LABEL` = ignored; for softmax only."""
    weights_N: torch.Tensor  # noqa: N815
    """Float: weight of each example."""
    across: Callable[[torch.Tensor], torch.Tensor] = identity
    """Adds up sums over processes, differentiably; `identity` for one process."""

    @cached_property
    def pixels_N(self) -> torch.Tensor:
        """Pixels of each example that count."""
        return self.ignored_N1HW[0].numel() - self.ignored_N1HW.sum((1, 2, 3))

    def total(self, sums: torch.Tensor) -> torch.Tensor:
        """The weighted sum over the examples of all processes, (...) from (N, ...)."""
        weights = self.weights_N.view(-1, *[1] * (sums.ndim - 1))
        return self.across((sums * weights).sum(0))

    def mean_cost(self, costs_NCHW: torch.Tensor) -> torch.Tensor:
        """The weighted mean over all pixels that count, 0 if none does; costs of ignored pixels must be 0."""
        counts_N = self.pixels_N * costs_NCHW.shape[1]
        cost, count = self.total(torch.stack([costs_NCHW.sum((1, 2, 3)), counts_N], 1)).unbind()
        return cost / count.where(count > 0, 1)


def make_truth(
    bits_NHW: torch.Tensor,
    classes: int,
    *,
    activation: str = "sigmoid",
    weights_N: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    across: Callable[[torch.Tensor], torch.Tensor] = identity,
) -> BatchTruth:
    """Unpack the bits of a batch where they lie.

    With softmax the classes exclude each other: of several bits of a pixel the highest class wins.

    Args:
        bits_NHW: uint8, bit k = class k, bit 7 = ignored; bits from `classes` to 6 have no meaning.
        classes: K, at most 7.
        activation: `sigmoid` or `softmax`.
        weights_N: Weight of each example; 1 where left out.
        dtype: Of all that is made.
        across: Adds up sums over processes, differentiably.
    """
    # Bytes as long as possible: a byte costs a quarter of a float to read and to write.
    ignored_NHW = bits_NHW >> 7
    kept_NHW = bits_NHW * (1 - ignored_NHW)
    numbers_K = torch.arange(classes, dtype=torch.uint8, device=bits_NHW.device)
    labels_NHW = None
    if activation == "softmax":
        ones_K = torch.ones_like(numbers_K)
        known_NHW = (kept_NHW & ((1 << classes) - 1)).contiguous()
        labels_NHW = torch.bucketize(known_NHW, ones_K << numbers_K, right=True)
        planes_NKHW = (labels_NHW[:, None] == 1 + numbers_K[:, None, None]).view(torch.uint8)
        labels_NHW = labels_NHW.masked_fill_(ignored_NHW == 1, NO_LABEL)
    else:
        planes_NKHW = (kept_NHW[:, None] >> numbers_K[:, None, None]) & 1
    signs_NKHW = 1 - (ignored_NHW[:, None] + 2 * planes_NKHW).view(torch.int8)
    if weights_N is None:
        weights_N = torch.ones(len(bits_NHW), dtype=dtype, device=bits_NHW.device)
    return BatchTruth(
        planes_NKHW.to(dtype),
        signs_NKHW.to(dtype),
        ignored_NHW[:, None].to(dtype),
        labels_NHW,
        weights_N.to(dtype),
        across,
    )


class Scores:
    """A batch of answers against its truth; each quantity is computed once, and only if a term asks for it."""

    def __init__(self, logits: torch.Tensor, truth: BatchTruth) -> None:
        self.logits = logits
        self.truth = truth

    @property
    def errors_NKHW(self) -> torch.Tensor:
        """Distance of each probability from its truth, in [0, 1]; 0 where ignored."""
        raise NotImplementedError

    @property
    def entropy_NCHW(self) -> torch.Tensor:
        """Cross-entropy of each decision (C = K with sigmoid, 1 with softmax) in nats; 0 where ignored."""
        raise NotImplementedError

    @property
    def surplus_NKHW(self) -> torch.Tensor:
        """What the Lovasz loss sorts: hinge errors with sigmoid, `errors_NKHW` with softmax; 0 where ignored."""
        raise NotImplementedError

    @cached_property
    def regions_NK3(self) -> torch.Tensor:
        """Of each example and class: true pixels, wrong ones (false or missed), missed ones; soft counts."""
        planes_NKHW, errors_NKHW = self.truth.planes_NKHW, self.errors_NKHW
        sums = [planes_NKHW.sum((2, 3)), errors_NKHW.sum((2, 3)), (errors_NKHW * planes_NKHW).sum((2, 3))]
        return torch.stack(sums, -1)


class SigmoidScores(Scores):
    """Answers whose classes stand each for itself."""

    @cached_property
    def margins_NKHW(self) -> torch.Tensor:
        """How far each logit lies on the wrong side of 0; surely on the right one where ignored."""
        return (self.logits * self.truth.signs_NKHW).add_(self.truth.ignored_N1HW, alpha=CERTAIN)

    @cached_property
    def errors_NKHW(self) -> torch.Tensor:
        """See `Scores`."""
        return self.margins_NKHW.sigmoid()

    @cached_property
    def entropy_NCHW(self) -> torch.Tensor:
        """See `Scores`."""
        return softplus(self.margins_NKHW)

    @cached_property
    def surplus_NKHW(self) -> torch.Tensor:
        """See `Scores`."""
        return (1 + self.margins_NKHW).relu()

    def smoothed_entropy(self, smoothing: float) -> torch.Tensor:
        """Cross-entropy against a truth of smoothing / 2 and 1 - smoothing / 2, (N, K, H, W); 0 where ignored."""
        if not smoothing:
            return self.entropy_NCHW
        others_NKHW = softplus(-self.margins_NKHW) * (1 - self.truth.ignored_N1HW)
        return torch.lerp(self.entropy_NCHW, others_NKHW, smoothing / 2)


class SoftmaxScores(Scores):
    """Answers whose classes and background exclude each other; logits are (N, J = K + 1, H, W)."""

    @property
    def _labels_NHW(self) -> torch.Tensor:
        assert self.truth.labels_NHW is not None, "the truth must be made for softmax"
        return self.truth.labels_NHW

    @cached_property
    def log_probs_NJHW(self) -> torch.Tensor:
        """Logarithm of the probability of each class and the background."""
        return self.logits.log_softmax(1)

    @cached_property
    def errors_NKHW(self) -> torch.Tensor:
        """See `Scores`."""
        probs_NKHW = self.log_probs_NJHW[:, 1:].exp()
        return torch.addcmul(self.truth.planes_NKHW, probs_NKHW, self.truth.signs_NKHW)

    @cached_property
    def entropy_NCHW(self) -> torch.Tensor:
        """See `Scores`."""
        return nll_loss(self.log_probs_NJHW, self._labels_NHW, ignore_index=NO_LABEL, reduction="none")[:, None]

    @property
    def surplus_NKHW(self) -> torch.Tensor:
        """See `Scores`."""
        return self.errors_NKHW

    def smoothed_entropy(self, smoothing: float) -> torch.Tensor:
        """Cross-entropy against a truth of which a share is spread over all answers, (N, 1, H, W); 0 where ignored."""
        return cross_entropy(
            self.logits, self._labels_NHW, ignore_index=NO_LABEL, reduction="none", label_smoothing=smoothing
        )[:, None]
