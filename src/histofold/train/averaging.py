"""Averages of weights along a run: moving (EMA) or equal (SWA)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from timm.utils import ModelEmaV3

from histofold.schema.optim import OptimConfig


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


class WeightAverage:
    """The mean of the weights that a run had at its later steps (Izmailov 2018, arXiv:1803.05407).

    Every floating tensor is averaged, also the running statistics of batch normalisation: the paper estimates these
    anew on training data afterwards, which costs a pass and would depend on which tiles it draws. Counters are copied.
    """

    def __init__(self, model: torch.nn.Module, steps: int, config: OptimConfig) -> None:
        """Prepare.

        Args:
            model: The network, whose weights are copied.
            steps: All steps of the run; the weights after the last one are always among those averaged.
            config: `average_from` and `average_every`.
        """
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.count = 0
        self._steps, self._every = steps, config.average_every
        self._start = min(round(config.average_from * steps), steps - 1)

    def update(self, model: torch.nn.Module, step: int) -> None:
        """Take in the weights after a step (from 0), where it is one of those averaged; others change nothing."""
        done = step + 1
        if done <= self._start or (self._steps - done) % self._every:
            return
        self.count += 1
        with torch.no_grad():
            averaged, new = self.module.state_dict(), model.state_dict()
            names = [name for name, tensor in averaged.items() if tensor.is_floating_point()]
            # The first weights replace the copy: a weight of 1 makes lerp exact.
            torch._foreach_lerp_([averaged[name] for name in names], [new[name] for name in names], 1 / self.count)
            for name in averaged.keys() - set(names):
                averaged[name].copy_(new[name])

    def averaged(self, model: torch.nn.Module) -> torch.nn.Module:
        """The averaged network; before the first weights are taken in, the one that trains."""
        return self.module if self.count else model

    def state_dict(self) -> dict[str, Any]:
        """All that changes, as plain data and tensors."""
        return {"count": self.count, "module": self.module.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state, to the bit."""
        self.count = int(state["count"])
        self.module.load_state_dict(state["module"])
