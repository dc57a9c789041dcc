"""`histofold train experiments/E.toml`: train the folds of an experiment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from histofold.commands import parse_options
from histofold.commands.launch import LauncherOptions, run_jobs, without_options
from histofold.core.faults import Fault, InputError
from histofold.schema.experiment import (
    AugmentConfig,
    DataConfig,
    Experiment,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    with_moved_data,
)
from histofold.schema.kinds import require_kind
from histofold.schema.parse import load_toml

if TYPE_CHECKING:
    from histofold.train.fold import FoldSetup


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
    show_schedule: Path | None = None
    """Draw learning rate, momentum and averages over the run into this PNG, and train nothing."""
    show_views: Path | None = None
    """Draw what the network is shown of some tiles into this PNG, and train nothing."""
    jobs: Annotated[LauncherOptions, tyro.conf.arg(name="")] = field(default_factory=LauncherOptions)
    """A job for each fold instead of this process."""
    settings: Annotated[Experiment, tyro.conf.arg(name="")] = field(default_factory=Experiment)
    """The experiment's settings."""


_named = tyro.conf.arg


@dataclass(frozen=True, kw_only=True)
class ShortHelp(TrainOptions):
    """Train the folds of an experiment; any setting of the file can be overridden by its dotted name.

    The settings that are changed most; --help-all shows every one.
    """

    settings: tyro.conf.Suppress[Experiment] = field(default_factory=Experiment)
    help_all: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show every setting, and train nothing."""
    dataset: Annotated[str, _named(name="data.dataset")] = DataConfig.dataset
    """Folder that `histofold build` has written."""
    architecture: Annotated[str, _named(name="model.architecture")] = ModelConfig.architecture
    """Network family: unet, unetplusplus, deeplabv3plus, segformer, upernet, ..."""
    encoder: Annotated[str, _named(name="model.encoder")] = ModelConfig.encoder
    """Encoder: resnet34, tu-tf_efficientnet_lite0, tu-convnext_tiny, ...; empty: the family's usual one."""
    encoder_weights: Annotated[str, _named(name="model.encoder-weights")] = ModelConfig.encoder_weights
    """What the encoder starts from: none, shipped, imagenet (of the hub) or file:PATH."""
    preset: Annotated[str, _named(name="augment.preset")] = AugmentConfig.preset
    """Augmentation: none, light, medium or strong."""
    lr: Annotated[float, _named(name="optim.lr")] = OptimConfig.lr
    """Peak learning rate."""
    steps: Annotated[int, _named(name="train.steps")] = TrainConfig.steps
    """Optimisation steps of a fold."""
    batch: Annotated[int, _named(name="train.batch")] = TrainConfig.batch
    """Tiles of a step on each process."""
    workers: Annotated[int, _named(name="train.workers")] = TrainConfig.workers
    """Loader processes; results do not depend on it."""
    seed: Annotated[int, _named(name="train.seed")] = TrainConfig.seed
    """Seed of weights, sampling and augmentation."""


def run(arguments: list[str]) -> int:
    """The verb."""
    if wanted := {"-h", "--help", "--help-all"} & set(arguments):
        parse_options(TrainOptions if "--help-all" in wanted else ShortHelp, "train", ["--help"])  # ends the program
    path = next((Path(argument) for argument in arguments if argument.endswith(".toml")), None)
    default = None
    if path is not None:  # what the command line leaves out has the file's values
        require_kind(path, "experiment")
        default = TrainOptions(path=path, settings=load_toml(Experiment, path))
    options = parse_options(TrainOptions, "train", arguments, default)
    if options.path.suffix != ".toml":
        require_kind(options.path, "experiment")
        raise InputError(f"{options.path}: an experiment is a TOML file: give its whole name, as experiments/E.toml")
    options = replace(options, settings=with_moved_data(options.settings, options.path))
    if options.limit is not None and options.limit < 1:
        raise InputError(f"--limit {options.limit} must be at least 1 slide")
    if options.show_schedule is not None:
        show_schedule(options, options.show_schedule)
        return 0
    if options.show_views is not None:
        show_views(options, options.show_views)
        return 0
    from histofold.data.store import check_experiment

    check_experiment(options.settings, options.fold)  # torch takes seconds to load, and a mistake shows without it
    if options.jobs.launcher != "here":
        _train_in_jobs(options, arguments)
        options = replace(options, resume=True)  # all is trained: what follows reads it
    from histofold.report.graphs.run import draw_fold_curves
    from histofold.train.loop import train_experiment

    trained = train_experiment(
        options.settings, options.path.stem, options.runs, options.fold, options.resume, options.limit
    )
    for setup, dice in trained:
        draw_fold_curves(setup.folder)
        print(setup.score_words(dice))
    if options.settings.train.steps == 0:
        run_folder = options.runs / options.path.stem
        print(f"weights as they were published, in {run_folder}: `histofold evaluate {run_folder}` scores them")
    return 0


