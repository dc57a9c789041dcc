"""The loss of an experiment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss terms."""

    bce: float = 0.5
    """Weight of binary cross-entropy."""
    dice: float = 0.5
    """Weight of the soft Dice loss, over the whole batch."""

    def __post_init__(self) -> None:
        if min(self.bce, self.dice) < 0 or self.bce + self.dice <= 0:
            raise ValueError(f"bce={self.bce} and dice={self.dice} must not be negative, and not both zero")
