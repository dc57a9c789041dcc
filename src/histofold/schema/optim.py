"""The optimiser of an experiment, its schedule, and how weights are averaged."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

OptimizerName = Literal["sgd", "adam", "adamw", "radam", "ranger"]
ScheduleName = Literal["constant", "cosine", "one_cycle", "step", "multi_step", "plateau", "poly"]

_BETAS_OWNERS = ("adam", "adamw", "radam", "ranger")
_SETTING_OWNERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "momentum": ("optimizer", ("sgd",)),
    "betas": ("optimizer", _BETAS_OWNERS),
    "eps": ("optimizer", _BETAS_OWNERS),
    "final_lr": ("schedule", ("cosine", "one_cycle", "plateau", "poly")),
    "start_lr": ("schedule", ("one_cycle",)),
    "low_momentum": ("schedule", ("one_cycle",)),
    "gamma": ("schedule", ("step", "multi_step", "plateau")),
    "step_epochs": ("schedule", ("step",)),
    "milestones": ("schedule", ("multi_step",)),
    "plateau_patience": ("schedule", ("plateau",)),
}
"""Settings that only some optimisers or schedules read: set for another one, they would be dead."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser, learning rate over the run, and averages of the weights."""

    optimizer: OptimizerName = "adamw"
    """`sgd`, `adam`, `adamw`, `radam` (rectified Adam), or `ranger` (RAdam whose weights look ahead: every sixth step
    goes half the way from where they were)."""
    lr: float = 1e-3
    """Peak learning rate."""
    encoder_lr_factor: float = 1.0
    """Learning rate of the network's encoder, as a multiple of that of all else; 0 keeps its weights as they are."""
    encoder_blocks: int = -1
    """How many of the encoder's last blocks are trained: -1 all of it, embeddings included; 0 none. What is not has
    neither gradients nor a state of the optimiser. For encoders without batch normalisation; between 0 and all for
    those of dpt, whose blocks follow each other."""
    momentum: float = 0.9
    """Momentum of sgd."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decays of the moments of the gradient (all but sgd)."""
    eps: float = 1e-8
    """What is added to the root of the second moment (all but sgd)."""
    weight_decay: float = 1e-2
    """Decoupled weight decay of adamw, radam and ranger, a true L2 term in the gradient of adam and sgd, for which
    1e-4 is usual; biases and normalisation layers are spared."""
    schedule: ScheduleName = "cosine"
    """`constant`; `cosine`: half a wave down to final_lr; `poly`: what is left of the run to the power
    of 0.9, as DeepLab; `step`: gamma every step_epochs epochs; `multi_step`: gamma at each of the milestones;
    `plateau`: gamma whenever validations stop gaining; `one_cycle`: up from start_lr and down to final_lr in half waves
    (Smith)."""
    warmup: float = 0.05
    """Share of the steps that warm up, linearly from 0; of one_cycle the share that rises, for which 0.3 is usual."""
    final_lr: float = 0.01
    """Learning rate where cosine, poly and one_cycle end, and the lowest one of plateau, as a share of the peak."""
    start_lr: float = 0.04
    """Learning rate where one_cycle starts, as a share of the peak."""
    low_momentum: float = 0.0
    """Momentum (or first beta) that one_cycle goes down to at the peak of the learning rate; 0: it does not move."""
    gamma: float = 0.1
    """What the learning rate is multiplied by at each fall of step, multi_step and plateau."""
    step_epochs: float = 1.0
    """Epochs between the falls of step."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of the run at which multi_step falls."""
    plateau_patience: int = 3
    """Validations without a gain that plateau endures; it falls at the next one."""
    clip: float = 1.0
    """Largest gradient norm; 0 switches clipping off."""
    ema: float = 0.99
    """Decay of the averaged weights in each step, reached after 1 / (1 - ema) steps; 0 switches this average off."""
    average_from: float = 1.0
    """Share of the run from which on the weights are averaged with equal parts (SWA, instead of ema); 1: they are
    not."""
    average_every: int = 10
    """Steps between the weights that are averaged with equal parts."""

    def __post_init__(self) -> None:
        self._check_owners()
        self._check_optimizer()
        self._check_schedule()
        if not 0 <= self.ema < 1 or not 0 <= self.average_from <= 1 or self.average_every < 1:
            raise ValueError("ema must lie in [0, 1), average_from in [0, 1], and average_every be at least 1")
        if self.ema and self.average_from < 1:
            rule = f"ema={self.ema} and average_from={self.average_from} are two averages of the same weights"
            raise ValueError(f"{rule}: set ema = 0 for equal parts, or average_from = 1 for the moving average")

    def _check_owners(self) -> None:
        """Refuse settings that nothing would read."""
        defaults = {field.name: field.default for field in fields(self)}
        dead = {name: owner for name, owner in _SETTING_OWNERS.items() if getattr(self, owner[0]) not in owner[1]}
        if self.average_from == 1:
            dead["average_every"] = ("average_from", ("a share below 1",))
        for name, (key, owners) in dead.items():
            if getattr(self, name) != defaults[name]:
                rule = f"{name}={getattr(self, name)!r} has no effect with {key}={getattr(self, key)!r}"
                raise ValueError(f"{rule}: leave it out, or set {key} to {' or '.join(owners)}")

    def _check_optimizer(self) -> None:
        if not self.lr > 0 or self.weight_decay < 0 or self.clip < 0 or self.encoder_lr_factor < 0:
            raise ValueError("lr must be positive; weight_decay, clip and encoder_lr_factor must not be negative")
        if self.encoder_blocks < -1 or (self.encoder_blocks == 0 and self.encoder_lr_factor != 1):
            rule = f"encoder_blocks={self.encoder_blocks} must be -1 (all), 0 (none) or a number of blocks"
            raise ValueError(f"{rule}, and with 0 there is no rate of the encoder: leave encoder_lr_factor out")
        if not 0 <= self.momentum < 1 or not all(0 <= beta < 1 for beta in self.betas) or not self.eps > 0:
            raise ValueError("momentum and betas must lie in [0, 1), eps be positive")

    def _check_schedule(self) -> None:
        if not 0 <= self.warmup < 1 or not 0 <= self.final_lr <= 1 or not 0 <= self.start_lr <= 1:
            raise ValueError("warmup must lie in [0, 1), final_lr and start_lr in [0, 1]")
        if not 0 < self.gamma <= 1 or not self.step_epochs > 0:
            raise ValueError("gamma must lie in (0, 1], step_epochs be positive")
        ascending = all(low < high for low, high in zip(self.milestones, self.milestones[1:], strict=False))
        if not self.milestones or not ascending or self.milestones[0] <= 0 or self.milestones[-1] >= 1:
            raise ValueError(f"milestones={self.milestones} must ascend within (0, 1): they are shares of the run")
        if self.plateau_patience < 0:
            raise ValueError("plateau_patience must not be negative")
        high = self.momentum if self.optimizer == "sgd" else self.betas[0]
        if not 0 <= self.low_momentum <= high:
            name = "momentum" if self.optimizer == "sgd" else "the first of betas"
            raise ValueError(f"low_momentum={self.low_momentum} must lie between 0 and {name}, {high}")
