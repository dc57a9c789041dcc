"""The folds of an experiment, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from histofold.core.log import logger
from histofold.data.store import known_folds, tile_differences
from histofold.schema.experiment import Experiment
from histofold.train.begin import make_room
from histofold.train.fold import FoldSetup, prepare_fold
from histofold.train.loop import train_fold


def train_experiment(
    experiment: Experiment, name: str, runs: Path, fold: int | None, resume: bool, limit: int | None
) -> Iterator[tuple[FoldSetup, float]]:
    """Train one fold or all of them, every fold's input checked before the first one starts.

    Args:
        experiment: The experiment.
        name: Its name, the folder below `runs`.
        runs: Where runs are kept.
        fold: The fold to hold out; None for all, one after the other.
        resume: Whether to go on with a run that was interrupted.
        limit: Train and validate on this many slides only.

    Yields:
        Each fold once it is trained, with its Dice; nothing in a helping process of torchrun.

    Example:
        >>> for setup, dice in train_experiment(experiment, "E", Path("runs"), None, resume=True, limit=None):
        ...     print(setup.fold, dice)
    """
    folds = known_folds(experiment) if fold is None else [fold]
    setups = [prepare_fold(experiment, name, runs, k, limit) for k in folds]
    for difference in tile_differences(experiment, Path(experiment.data.dataset)):
        logger.warning("%s", difference)
    for setup in setups:
        make_room(setup, resume)
    for setup in setups:
        dice = train_fold(setup, resume)
        if dice is not None:
            yield setup, dice
