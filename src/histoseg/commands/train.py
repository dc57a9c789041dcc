"""`histoseg train experiments/E.toml`: train the folds of an experiment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from histoseg.commands.options import parse_options
from histoseg.core.faults import InputError
from histoseg.report.curves import draw_fold_curves
from histoseg.schema.experiment import Experiment
from histoseg.schema.parse import load_toml
from histoseg.train.loop import make_room, train_fold
from histoseg.train.setup import known_folds, prepare_fold


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train the folds of an experiment; any setting of the file can be overridden by its dotted name."""

    path: tyro.conf.Positional[Path]
    """The experiment, a TOML file; its name without the suffix is the run's name."""
    fold: int | None = None
    """The fold to hold out; all folds, one after the other, where it is not given."""
    resume: bool = False
    """Go on with a run that was interrupted; finished folds are left as they are."""
    limit: int | None = None
    """Train and validate on this many slides only, to see that the model overfits them."""
    runs: Path = Path("runs")
    """Where runs are kept."""
    settings: Annotated[Experiment, tyro.conf.arg(name="")] = field(default_factory=Experiment)
    """The experiment's settings."""


def run(arguments: list[str]) -> int:
    """The verb."""
    path = next((Path(argument) for argument in arguments if argument.endswith(".toml")), None)
    loaded = load_toml(Experiment, path) if path is not None and not {"-h", "--help"} & set(arguments) else Experiment()
    options = (
        parse_options(
            TrainOptions, "train", arguments, TrainOptions(path=path or Path("experiments/E.toml"), settings=loaded)
        )
        if path is not None
        else parse_options(TrainOptions, "train", arguments)
    )
    if options.path.suffix != ".toml":
        raise InputError(f"{options.path}: an experiment is a TOML file: give its whole name, as experiments/E.toml")
    if options.limit is not None and options.limit < 1:
        raise InputError(f"--limit {options.limit} must be at least 1 slide")
    train_experiment(options.settings, options.path.stem, options.runs, options.fold, options.resume, options.limit)
    return 0


def train_experiment(
    experiment: Experiment, name: str, runs: Path, fold: int | None, resume: bool, limit: int | None
) -> None:
    """Train one fold or all of them, every fold's input checked before the first one starts."""
    folds = known_folds(experiment) if fold is None else [fold]
    setups = [prepare_fold(experiment, name, runs, k, limit) for k in folds]
    for setup in setups:
        make_room(setup, resume)
    for setup in setups:
        dice = train_fold(setup, resume)
        if dice is None:  # a helping process of torchrun: the first one tells
            continue
        draw_fold_curves(setup.folder)
        print(f"fold {setup.fold}: Dice {dice:.4f} on {len(setup.validation)} slides, in {setup.folder}")
