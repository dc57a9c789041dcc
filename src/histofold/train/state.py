"""What changes while a fold trains: networks, optimiser, step and log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3

from histofold.schema.atomic import write_atomically
from histofold.train.averaging import WeightAverage
from histofold.train.heads import TrainingNetwork

FIRST_COLUMNS = ("step", "epoch", "lr", "loss")
LAST_COLUMNS = ("val_dice", "images_per_s", "seconds")


class MovingAverage(ModelEmaV3):
    """timm's exponential moving average of the weights, which keeps the lists of tensors instead of asking each step.

    With the methods of `WeightAverage`.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        super().__init__(model, decay=decay, use_warmup=True)
        # Tensors are changed in place by whoever changes them, so the lists stay good.
        pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
        self._floating = tuple(zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True))
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    def apply_update_(self, model: torch.nn.Module, decay: float) -> None:
        """One step of the average towards the weights."""
        averaged, new = self._floating
        torch._foreach_lerp_(averaged, new, weight=1.0 - decay)
        for averaged_count, count in self._counters:
            averaged_count.copy_(count)

    def averaged(self, model: torch.nn.Module) -> torch.nn.Module:
        """The averaged network."""
        module: torch.nn.Module = self.module
        return module


class Stopped(Exception):  # noqa: N818 -- nothing is wrong: whoever watched the run wanted no more of it
    """A run was stopped by `on_validation`; its states stay."""


@dataclass
class Run:
    """Everything that changes while a fold trains, and so everything that a state holds."""

    model: torch.nn.Module
    """What is called: the training network, within whatever several processes need."""
    network: TrainingNetwork
    """The plain network with the heads of training."""
    average: MovingAverage | WeightAverage | None
    """Averaged weights of the plain network."""
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    organ_weights: torch.Tensor
    """Weight of an example in the loss by the place of its organ, on the device; does not change."""
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Time that they took."""
    rate: float = 0.0
    """Learning rate of the last one, before the groups' factors."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """The log, on the first process."""
    scores: list[float] = field(default_factory=list)
    """Dice of each validation so far, on every process."""

    def averaged(self) -> torch.nn.Module:
        """The weights that are reported and packaged: the averaged ones where there are any."""
        plain = self.network.model
        return plain if self.average is None else self.average.averaged(plain)

    def state(self, digest: str, limit: int | None) -> dict[str, Any]:
        """All of it as plain data and tensors; random numbers are none of it, since each step seeds its own."""
        scaler = self.accelerator.scaler
        return {
            "digest": digest,
            "limit": limit,
            "processes": self.accelerator.num_processes,
            "step": self.step,
            "seconds": self.seconds,
            "rows": self.rows,
            "scores": self.scores,
            "model": self.network.model.state_dict(),
            "heads": self.network.heads.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.rows, self.scores = state["rows"], state["scores"]
        self.network.model.load_state_dict(state["model"])
        self.network.heads.load_state_dict(state["heads"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])


def write_log(rows: list[dict[str, float]], path: Path) -> None:
    """Write log.csv: fixed columns, among them each term of the loss that there is; what was not measured is blank."""
    terms = dict.fromkeys(name for row in rows for name in row if name.startswith("loss_"))
    table = pd.DataFrame(rows, columns=[*FIRST_COLUMNS, *terms, *LAST_COLUMNS])
    table["step"] = table["step"].astype(int)
    write_atomically(path, table.to_csv(index=False, float_format="%.6g"))
