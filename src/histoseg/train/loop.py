"""The training loop of one fold.

It counts optimisation steps, not seconds, and every draw, augmentation and rate is a function of the step, so that the
same seed gives the same weights, interrupted or not.
"""

from __future__ import annotations

import json
import time

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from timm.utils import ModelEmaV3
from tqdm import tqdm

from histoseg.competitions.base import runs_dice
from histoseg.core.faults import Fault, InputError
from histoseg.core.log import logger
from histoseg.models.build import build_model
from histoseg.models.weights import load_encoder_weights
from histoseg.predict.ensemble import Ensemble, best_device, best_precision, normalise_tiles
from histoseg.predict.image import predict_masks
from histoseg.schema.atomic import write_atomically
from histoseg.schema.parse import plain, to_toml
from histoseg.schema.sample import Sample
from histoseg.train.checkpoint import load_state, newest_state, save_state, save_weights, state_paths
from histoseg.train.dataset import make_loader
from histoseg.train.initial import load_initial_weights
from histoseg.train.losses import segmentation_loss
from histoseg.train.optim import learning_rate, make_optimizer
from histoseg.train.run import Run, write_log
from histoseg.train.setup import FoldSetup, training_order, training_tiles

LOG_EVERY = 10
PRECISION_NAMES = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train_fold(setup: FoldSetup, resume: bool) -> float | None:
    """Train one fold to its end and return the mean Dice of the averaged weights on the held-out slides.

    Under torchrun only the first process validates; the others return None.

    Raises:
        InputError: If the folder holds another run and `resume` is not asked for.
    """
    config = setup.experiment.train
    make_room(setup, resume)
    if (setup.folder / "run.json").is_file() and not _finished(setup):
        rule = "holds a finished run with other settings or another dataset"
        remedy = "undo the change, or train under another name"
        raise InputError([Fault(f"fold {setup.fold}", str(setup.folder), rule, remedy)])
    if _finished(setup):
        logger.info("fold %d is finished already", setup.fold)
        return _refresh_record(setup)
    run = _start(setup, resume)
    sampler = training_order(setup, run.step, run.accelerator.process_index, run.accelerator.num_processes)
    dataset = training_tiles(setup, keep=run.accelerator.is_main_process)
    batches = iter(make_loader(dataset, sampler, config.batch, config.workers))
    bar = tqdm(
        total=config.steps,
        initial=run.step,
        desc=f"fold {setup.fold}",
        unit="step",
        dynamic_ncols=True,
        disable=not run.accelerator.is_main_process,
    )
    while run.step < config.steps:
        started = time.monotonic()
        losses = _train_step(run, setup, next(batches))
        run.step += 1
        run.seconds += time.monotonic() - started
        bar.update()
        if run.step % LOG_EVERY == 0 or run.step == config.steps:
            _log_step(run, setup, losses, started)
            bar.set_postfix(loss=f"{run.rows[-1]['loss']:.3f}")
        if run.step % config.validate_every == 0 and run.step < config.steps:
            _validate(run, setup, config.validate_images)
        if run.step % config.save_every == 0 or run.step == config.steps:
            _save(run, setup)
    bar.close()
    return _finish(run, setup)


def make_room(setup: FoldSetup, resume: bool) -> None:
    """Refuse to overwrite a real run; an overfitting check gives way to anything, a real run to nothing.

    Raises:
        InputError: If the folder holds a real run and `resume` is not asked for.
    """
    setup.folder.mkdir(parents=True, exist_ok=True)
    record = setup.folder / "run.json"
    state = newest_state(setup.folder)
    if record.is_file():
        held_limit, what = json.loads(record.read_text(encoding="utf-8"))["limit"], "a finished run"
    elif state is not None:
        held_limit, what = state["limit"], f"a run at step {state['step']}"
    else:
        return
    if held_limit is not None and not (resume and held_limit == setup.limit):
        for path in [*state_paths(setup.folder), setup.folder / "model.safetensors", record]:
            path.unlink(missing_ok=True)
    elif not resume:
        remedy = "add --resume to go on with it, or move it away"
        raise InputError([Fault(f"fold {setup.fold}", str(setup.folder), f"holds {what}", remedy)])


def _finished(setup: FoldSetup) -> bool:
    """Whether this very run has come to its end."""
    path = setup.folder / "run.json"
    if not path.is_file() or not (setup.folder / "model.safetensors").is_file():
        return False
    return json.loads(path.read_text(encoding="utf-8"))["digest"] == setup.digest


def _refresh_record(setup: FoldSetup) -> float:
    """Bring a finished fold's prediction settings up to date (its weights do not depend on them); gives its Dice."""
    path = setup.folder / "run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    manifest = plain(setup.manifest)
    if record["manifest"] != manifest:
        logger.info("fold %d: prediction settings changed; evaluate the run anew", setup.fold)
        write_atomically(path, json.dumps({**record, "manifest": manifest}, indent=2) + "\n")
        write_atomically(setup.folder / "experiment.toml", to_toml(setup.experiment))
    return float(record["dice"])


