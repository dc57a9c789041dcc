"""A fold's run: all that changes while it trains, how it begins, and how it goes on from a state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, set_seed

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.data.changes import changed_inputs
from histofold.models.instances.build import build_network
from histofold.models.weights import load_encoder_weights
from histofold.predict.devices import best_device, best_precision
from histofold.schema.experiment import Experiment
from histofold.schema.files import remove_leftovers, weights_rule, write_atomically
from histofold.schema.parse import load_toml, to_toml
from histofold.schema.run_record import (
    RECORD_NAME,
    RunRecord,
    datasets_beside,
    keeps_settings,
    read_record,
    settings_sha256,
    write_record,
)
from histofold.train.checkpoint import NETWORK_FILES, load_state, newest_state, refuse_other_run, state_paths
from histofold.train.depthwise import widen_depthwise
from histofold.train.fold import FoldSetup
from histofold.train.heads import TrainingNetwork
from histofold.train.log import start_tracker
from histofold.train.optim import MovingAverage, WeightAverage, decay_words, freeze_encoder, make_optimizer
from histofold.train.processes import join_group, restarts, sync_batch_norm
from histofold.train.warm_start import load_initial_weights

PRECISION_NAMES = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    """Score of each validation so far, on every process."""

    def averaged(self) -> torch.nn.Module:
        """The weights that are reported and packaged: the averaged ones where there are any."""
        plain = self.network.model
        return plain if self.average is None else self.average.averaged(plain)

    def state(self, setup: FoldSetup) -> dict[str, Any]:
        """All of it as plain data and tensors; random numbers are none of it, since each step seeds its own."""
        scaler = self.accelerator.scaler
        return {
            "digest": setup.digest,
            "inputs": setup.inputs,
            "limit": setup.limit,
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


def make_room(setup: FoldSetup, resume: bool) -> None:
    """Refuse to overwrite a real run; an overfitting check gives way to anything, a real run to nothing.

    Args:
        setup: The fold.
        resume: Whether to go on with a run; taken for granted where torchrun starts processes again.

    Raises:
        InputError: If the folder holds a real run and `resume` is not asked for.
    """
    resume = resume or restarts() > 0
    setup.folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(setup.folder)
    path = setup.folder / RECORD_NAME
    state = newest_state(setup.folder)
    if path.is_file():
        held_limit, what = read_record(setup.folder).limit, "a finished run"
    elif state is not None:
        held_limit, what = state["limit"], f"a run at step {state['step']}"
    else:
        return
    if held_limit is not None and not (resume and held_limit == setup.limit):
        for old in [*state_paths(setup.folder), *(setup.folder / name for name in NETWORK_FILES), path]:
            old.unlink(missing_ok=True)
    elif not resume:
        remedy = "add --resume to go on with it, or move it away"
        raise InputError([Fault(f"fold {setup.fold}", str(setup.folder), f"holds {what}", remedy)])


def start_run(setup: FoldSetup, resume: bool) -> Run:
    """Build network, heads, averaged weights and optimiser, and go back to the newest state where one is wanted.

    Raises:
        InputError: If the state is of another run, or the weights to start from do not fit.
    """
    experiment = setup.experiment
    accelerator = _make_accelerator(setup)
    set_seed(experiment.train.seed)
    state = load_state(setup.folder, setup.digest, experiment, setup.inputs) if resume or restarts() else None
    network = _make_network(setup, fresh=state is None).to(accelerator.device)
    network = network.to(memory_format=torch.channels_last)
    average = _make_average(network.model, experiment)
    precision = PRECISIONS.get(accelerator.mixed_precision, torch.float32)
    widen_depthwise(network, accelerator.device, precision)
    sync_batch_norm(network, accelerator)
    # The loader is not prepared: the sampler deals the draws out to the processes itself, by global step.
    model, optimizer = accelerator.prepare(network, make_optimizer(network, experiment.optim))
    organ_weights = setup.example_weights().to(accelerator.device)
    run = Run(model, network, average, optimizer, accelerator, organ_weights)
    if state is not None:
        _restore(run, setup, state)
    if accelerator.is_main_process:
        write_atomically(setup.folder / "experiment.toml", to_toml(experiment))
    start_tracker(accelerator, experiment, setup.folder, run.step)
    return run


def _make_accelerator(setup: FoldSetup) -> Accelerator:
    device = best_device()
    train = setup.experiment.train
    if train.precision == "fp16" and device.type == "cpu":  # Accelerate would train in fp32 without a word
        remedy = "set it to bf16, fp32 or auto"
        raise InputError([Fault("train.precision", "experiment", "fp16 needs a GPU, and there is none here", remedy)])
    join_group(device)
    # Accelerate keeps one precision a process, that of its first user, and refuses any other. The state of the process
    # itself, with its group under torchrun, stays.
    AcceleratorState._reset_state()
    precision = best_precision(device) if train.precision == "auto" else PRECISIONS[train.precision]
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=PRECISION_NAMES[precision],
        log_with=train.tracker or None,
        project_dir=setup.folder,
        # No second copy of the gradients.
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )


def _make_network(setup: FoldSetup, fresh: bool) -> TrainingNetwork:
    """The network in its heads; only a fresh one is given the weights that the experiment starts from."""
    config = setup.experiment.model
    plain = build_network(config.architecture, config.arguments(setup.experiment.preprocessing.slices))
    if fresh and setup.initial is not None:
        load_initial_weights(plain, setup.initial)
    elif fresh:
        load_encoder_weights(plain, config)
    freeze_encoder(plain, setup.experiment.optim.encoder_blocks)
    # Of objects coarser maps show the objects themselves; their boundaries would vanish there.
    channels = 1 if setup.manifest.objects is not None else config.classes + (config.activation == "softmax")
    return TrainingNetwork(plain, classes=channels, organs=len(setup.organs), config=setup.experiment.loss)


def _make_average(plain: torch.nn.Module, experiment: Experiment) -> MovingAverage | WeightAverage | None:
    optim = experiment.optim
    if optim.average_from < 1:
        return WeightAverage(plain, experiment.train.steps, optim)
    if words := decay_words(optim.ema, experiment.train.steps):
        logger.warning("%s", words)
    return MovingAverage(plain, optim.ema) if optim.ema else None


def _restore(run: Run, setup: FoldSetup, state: dict[str, Any]) -> None:
    """Go back to a state, on as many processes as it was made by: others would draw other tiles."""
    processes = run.accelerator.num_processes
    if state["processes"] != processes:
        rule = f"the state was made by {state['processes']} processes, not by {processes}"
        remedy = "start as many as then, or train under another name"
        raise InputError([Fault(f"fold {setup.fold}", str(setup.folder), rule, remedy)])
    _refuse_other_scores(setup)
    run.restore(state)
    logger.info("fold %d goes on at step %d", setup.fold, run.step)


def _refuse_other_scores(setup: FoldSetup) -> None:
    """Refuse to go on with other prediction settings where the learning rate follows the scores that they give."""
    path = setup.folder / "experiment.toml"
    if setup.experiment.optim.schedule != "plateau" or not path.is_file():
        return
    before, now = load_toml(Experiment, path), setup.experiment
    if (before.predict, before.objects) != (now.predict, now.objects):
        rule = "the learning rate follows validation scores, and [predict] or [objects], which decide them, has changed"
        raise InputError([Fault(f"fold {setup.fold}", str(path), rule, "undo the change, or train under another name")])


def refuse_other_finished_run(setup: FoldSetup) -> None:
    """Refuse to call a run finished that has other settings.

    Raises:
        InputError: With the settings that differ.
    """
    if (setup.folder / RECORD_NAME).is_file():
        record = read_record(setup.folder)
        if record.digest != setup.digest:
            changed = changed_inputs(record.inputs, setup.inputs)
            refuse_other_run(setup.folder, changed, setup.experiment, "the finished run")


def is_finished(setup: FoldSetup) -> bool:
    """Whether this very run has come to its end."""
    files = [setup.folder / name for name in (RECORD_NAME, "model.safetensors")]
    if not all(path.is_file() for path in files) or read_record(setup.folder).digest != setup.digest:
        return False
    if rule := weights_rule(files[1]):
        logger.warning("%s: %s: it is made again from the last state", files[1], rule)
    return not rule


def record_fold(setup: FoldSetup, **results: Any) -> None:
    """Write run.json, which makes a fold finished; `results` are the fields of `RunRecord` that its training gave."""
    record = RunRecord(
        digest=setup.digest,
        fold=setup.fold,
        limit=setup.limit,
        competition=setup.competition.name,
        metric=setup.metric,
        manifest=setup.manifest,
        architecture=setup.experiment.model.architecture,
        arguments=setup.experiment.model.arguments(setup.experiment.preprocessing.slices),
        inputs=setup.inputs,
        folds=setup.folds,
        datasets=datasets_beside(setup.experiment, setup.folder),
        settings_sha256=settings_sha256(setup.experiment),
        **results,
    )
    write_record(setup.folder, record)


def refresh_record(setup: FoldSetup) -> float:
    """Bring a finished fold's settings of prediction up to date, which decide no weights; gives its score."""
    record = read_record(setup.folder)
    changed = record.manifest != setup.manifest
    if changed:
        logger.info("fold %d: prediction settings changed; evaluate the run anew", setup.fold)
    if changed or not keeps_settings(setup.folder, record):
        digest = settings_sha256(setup.experiment)
        write_record(setup.folder, replace(record, manifest=setup.manifest, settings_sha256=digest))
        write_atomically(setup.folder / "experiment.toml", to_toml(setup.experiment))
    return record.dice
