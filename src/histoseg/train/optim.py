"""Optimiser and learning rate."""

from __future__ import annotations

import math

import torch

from histoseg.schema.experiment import OptimConfig


def make_optimizer(model: torch.nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, arXiv:1711.05101); vectors (biases, normalisation) are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr)


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine down to `final_lr` of the peak.

    Args:
        step: The step, from 0.
        steps: All steps of the run.
        config: Peak, warm-up share and final share.
    """
    warmup = round(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
