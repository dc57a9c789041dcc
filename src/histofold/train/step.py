"""One optimisation step, a function of its number, the seed, the settings and the weights before it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from histofold.core.faults import Fault, InputError, listed_ids
from histofold.models.build import broken_tensors, build_model
from histofold.models.film import organs_seen
from histofold.predict.devices import best_device, best_precision
from histofold.predict.views import normalise_tiles
from histofold.schema.experiment import Experiment
from histofold.train.depthwise import widen_depthwise
from histofold.train.fold import FoldSetup
from histofold.train.losses.total import auxiliary_losses, segmentation_loss
from histofold.train.objects.losses import dense_losses, detector_losses
from histofold.train.objects.targets import detector_targets
from histofold.train.optim import set_rates
from histofold.train.processes import sum_over_processes
from histofold.train.run import Run

Batch = Mapping[str, Any]
"""Of each entry of an example a tensor with a first axis; `boxes` of detectors is a list of tensors."""


def training_step(run: Run, setup: FoldSetup, batches: Iterator[Batch]) -> dict[str, torch.Tensor]:
    """Take one step; gives the losses, averaged over its batches, still on the device: nothing waits for them.

    On a CPU, where there is nothing to wait for, losses that are no numbers stop the run before any weight is changed.

    Raises:
        InputError: If the loss is no number (on a CPU; elsewhere before anything is logged or saved).
    """
    optim, count = setup.experiment.optim, setup.experiment.train.accumulate
    _seed_step(setup.experiment.train.seed, run.step, run.accelerator.process_index)
    run.rate = _set_rates(run, setup)
    if not run.model.training:  # it asks every module
        run.model.train()
    total: dict[str, torch.Tensor] = {}
    for place in range(count):
        is_last = place == count - 1
        # Processes exchange gradients once a step, after the last of its batches.
        with nullcontext() if is_last else run.accelerator.no_sync(run.model):
            losses = batch_losses(run, setup, next(batches))
            run.accelerator.backward(losses["loss"] / count)
        for name, value in losses.items():
            total[name] = total.get(name, 0) + value.detach() / count
    if run.accelerator.device.type == "cpu":
        refuse_non_finite(run, setup, total)
    if optim.clip:
        run.accelerator.clip_grad_norm_(run.model.parameters(), optim.clip)
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.average is not None:
        run.average.update(run.network.model, step=run.step)
    return total


def _set_rates(run: Run, setup: FoldSetup) -> float:
    """Give each group of parameters the learning rate of the coming step; gives that before the groups' factors."""
    steps, optim = setup.experiment.train.steps, setup.experiment.optim
    steps_per_epoch = len(setup.index) / step_images(run, setup)
    return set_rates(run.optimizer, run.step, steps, optim, steps_per_epoch=steps_per_epoch, scores=run.scores)


def step_images(run: Run, setup: FoldSetup) -> int:
    """Images of a step, over all its batches and processes."""
    train = setup.experiment.train
    return train.batch * train.accumulate * run.accelerator.num_processes


def batch_losses(run: Run, setup: FoldSetup, batch: Batch) -> dict[str, torch.Tensor]:
    """All terms of the loss of a batch, and their weighted sum as `loss`."""
    config, activation = setup.experiment.loss, setup.experiment.model.activation
    organs = setup.organs_of(batch["organ"]) if setup.experiment.model.organs else ()
    batch = _on_device(batch, run.accelerator.device)
    images_NCHW = normalise_tiles(batch["image"].permute(0, 3, 1, 2), setup.manifest.preprocessing)
    targets = detector_targets(batch["labels"], batch["boxes"]) if setup.is_detector else None
    with run.accelerator.autocast(), organs_seen(organs):
        outputs: dict[str, Any] = run.model(images_NCHW, targets)
    if targets is not None:
        return detector_losses(outputs, config)
    weights_N = run.organ_weights[batch["organ"]] if config.organ_weights else None
    across = sum_over_processes(run.accelerator)
    if setup.manifest.objects is not None:
        losses = dense_losses(outputs["logits"], batch, config, weights_N=weights_N, across=across)
    else:
        losses = segmentation_loss(
            outputs["logits"], batch["mask"], config, activation=activation, weights_N=weights_N, across=across
        )
    auxiliary = auxiliary_losses(outputs, batch, config, activation, weights_N=weights_N, across=across)
    weights = {"loss_organ": config.organ, "loss_pixel_size": config.pixel_size, "loss_deep": config.deep_supervision}
    for name, value in auxiliary.items():
        losses["loss"] = losses["loss"] + weights[name] * value
    return {**losses, **auxiliary}


def _on_device(batch: Batch, device: torch.device) -> dict[str, Any]:
    """A batch on a device."""

    def moved(values: torch.Tensor) -> torch.Tensor:
        # Apple's GPU reads from memory that may be another batch's by then, where nothing waits for the copy.
        return values.to(device, non_blocking=device.type == "cuda")

    return {name: [moved(v) for v in each] if isinstance(each, list) else moved(each) for name, each in batch.items()}


def refuse_non_finite(run: Run, setup: FoldSetup, losses: Mapping[str, torch.Tensor]) -> None:
    """Stop a run whose loss is no number: from then on no weight would be one.

    Raises:
        InputError: If it is so.
    """
    loss = float(losses["loss"])
    if not np.isfinite(loss):
        rule = f"the loss is {loss} at step {run.step}"
        raise InputError([Fault(f"fold {setup.fold}", str(setup.folder), rule, "lower optim.lr, or train in fp32")])


def refuse_broken_weights(run: Run, setup: FoldSetup) -> None:
    """Stop a run whose last update broke its weights, before they are saved: the states before it stay good.

    Raises:
        InputError: If a weight, or the moving average of one, is no finite number.
    """
    for network in (run.network.model, run.averaged()):
        broken = broken_tensors(network.state_dict())
        if broken:
            rule = f"after step {run.step} weights are no finite numbers: {listed_ids(broken, 3)}"
            raise InputError([Fault(f"fold {setup.fold}", str(setup.folder), rule, "lower optim.lr, or train in fp32")])


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Seed what the network draws (dropout): a resumed run draws the same, and each process its own."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1)))


def bare_step_seconds(experiment: Experiment) -> float:
    """Seconds of one bare optimisation step on this machine, the median of three: network and gradients alone."""
    device = best_device()
    slices = experiment.preprocessing.slices
    model = build_model(experiment.model.architecture, experiment.model.arguments(slices)).to(device)
    model = model.to(memory_format=torch.channels_last)
    side = experiment.augment.crop
    images_NCHW = torch.rand(experiment.train.batch, slices, side, side, device=device)
    times = []
    precision = best_precision(device)
    widen_depthwise(model, device, precision)
    for _ in range(4):  # the first one warms up
        started = time.monotonic()
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            loss = model(images_NCHW).float().square().mean()
        loss.backward()
        times.append(time.monotonic() - started)
    return statistics.median(times[1:])