def _start(setup: FoldSetup, resume: bool) -> Run:
    """Build network, averaged weights and optimiser, and go back to the newest state where one is wanted."""
    experiment = setup.experiment
    device = best_device()
    wanted = experiment.train.precision
    precision = best_precision(device) if wanted == "auto" else PRECISIONS[wanted]
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=PRECISION_NAMES[precision])
    set_seed(experiment.train.seed)
    arguments = experiment.model.arguments()
    model = build_model(experiment.model.architecture, arguments)
    state = load_state(setup.folder, setup.digest) if resume else None
    if state is None and setup.initial is not None:
        load_initial_weights(model, setup.initial)
    elif state is None:
        load_encoder_weights(model, experiment.model)
    model = model.to(accelerator.device).to(memory_format=torch.channels_last)
    ema = ModelEmaV3(model, decay=experiment.optim.ema, use_warmup=True) if experiment.optim.ema else None
    optimizer = make_optimizer(model, experiment.optim)
    # The loader is not prepared: the sampler deals the draws out to the processes itself, by global step.
    model, optimizer = accelerator.prepare(model, optimizer)
    run = Run(model, ema, optimizer, accelerator)
    if state is not None:
        run.restore(state)
        logger.info("fold %d goes on at step %d", setup.fold, run.step)
    if accelerator.is_main_process:
        write_atomically(setup.folder / "experiment.toml", to_toml(experiment))
    return run


def _train_step(run: Run, setup: FoldSetup, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One optimisation step; gives the losses, still on the device, so that the step does not wait for them."""
    optim = setup.experiment.optim
    rate = learning_rate(run.step, setup.experiment.train.steps, optim)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    device = run.accelerator.device
    images_NHWC, masks_NHW = (part.to(device, non_blocking=True) for part in batch)
    images_NCHW = normalise_tiles(images_NHWC.permute(0, 3, 1, 2), setup.manifest.preprocessing)
    run.model.train()
    with run.accelerator.autocast():
        logits_NKHW = run.model(images_NCHW)
    losses = segmentation_loss(logits_NKHW, masks_NHW[:, None].float(), setup.experiment.loss)
    run.accelerator.backward(losses["loss"])
    if optim.clip:
        run.accelerator.clip_grad_norm_(run.model.parameters(), optim.clip)
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.ema is not None:
        run.ema.update(run.accelerator.unwrap_model(run.model), step=run.step)
    return {name: value.detach() for name, value in losses.items()}


def _log_step(run: Run, setup: FoldSetup, losses: dict[str, torch.Tensor], started: float) -> None:
    config = setup.experiment.train
    images = config.batch * run.accelerator.num_processes
    values = {name: float(value) for name, value in losses.items()}
    if not np.isfinite(values["loss"]):
        rule = f"the loss is {values['loss']} at step {run.step}"
        raise InputError([Fault(f"fold {setup.fold}", str(setup.folder), rule, "lower optim.lr, or train in fp32")])
    run.rows.append(
        {
            "step": run.step,
            "epoch": run.step * images / len(setup.index),
            "lr": run.optimizer.param_groups[0]["lr"],
            **values,
            "images_per_s": images / (time.monotonic() - started),
            "seconds": run.seconds,
        }
    )


def _validate(run: Run, setup: FoldSetup, most: int | None) -> dict[str, float]:
    """Dice of held-out slides with the averaged weights, noted in the log; the slides are spread evenly."""
    if not run.accelerator.is_main_process:
        return {}
    samples = setup.validation
    if most is not None and len(samples) > most:
        samples = [samples[i] for i in np.linspace(0, len(samples) - 1, most).round().astype(int)]
    by_id = validate_slides(run.averaged(), setup, samples)
    if not run.rows or run.rows[-1]["step"] != run.step:
        run.rows.append({"step": run.step})
    run.rows[-1]["val_dice"] = float(np.mean(list(by_id.values())))
    return by_id


def validate_slides(model: torch.nn.Module, setup: FoldSetup, samples: list[Sample]) -> dict[str, float]:
    """Dice of whole slides through the predict layer, at the threshold 0.5."""
    device = next(model.parameters()).device
    was_training = model.training
    precision = best_precision(device)
    preprocessing = setup.manifest.preprocessing
    ensemble = Ensemble([model.eval()], [1.0], preprocessing, setup.manifest.views, device, precision)
    by_id = {}
    for sample in tqdm(samples, desc="validate", unit="slide", leave=False, dynamic_ncols=True):
        (runs,) = predict_masks(ensemble, sample, setup.manifest, [0.5], setup.competition.never_empty)
        by_id[sample.id] = runs_dice(runs, setup.competition.target(sample))
    model.train(was_training)
    return by_id


def _save(run: Run, setup: FoldSetup) -> None:
    if run.accelerator.is_main_process:
        save_state(setup.folder, run.step, run.state(setup.digest, setup.limit))
        write_log(run.rows, setup.folder / "log.csv")
    run.accelerator.wait_for_everyone()


def _finish(run: Run, setup: FoldSetup) -> float | None:
    """Validate on all held-out slides, then write weights, log and run.json, which makes the run finished."""
    by_id = _validate(run, setup, None)
    if not run.accelerator.is_main_process:
        return None
    dice = float(np.mean(list(by_id.values())))
    seen = [(row["val_dice"], row["step"]) for row in run.rows if "val_dice" in row]
    write_log(run.rows, setup.folder / "log.csv")
    save_weights(run.averaged(), setup.folder / "model.safetensors")
    record = {
        "digest": setup.digest,
        "fold": setup.fold,
        "limit": setup.limit,
        "competition": setup.competition.name,
        "steps": run.step,
        "seconds": round(run.seconds, 1),
        "dice": dice,
        "best_dice_optimistic": max(seen)[0],
        "best_step": int(max(seen)[1]),
        "dice_by_id": by_id,
        "trained_on": setup.trained_on,
        "manifest": plain(setup.manifest),
        "architecture": setup.experiment.model.architecture,
        "arguments": setup.experiment.model.arguments(),
    }
    write_atomically(setup.folder / "run.json", json.dumps(record, indent=2) + "\n")
    return dice
