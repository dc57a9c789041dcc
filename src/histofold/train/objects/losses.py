"""Losses of networks of objects: of a dense network's three maps, and of what a detector gives in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from histofold.core.faults import Fault, InputError
from histofold.schema.loss import LossConfig
from histofold.train.losses.scores import identity, make_truth
from histofold.train.losses.total import segmentation_loss
from histofold.train.objects.targets import BOUNDARY_BIT, DISTANCE_ONE


def dense_losses(
    logits_N3HW: torch.Tensor,
    batch: Mapping[str, Any],
    config: LossConfig,
    *,
    weights_N: torch.Tensor | None = None,
    across: Callable[[torch.Tensor], torch.Tensor] = identity,
) -> dict[str, torch.Tensor]:
    """The segmentation loss of the objects, and cross-entropies of their boundary and distance, in float32.

    The distance is a share, so its cross-entropy is least where the answer is the share itself; that least is taken
    off, so that a perfect answer costs nothing.

    Args:
        logits_N3HW: Logits of object, boundary and distance.
        batch: `mask` uint8 (N, H, W) and `distance` uint8 (N, H, W), as `dense_example` makes them.
        config: Terms of the segmentation loss, and the weights of the others.
        weights_N: Weight of each example; 1 where left out.
        across: As for `segmentation_loss`.

    Returns:
        `loss`, the terms of the segmentation loss, `loss_object_boundary` and `loss_object_distance`.
    """
    losses = segmentation_loss(logits_N3HW[:, :1], batch["mask"], config, weights_N=weights_N, across=across)
    logits_N2HW = logits_N3HW[:, 1:].to(torch.promote_types(logits_N3HW.dtype, torch.float32))
    truth = make_truth(batch["mask"], BOUNDARY_BIT, weights_N=weights_N, dtype=logits_N2HW.dtype, across=across)
    shares_N1HW = batch["distance"][:, None].to(logits_N2HW) / DISTANCE_ONE
    wanted_N2HW = torch.cat([truth.planes_NKHW[:, 1:], shares_N1HW], 1)
    costs_N2HW = binary_cross_entropy_with_logits(logits_N2HW, wanted_N2HW, reduction="none")
    costs_N2HW = costs_N2HW - torch.special.entr(wanted_N2HW) - torch.special.entr(1 - wanted_N2HW)
    costs_N2HW = costs_N2HW * (1 - truth.ignored_N1HW)
    for place, name in enumerate(("object_boundary", "object_distance")):
        losses[f"loss_{name}"] = truth.mean_cost(costs_N2HW[:, place : place + 1])
        losses["loss"] = losses["loss"] + getattr(config, name) * losses[f"loss_{name}"]
    return losses


def detector_losses(losses: Mapping[str, torch.Tensor], config: LossConfig) -> dict[str, torch.Tensor]:
    """A detector's own losses, each under `loss_` and its name, and their weighted sum as `loss`, in float32.

    Args:
        losses: What the network gave in training, by name.
        config: `detector` holds the weights of those that do not count once.

    Raises:
        InputError: If a weight is of a loss that the network does not have.
    """
    named = {name.removeprefix("loss_"): value.float() for name, value in losses.items()}
    faults = [
        Fault(f"loss.detector.{name}", "experiment", "the network has no such loss", f"it has {', '.join(named)}")
        for name in config.detector
        if name not in named
    ]
    if faults:
        raise InputError(faults)
    total = torch.stack([config.detector.get(name, 1.0) * value for name, value in named.items()]).sum()
    return {"loss": total, **{f"loss_{name}": value for name, value in named.items()}}