def _train_in_jobs(options: TrainOptions, arguments: list[str]) -> None:
    """Train the folds in jobs; with --resume, since a job that had to go comes back with the same command."""
    from histofold.data.store import known_folds

    command = ["train", *without_options(arguments, "--fold")]
    command += [] if options.resume else ["--resume"]
    folds = known_folds(options.settings) if options.fold is None else [options.fold]
    pieces = {f"fold {fold}": [*command, "--fold", str(fold)] for fold in folds}
    run_jobs(pieces, options.runs / options.path.stem / "jobs", options.jobs)


def show_schedule(options: TrainOptions, path: Path) -> None:
    """Draw the schedule of one process; in steps alone where no dataset is built that says how long an epoch is.

    Raises:
        InputError: If the file is no PNG, nothing is trained, or the schedule counts epochs and there is no dataset.
    """
    _refuse_no_png("--show-schedule", path)
    from histofold.report.graphs.schedule import plot_schedule
    from histofold.train.schedule import schedule_table

    experiment = options.settings
    optim, train, dataset = experiment.optim, experiment.train, Path(experiment.data.dataset)
    if train.steps == 0:
        raise InputError(f"--show-schedule: {experiment.model.architecture} is not trained: there is no schedule")
    steps_per_epoch = None
    if (dataset / "dataset.json").is_file():
        steps_per_epoch = len(_shown_fold(options).index) / (train.batch * train.accumulate)
    elif optim.schedule == "step":
        remedy = "build the dataset first, or choose multi_step, which counts shares of the run"
        raise InputError([Fault("optim.schedule", str(dataset), "`step` counts epochs and no dataset is here", remedy)])
    table = schedule_table(train.steps, optim, steps_per_epoch=steps_per_epoch or train.steps)
    plot_schedule(table, optim, steps_per_epoch=steps_per_epoch, path=path)
    print(f"schedule of {train.steps} steps: {path}")


def show_views(options: TrainOptions, path: Path) -> None:
    """Draw some training tiles of the fold as they were cut and as augmentation and normalisation show them.

    Raises:
        InputError: If the file is no PNG, or the fold cannot be trained.
    """
    _refuse_no_png("--show-views", path)
    from histofold.report.pictures.overlays import save_png
    from histofold.report.pictures.views import draw_view_sheet, spread_tiles
    from histofold.train.dataset import training_tiles

    setup = _shown_fold(options)
    tiles = training_tiles(setup, keep=False)
    save_png(path, draw_view_sheet(tiles, spread_tiles(setup.index), setup.manifest.preprocessing, setup.organs))
    print(f"what the network is shown of fold {setup.fold}: {path}")


def _refuse_no_png(option: str, path: Path) -> None:
    """Refuse a picture's name before anything is computed for it."""
    if path.suffix != ".png":
        raise InputError(f"{option} {path}: the picture is a PNG: give a name that ends in .png")


def _shown_fold(options: TrainOptions) -> FoldSetup:
    """The fold that is asked for, else the first one."""
    from histofold.data.store import known_folds
    from histofold.train.fold import prepare_fold

    fold = known_folds(options.settings)[0] if options.fold is None else options.fold
    return prepare_fold(options.settings, options.path.stem, options.runs, fold, options.limit)
