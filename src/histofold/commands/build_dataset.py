"""`python build_dataset.py --data DIR`: from the raw folder to folds, tiles and a report."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tyro

from histofold.commands import own_cores
from histofold.commands.launch import LauncherOptions, run_jobs, without_options
from histofold.core.faults import InputError
from histofold.schema.experiment import Experiment
from histofold.schema.kinds import require_kind
from histofold.schema.parse import load_toml


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Check a competition folder, make its folds, cut its tiles."""

    data: Path
    """The competition folder."""
    competition: str = ""
    """Name of the adapter; detected where it is not given."""
    out: Path = Path("dataset")
    """Where to write folds.csv, index.csv, tiles and dataset_report.html."""
    folds: Path | None = None
    """A folds.csv to read and keep; without it folds are made."""
    experiment: Path | None = None
    """An experiment whose scale and tiles are wanted; without it the defaults."""
    overwrite: bool = False
    """Build over the dataset of another folder, which is lost."""
    workers: int = own_cores()
    """Processes that cut tiles."""
    num_folds: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    """Number of folds, instead of the experiment's."""
    fold_by: Annotated[str | None, tyro.conf.arg(metavar="RULE")] = None
    """What folds keep whole, instead of the experiment's: group, image, column:NAME; source, organ: a fold for each."""
    holdout: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Hold out about N images as fold 0 and train on all others, instead of the experiment's."""
    pseudo_labels: Annotated[tuple[Path, ...] | None, tyro.conf.arg(metavar="RUN [RUN ...]")] = None
    """An evaluated run, runs/E: label the images of --data with it, once for each of its folds; of several runs the
    networks of a fold label together."""
    soft_labels: bool = False
    """With --pseudo-labels: keep probabilities, at which training draws its masks, instead of one mask."""
    unsure: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LOW HIGH")] = None
    """With --pseudo-labels: pixels whose probability lies from LOW to below HIGH do not count in training."""
    min_certainty: float = 0.0
    """With --pseudo-labels: leave out tiles whose mean of |2p - 1| over their pixels is lower, p a pixel's probability;
    1 is certain, 0 keeps all."""
    export: Literal["", "coco", "yolo"] = ""
    """Write the single objects for other tools too, with lists of each fold, into a folder of that name in --out."""
    jobs: Annotated[LauncherOptions, tyro.conf.arg(name="")] = field(default_factory=LauncherOptions)
    """One job instead of this process: folds and leaks are of all images at once."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = tyro.cli(BuildOptions, prog="build_dataset.py", args=arguments)
    require_kind(options.data, "data")
    if options.jobs.launcher != "here":
        run_jobs({"build": ["build", *without_options(arguments)]}, Path(f"{options.out}.jobs"), options.jobs)
        print(f"dataset: {options.out}, report: {options.out / 'dataset_report.html'}")
        return 0
    if options.pseudo_labels is not None:
        return _label_images(options, options.pseudo_labels)
    if options.soft_labels or options.unsure or options.min_certainty:
        names = "--soft-labels, --unsure and --min-certainty"
        raise InputError(f"{names} say what predicted labels are like: add --pseudo-labels runs/E")
    from histofold.competitions.base import ObjectCompetition
    from histofold.competitions.registry import find_competition
    from histofold.data.build import build_dataset
    from histofold.data.export import export_objects, require_objects
    from histofold.data.store import clear_dataset, refuse_other_dataset
    from histofold.report.dataset import write_build_report

    experiment = load_toml(Experiment, options.experiment) if options.experiment else Experiment()
    if options.folds is not None and not options.folds.is_file():
        raise InputError(f"--folds {options.folds}: no such file: give a folds.csv; for a number use --num-folds")
    experiment = _with_fold_options(experiment, options)
    competition = find_competition(options.competition, options.data)
    if options.export:
        require_objects(competition)
    try:
        refuse_other_dataset(options.out, options.data)
    except InputError:
        if not options.overwrite or options.out.resolve() == options.data.resolve():
            raise
        competition.samples(options.data, "train")  # tables at fault cost no dataset
        clear_dataset(options.out)
    built = build_dataset(options.data, competition, experiment, options.out, options.folds, options.workers)
    report = write_build_report(built)
    print(f"{len(built.index)} tiles of {built.index['id'].nunique()} images in {options.out}\nreport: {report}")
    if options.export:
        adapter = cast(ObjectCompetition, competition)
        print(f"export: {export_objects(options.export, adapter, built.samples, built.folds, options.out)}")
    return 0


def _with_fold_options(experiment: Experiment, options: BuildOptions) -> Experiment:
    """The experiment with the folds that the command line asks for.

    Raises:
        InputError: If a value is refused, or there are folds that are kept.
    """
    given = {"folds": options.num_folds, "fold_by": options.fold_by, "holdout": options.holdout}
    wanted: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    kept = options.folds or options.out / "folds.csv"
    reads_split_groups = wanted == {"fold_by": "image"}  # of folds that are kept it says how to read them
    if wanted and kept.is_file() and not reads_split_groups:
        names = "--num-folds, --fold-by and --holdout"
        raise InputError(f"{kept}: its folds are kept: leave {names} out, or remove the file to draw anew")
    try:
        return replace(experiment, tiles=replace(experiment.tiles, **wanted))
    except ValueError as error:
        raise InputError(str(error)) from error


def _label_images(options: BuildOptions, runs: tuple[Path, ...]) -> int:
    """A dataset of predicted labels; settings and folds are the run's own."""
    from histofold.competitions.registry import find_competition
    from histofold.data.pseudo import LabelConfig
    from histofold.report.dataset import write_pseudo_report
    from histofold.trust.pseudo_labels import build_pseudo_dataset

    if options.experiment or options.folds or options.num_folds or options.fold_by or options.holdout:
        raise InputError("--pseudo-labels takes scale, tiles and folds from its run: give none of them")
    competition = find_competition(options.competition, options.data)
    try:
        labels = LabelConfig(soft=options.soft_labels, unsure=options.unsure or (), min_certainty=options.min_certainty)
    except ValueError as error:
        raise InputError(f"--pseudo-labels: {error}") from error
    built = build_pseudo_dataset(options.data, competition, runs, options.out, options.workers, labels)
    report = write_pseudo_report(built)
    unsure = f", {built.unsure} left out as unsure" if labels.min_certainty else ""
    images = built.index["id"].nunique()
    print(f"{len(built.index)} tiles of {images} images in {options.out}{unsure}\nreport: {report}")
    return 0
