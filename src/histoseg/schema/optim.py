"""The optimiser of an experiment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay, and an exponential moving average of the weights."""

    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 1e-2
    """Decoupled weight decay; biases and normalisation layers are spared."""
    warmup: float = 0.05
    """Share of the steps that warm up."""
    final_lr: float = 0.01
    """Learning rate at the end, as a share of the peak."""
    clip: float = 1.0
    """Largest gradient norm; 0 switches clipping off."""
    ema: float = 0.99
    """Decay of the averaged weights in each step (warmed up from 0); 0 switches averaging off."""

    def __post_init__(self) -> None:
        if not self.lr > 0 or self.weight_decay < 0 or self.clip < 0:
            raise ValueError("lr must be positive; weight_decay and clip must not be negative")
        if not 0 <= self.warmup < 1 or not 0 <= self.final_lr <= 1 or not 0 <= self.ema < 1:
            raise ValueError("warmup and ema must lie in [0, 1), final_lr in [0, 1]")
