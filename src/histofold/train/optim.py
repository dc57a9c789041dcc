"""Optimisers, their groups of parameters, and the rates that a step gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.optim import Lookahead

from histofold.core.faults import InputError
from histofold.schema.optim import OptimConfig
from histofold.train.schedule import learning_rate, momentum_of


def make_optimizer(model: torch.nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of a network, whose groups carry `lr_factor`, what the learning rate is multiplied by.

    sgd: Sutskever 2013; adam: Kingma and Ba, arXiv:1412.6980; adamw: Loshchilov and Hutter, arXiv:1711.05101; radam:
    Liu, arXiv:1908.03265, with decoupled decay as its authors have it; ranger: the same within Lookahead (Zhang,
    arXiv:1907.08610; 6 steps forward, half the way back).

    Args:
        model: A network with an `encoder`, or a training network around one (`model.encoder`).
        config: Which optimiser, with which settings.

    Raises:
        InputError: If the encoder is to have a rate of its own and there is none.
    """
    groups = _parameter_groups(model, config)
    # Fused: one pass over the memory of all parameters, about half the time of a loop; SGD's is slower on a CPU.
    devices = {p.device.type for group in groups for p in group["params"]}
    fused = devices <= {"cpu", "cuda"}
    if config.optimizer == "sgd":
        fused = devices == {"cuda"}
        return torch.optim.SGD(groups, config.lr, config.momentum, fused=fused)
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, config.lr, config.betas, config.eps, fused=fused)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, config.lr, config.betas, config.eps, fused=fused)
    radam = torch.optim.RAdam(groups, config.lr, config.betas, config.eps, decoupled_weight_decay=True)
    return radam if config.optimizer == "radam" else Lookahead(radam, alpha=0.5, k=6)


def set_rates(
    optimizer: torch.optim.Optimizer,
    step: int,
    steps: int,
    config: OptimConfig,
    *,
    steps_per_epoch: float,
    scores: Sequence[float] = (),
) -> float:
    """Give every group its learning rate and momentum of a step.

    Args:
        optimizer: Of `make_optimizer`.
        step: The step, from 0.
        steps: All steps of the run.
        config: The schedule.
        steps_per_epoch: As `learning_rate`.
        scores: As `learning_rate`.

    Returns:
        The learning rate before the groups' factors.
    """
    rate = learning_rate(step, steps, config, steps_per_epoch=steps_per_epoch, scores=scores)
    momentum = momentum_of(step, steps, config)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum
    return rate


def _parameter_groups(model: torch.nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Groups by rate and by decay: all else before the encoder, matrices before vectors; empty ones are left out.

    Where the encoder's factor is 1 it has no groups of its own.
    """
    encoder_ids = _encoder_parameter_ids(model) if config.encoder_lr_factor != 1 else set()
    groups = []
    for is_encoder, lr_factor in ((False, 1.0), (True, config.encoder_lr_factor)):
        members = [p for p in model.parameters() if p.requires_grad and (id(p) in encoder_ids) == is_encoder]
        for is_vector, weight_decay in ((False, config.weight_decay), (True, 0.0)):
            parameters = [p for p in members if (p.ndim <= 1) == is_vector]
            if parameters:
                groups.append({"params": parameters, "weight_decay": weight_decay, "lr_factor": lr_factor})
    return groups


def _encoder_parameter_ids(model: torch.nn.Module) -> set[int]:
    """Identities of the encoder's parameters: names would change with every wrapper."""
    for owner in (model, getattr(model, "model", None)):
        encoder = getattr(owner, "encoder", None)
        if isinstance(encoder, torch.nn.Module):
            return {id(p) for p in encoder.parameters()}
    raise InputError(
        f"optim.encoder_lr_factor: {type(model).__name__} has no encoder that could have a rate of its own; set it to 1"
    )
