"""Running the trials of a sweep: in this process, or in several that share its study."""

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

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from tqdm import tqdm

from histofold.core.faults import ImageError, InputError
from histofold.core.log import logger
from histofold.schema.experiment import Experiment
from histofold.schema.sweep import SweepConfig, with_settings
from histofold.train.run import Stopped
from histofold.train.sweep.study import NUMBER, WORDS, Sweep, number_of

POLL_S = 1.0


@dataclass(frozen=True)
class Outcome:
    """What a trial reached."""

    score: float
    """What decides, in the study's direction."""
    values: dict[str, float]
    """All that the table says of it: val_dice, loss, steps, seconds, and shift where it decides."""


Report = Callable[[int, float], bool]
Objective = Callable[[Experiment, Path, Report], Outcome]


class TrialEndedError(Exception):
    """A trial has ended by itself and its words stand in the study, or another process has it."""


def run_worker(sweep: Sweep, objective: Objective, on_change: Callable[[], None] = lambda: None) -> None:
    """Run trials until none is left, taking over those whose process is dead.

    While others run the last trials it waits, so that whatever befalls them no trial is lost.

    Args:
        sweep: The study.
        objective: Trains an experiment in a folder; it gives its scores to the third argument as they come and raises
            `Stopped` where that returns True.
        on_change: Called after each trial.

    Raises:
        OSError: If the disk fails: the trial is left to be taken up again.
        ImageError: If an image of the data cannot be read; the same.
        KeyboardInterrupt: The same.
    """
    while sweep.unfinished():
        sweep.take_up_lost()
        if any(trial.state == TrialState.WAITING for trial in sweep.trials()):
            _run_one(sweep, objective)
        else:
            time.sleep(POLL_S)
        on_change()


def _run_one(sweep: Sweep, objective: Objective) -> None:
    """Have Optuna run the next trial that waits."""
    taken_over = False

    def run(attempt: optuna.Trial) -> float:
        nonlocal taken_over
        try:
            return run_trial(sweep, attempt, objective)
        except UpdateFinishedTrialError:
            taken_over = True
            logger.warning("trial %d was taken over by another process", number_of(attempt))
            raise TrialEndedError from None

    try:
        sweep.study.optimize(run, n_trials=1, catch=TrialEndedError)
    except ValueError:  # Optuna would have us end the trial, which another process has done
        if not taken_over:
            raise


def run_trial(sweep: Sweep, attempt: optuna.Trial, objective: Objective) -> float:
    """Run one trial and give its score; one that fails leaves its words in the study.

    Raises:
        TrialPruned: If the pruner has stopped it.
        TrialEndedError: If it has failed, or another attempt stands for it.
        UpdateFinishedTrialError: If another process has taken it over, since this one slept for long.
    """
    if NUMBER not in attempt.user_attrs or not sweep.stands(attempt):
        raise TrialEndedError
    number = number_of(attempt)
    folder = sweep.trial_folder(number)
    reported = set(sweep.storage.get_trial(attempt._trial_id).intermediate_values)

    def report(step: int, score: float) -> bool:
        if step not in reported:  # a trial that went back to its last state sees the same scores again
            reported.add(step)
            attempt.report(score, step)
        return attempt.should_prune()

    try:
        folder.mkdir(parents=True, exist_ok=True)
        experiment = with_settings(sweep.config.experiment, sweep.draw_settings(attempt), str(sweep.folder))
        outcome = objective(experiment, folder, report)
        if not math.isfinite(outcome.score):
            raise InputError(f"{folder}: the score is {outcome.score}; lower optim.lr, or train in fp32")
        for name, value in outcome.values.items():
            attempt.set_user_attr(name, value)
        return outcome.score
    except Stopped:
        raise optuna.TrialPruned from None
    except (OSError, ImageError, UpdateFinishedTrialError):
        raise
    except Exception as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # as torch.save makes of it
            raise KeyboardInterrupt from error
        is_known = isinstance(error, InputError)
        words = str(error) if is_known else f"{type(error).__name__}: {error}"
        logger.warning("trial %d failed: %s", number, words, exc_info=not is_known)
        attempt.set_user_attr(WORDS, words)
        raise TrialEndedError from error


def quiet_optuna() -> None:
    """Pass Optuna's errors on to our log; that trials end, and how, is our own to say."""
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def run_workers(
    folder: Path,
    config: SweepConfig,
    digest: str,
    objective: Objective,
    workers: int = 1,
    address: str = "",
    on_change: Callable[[Sweep], None] = lambda sweep: None,
) -> Sweep:
    """Run a whole sweep, or what is left of it, with a bar over its trials.

    Args:
        folder: runs/S.
        config: The search.
        digest: As `Sweep` takes it.
        objective: As `run_worker` takes it; with several workers it must be picklable.
        workers: Number of processes on this machine; they share its threads, and its GPUs in turn.
        address: As `Sweep` takes it.
        on_change: Called when trials have ended.

    Returns:
        The sweep, finished; unless every worker has ended before.
    """
    quiet_optuna()
    sweep = Sweep(folder, config, digest, address)
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
            _run_processes((folder, config, digest, address), objective, workers, changed)
            changed()
    return sweep


SweepArguments = tuple[Path, SweepConfig, str, str]


def _run_processes(sweep: SweepArguments, objective: Objective, workers: int, on_change: Callable[[], None]) -> None:
    """Start workers, watch them, and pass an interruption on to them."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // workers)
    arguments = (sweep, objective, threads)
    processes = []
    for number in range(workers):
        with _environment(OMP_NUM_THREADS=str(threads), **_gpu(number)):
            process = context.Process(target=_work, args=arguments, name=f"{sweep[0].name}-{number}")
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


def _work(sweep: SweepArguments, objective: Objective, threads: int) -> None:
    """One worker's process."""
    # Out of the terminal's group: its Ctrl-C and the one passed on would be two, and the second ends a step unsaved.
    os.setpgid(0, 0)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    quiet_optuna()
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background job would ignore it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        # The bars of several folds at once would write over each other; the log has kept the real stream.
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
            run_worker(Sweep(*sweep), objective)
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
