"""The learning rate of every step, as a pure function: resuming needs no state of a schedule.

Each schedule gives a share of the peak; all but one_cycle, which rises by itself, are multiplied by a linear warm-up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from histofold.schema.optim import OptimConfig

# An epoch's end that is a whole step in truth may come out a rounding error above it.
EPOCH_TOLERANCE = 1e-9
PLATEAU_GAIN = 1e-4
"""Gain in the validation score over the best so far, below which plateau takes it for none."""
POLY_POWER = 0.9


def learning_rate(
    step: int, steps: int, config: OptimConfig, *, steps_per_epoch: float, scores: Sequence[float] = ()
) -> float:
    """Learning rate of a step.

    Args:
        step: The step, from 0.
        steps: All steps of the run.
        config: Peak, warm-up, schedule and its settings.
        steps_per_epoch: Steps in which as many tiles are drawn as there are (schedule step).
        scores: Validation scores before this step, oldest first, higher is better (schedule plateau).
    """
    if config.schedule == "one_cycle":
        return config.lr * _cycle(step, steps, config.warmup, (config.start_lr, 1.0, config.final_lr))
    warmup = warmup_steps(steps, config)
    ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if config.schedule == "step":
        return config.lr * ramp * config.gamma ** _falls_by_epoch(step, steps_per_epoch, config.step_epochs)
    if config.schedule == "plateau":
        share = config.gamma ** plateau_falls(scores, config.plateau_patience, PLATEAU_GAIN)
        return config.lr * ramp * max(config.final_lr, share)
    return config.lr * ramp * _share_of_peak(step, steps, config, warmup)


def momentum_of(step: int, steps: int, config: OptimConfig) -> float:
    """Momentum (sgd) or first beta (all others) of a step; one_cycle moves it against the learning rate.

    Source: Smith, arXiv:1803.09820.

    Args:
        step: The step, from 0.
        steps: All steps of the run.
        config: Optimiser and schedule.
    """
    high = config.momentum if config.optimizer == "sgd" else config.betas[0]
    if not config.low_momentum:
        return high
    return _cycle(step, steps, config.warmup, (high, config.low_momentum, high))


def warmup_steps(steps: int, config: OptimConfig) -> int:
    """Number of steps that warm up; the last of them is the first one at the peak."""
    return round(config.warmup * steps)


def schedule_table(steps: int, config: OptimConfig, *, steps_per_epoch: float) -> pd.DataFrame:
    """All steps of a run: columns step, lr (that of parameters with the factor 1) and momentum.

    Of plateau it is the rate while every validation gains, since scores are not known beforehand.
    """
    rates = [learning_rate(step, steps, config, steps_per_epoch=steps_per_epoch) for step in range(steps)]
    momenta = [momentum_of(step, steps, config) for step in range(steps)]
    return pd.DataFrame({"step": range(steps), "lr": rates, "momentum": momenta})


def plateau_falls(scores: Sequence[float], patience: int, gain: float) -> int:
    """How often the learning rate has fallen: whenever more than `patience` scores in a row did not gain.

    A score that is not a number gains nothing. Source: the rule of torch.optim.lr_scheduler.ReduceLROnPlateau.

    Args:
        scores: Validation scores, oldest first, higher is better.
        patience: Scores without a gain that are endured.
        gain: A score must exceed the best so far by more than this.
    """
    best, without_gain, falls = -math.inf, 0, 0
    for score in scores:
        if score > best + gain:
            best, without_gain = score, 0
        else:
            without_gain += 1
        if without_gain > patience:
            falls, without_gain = falls + 1, 0
    return falls


def _share_of_peak(step: int, steps: int, config: OptimConfig, warmup: int) -> float:
    """The schedules that look at nothing but the step: constant, multi_step, cosine and poly."""
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "multi_step":
        return config.gamma ** sum(step >= round(share * steps) for share in config.milestones)
    done = max(0, step - warmup)
    if config.schedule == "cosine":  # Loshchilov and Hutter, arXiv:1608.03983, without restarts
        shape = _half_wave(1.0, 0.0, min(1.0, done / max(1, steps - 1 - warmup)))
    else:  # Chen et al., arXiv:1606.00915: the rate would reach its end one step after the last
        shape = max(0.0, 1 - done / max(1, steps - warmup)) ** POLY_POWER
    return config.final_lr + (1 - config.final_lr) * shape


def _falls_by_epoch(step: int, steps_per_epoch: float, step_epochs: float) -> int:
    return math.floor(step / (steps_per_epoch * step_epochs) + EPOCH_TOLERANCE)


def _cycle(step: int, steps: int, rising_share: float, values: tuple[float, float, float]) -> float:
    """Start, peak and end of one cycle, joined by half waves (Smith and Topin, arXiv:1708.07120).

    The places of the peak and the end are those of torch.optim.lr_scheduler.OneCycleLR.
    """
    start, peak, end = values
    peak_step = max(0.0, rising_share * steps - 1)
    if step <= peak_step and peak_step > 0:
        return _half_wave(start, peak, step / peak_step)
    return _half_wave(peak, end, min(1.0, (step - peak_step) / max(1.0, steps - 1 - peak_step)))


def _half_wave(start: float, end: float, progress: float) -> float:
    """Half a cosine from start to end, progress 0 to 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
