"""What changes while a fold trains: networks, optimiser, step and log."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3

from histoseg.schema.atomic import write_atomically

LOG_COLUMNS = (
    *("step", "epoch", "lr", "loss", "loss_bce", "loss_dice", "val_loss", "val_dice", "val_dice_raw"),
    *("images_per_s", "seconds"),
)


@dataclass
class Run:
    """Everything that changes while a fold trains, and so everything that a state holds."""

    model: torch.nn.Module
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    step: int = 0
    seconds: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)

    def averaged(self) -> torch.nn.Module:
        """The weights that are reported and packaged: the averaged ones where there are any."""
        return self.ema.module if self.ema is not None else self.accelerator.unwrap_model(self.model)

    def state(self, digest: str, limit: int | None) -> dict[str, Any]:
        """All of it as plain data and tensors."""
        scaler = self.accelerator.scaler
        return {
            "digest": digest,
            "limit": limit,
            "step": self.step,
            "seconds": self.seconds,
            "rows": self.rows,
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.step, self.seconds, self.rows = state["step"], state["seconds"], state["rows"]
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])


def write_log(rows: list[dict[str, float]], path: Path) -> None:
    """Write log.csv; what was not measured at a step is left blank."""
    table = pd.DataFrame(rows, columns=list(LOG_COLUMNS))
    table["step"] = table["step"].astype(int)
    write_atomically(path, table.to_csv(index=False, float_format="%.6g"))
