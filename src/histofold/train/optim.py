"""Optimisers, their groups of parameters, the rates that a step gives them, and averages of weights along a run."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.optim import Lookahead
from timm.utils import ModelEmaV3

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


def freeze_encoder(network: torch.nn.Module, blocks: int) -> None:
    """Let an encoder train its last blocks alone, in place; neither gradients nor the optimiser know the rest.

    Args:
        network: It has an `encoder`; a transformer's blocks stand in `encoder.model.blocks`.
        blocks: How many; -1 leaves all as it is, 0 freezes all of it.

    Raises:
        InputError: If it has no such blocks, or statistics that would go on changing.
    """
    if blocks < 0:
        return
    setting, fault = f"optim.encoder_blocks={blocks}", ""
    encoder: Any = network.encoder
    stack = getattr(getattr(encoder, "model", None), "blocks", [])
    if any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in encoder.modules()):
        fault = "the encoder's batch normalisation would go on changing: set it to -1, and encoder_lr_factor = 0"
    elif blocks > len(stack):
        fault = f"the encoder has {len(stack)} blocks that follow each other: set it to -1, or to 0 to {len(stack)}"
    if fault:
        raise InputError(f"{setting}: {fault}")
    encoder.requires_grad_(False)
    for block in list(stack)[len(stack) - blocks :]:
        block.requires_grad_(True)


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


class MovingAverage(ModelEmaV3):
    """timm's exponential moving average of the weights, which keeps the lists of tensors instead of asking each step.

    With the methods of `WeightAverage`.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        # A plain mean of the steps so far until it is as long as the decay means: 1 / (1 - decay) steps.
        super().__init__(model, decay=decay, use_warmup=True, warmup_power=1.0)
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


def decay_words(decay: float, steps: int) -> str:
    """Where a moving average ends in a run that is too short for its decay; empty where the decay is reached."""
    if not decay or steps * (1 - decay) >= 1:
        return ""
    reached = 1 - 1 / max(1, steps - 1)
    return f"optim.ema={decay:g} wants {1 / (1 - decay):.0f} steps and there are {steps}: it ends at {reached:.4g}"


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
