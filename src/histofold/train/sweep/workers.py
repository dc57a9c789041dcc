"""Running the trials of a sweep: in this process, or in several that share the study on disk."""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState
from tqdm import tqdm

from histofold.core.faults import ImageError, InputError
from histofold.core.log import logger
from histofold.schema.experiment import Experiment
from histofold.schema.sweep import SweepConfig, with_settings
from histofold.train.state import Stopped
from histofold.train.sweep.study import Claim, Sweep

POLL_S = 1.0


@dataclass(frozen=True)
class Outcome:
    """What a trial reached.

    Attributes:
        score: What decides, in the study's direction.
        values: All that the table tells of it: val_dice, loss, steps, seconds.
    """

    score: float
    values: dict[str, float]


Report = Callable[[int, float], bool]
Objective = Callable[[Experiment, Path, Report], Outcome]


class LeaseLostError(Exception):
    """Another process has taken the trial over: this one slept for minutes, and must not write any more."""


def run_worker(sweep: Sweep, objective: Objective, on_change: Callable[[], None] = lambda: None) -> None:
    """Run trials until none is left, taking over those whose process has ended.

    While others run the last trials it waits, so that whatever befalls them no trial is lost.

    Args:
        sweep: The study.
        objective: Trains an experiment in a folder; it gives its scores to the third argument as they come and raises
            `Stopped` where that returns True.
        on_change: Called after each trial.

    Raises:
        OSError: If the disk fails: the trial stays as it is, to be taken up again.
        ImageError: If an image of the data cannot be read; the same.
        KeyboardInterrupt: The same.
    """
    while True:
        claim = sweep.claim()
        if claim is not None:
            try:
                run_trial(sweep, claim, objective)
            finally:
                claim.lease.release()
        elif sweep.unfinished():
            time.sleep(POLL_S)
        else:
            return
        on_change()


def run_trial(sweep: Sweep, claim: Claim, objective: Objective) -> None:
    """Run one trial and tell the study how it ended; a trial that fails is recorded with its words."""
    number = claim.trial.number
    reported = set(sweep.trials()[number].intermediate_values)

    def report(step: int, score: float) -> bool:
        if not claim.lease.held():
            raise LeaseLostError
        if step not in reported:  # a trial that went back to its last state sees the same scores again
            reported.add(step)
            claim.trial.report(score, step)
        return claim.trial.should_prune()

    try:
        experiment = with_settings(sweep.config.experiment, claim.settings, str(sweep.folder))
        outcome = objective(experiment, claim.folder, report)
        if not math.isfinite(outcome.score):
            raise InputError(f"{claim.folder}: the score is {outcome.score}; lower optim.lr, or train in fp32")
    except Stopped:
        _tell(sweep, claim, TrialState.PRUNED)
    except LeaseLostError:
        logger.warning("trial %d was taken over by another process", number)
    except (OSError, ImageError):
        raise
    except Exception as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # as torch.save makes of it
            raise KeyboardInterrupt from error
        known = isinstance(error, InputError)
        words = str(error) if known else f"{type(error).__name__}: {error}"
        logger.warning("trial %d failed: %s", number, words, exc_info=not known)
        _tell(sweep, claim, TrialState.FAIL, {"words": words})
    else:
        _tell(sweep, claim, TrialState.COMPLETE, outcome.values, outcome.score)


def _tell(
    sweep: Sweep, claim: Claim, state: TrialState, values: dict[str, Any] | None = None, score: float | None = None
) -> None:
    if not claim.lease.held():
        logger.warning("trial %d was taken over by another process", claim.trial.number)
        return
    for name, value in (values or {}).items():
        claim.trial.set_user_attr(name, value)
    sweep.study.tell(claim.trial, score, state)


def quiet_optuna() -> None:
    """Pass Optuna's warnings on to our log, and none of its chatter."""
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def run_workers(
    folder: Path,
    config: SweepConfig,
    digest: str,
    objective: Objective,
    workers: int = 1,
    on_change: Callable[[Sweep], None] = lambda sweep: None,
) -> Sweep:
    """Run a whole sweep, or what is left of it, with a bar over its trials.

    Args:
        folder: runs/S.
        config: The search.
        digest: As `Sweep` takes it.
        objective: As `run_worker` takes it; with several workers it must be picklable.
        workers: Number of processes on this machine; they share its threads, and its GPUs in turn.
        on_change: Called when trials have ended.

    Returns:
        The sweep, finished; unless every worker has ended before.
    """
    quiet_optuna()
    sweep = Sweep(folder, config, digest)
    with tqdm(total=config.size(), desc=folder.name, unit="trial", dynamic_ncols=True) as bar:

        def changed() -> None:
            finished = len(sweep.trials()) - len(sweep.unfinished())
            if finished != bar.n:
                bar.n = finished
                bar.refresh()
                on_change(sweep)

        changed()
        if workers == 1:
            run_worker(sweep, objective, changed)
        elif sweep.unfinished():
            _run_processes(folder, config, digest, objective, workers, changed)
            changed()
    return sweep


def _run_processes(
    folder: Path,
    config: SweepConfig,
    digest: str,
    objective: Objective,
    workers: int,
    on_change: Callable[[], None],
) -> None:
    """Start workers, watch them, and pass an interruption on to them."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // workers)
    arguments = (folder, config, digest, objective, threads)
    processes = []
    for number in range(workers):
        with _environment(OMP_NUM_THREADS=str(threads), **_gpu(number)):
            process = context.Process(target=_work, args=arguments, name=f"{folder.name}-{number}")
            process.start()
        processes.append(process)
    try:
        while alive := [process.sentinel for process in processes if process.is_alive()]:
            wait(alive, timeout=POLL_S)
            on_change()
    finally:
        for process in processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGINT)
        for process in processes:
            process.join()
    for process in processes:
        if process.exitcode:
            logger.warning("worker %s ended with code %s", process.name, process.exitcode)


def _work(folder: Path, config: SweepConfig, digest: str, objective: Objective, threads: int) -> None:
    """One worker's process."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    quiet_optuna()
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background job would ignore it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        # The bars of several folds at once would write over each other; the log has kept the real stream.
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
            run_worker(Sweep(folder, config, digest), objective)
    except (OSError, InputError, ImageError) as error:
        logger.error("%s", error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _end_with_parent() -> None:
    """Interrupt this process when the one that started it is gone, so that no worker goes on unseen."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGINT)


def _gpu(number: int) -> dict[str, str]:
    """The GPU of a worker, where there are several."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = listed.split(",") if listed else [str(device) for device in range(torch.cuda.device_count())]
    return {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if len(devices) > 1 else {}


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables for the processes that are started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
