"""`python build_dataset.py --data DIR`: from the raw folder to folds, tiles and a report."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import tyro

from histofold.competitions.base import Competition, image_error_fault
from histofold.competitions.registry import detect_competition, get_competition
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.data.audit import audit_folder
from histofold.data.cleaning import cleaned_targets
from histofold.data.explore.folder import Exploration, explore_folder
from histofold.data.folds import plan_folds, read_folds
from histofold.data.leaks import find_leaks
from histofold.data.store import DatasetInfo
from histofold.data.tiles.cut import TileJob, cut_slides
from histofold.data.tiles.masks import masked_fraction
from histofold.imaging.errors import ImageError
from histofold.imaging.stain import fit_slide_reference
from histofold.schema.atomic import write_atomically
from histofold.schema.experiment import Experiment
from histofold.schema.parse import load_toml, plain
from histofold.schema.preprocessing import StainReference
from histofold.schema.sample import Sample


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
    workers: int = os.cpu_count() or 1
    """Processes that cut tiles."""
    num_folds: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    """Number of folds, instead of the experiment's."""
    fold_by: Annotated[str | None, tyro.conf.arg(metavar="RULE")] = None
    """What folds keep whole, instead of the experiment's: group, image, column:NAME; source, organ: a fold for each."""
    holdout: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Hold out about N images as fold 0 and train on all others, instead of the experiment's."""
    pseudo_labels: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """An evaluated run, runs/E: label the images of --data with it, once for each of its folds."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = tyro.cli(BuildOptions, prog="build_dataset.py", args=arguments)
    experiment = load_toml(Experiment, options.experiment) if options.experiment else Experiment()
    if options.folds is not None and not options.folds.is_file():
        raise InputError(f"--folds {options.folds}: no such file: give a folds.csv; for a number use --num-folds")
    experiment = _with_fold_options(experiment, options)
    competition = get_competition(options.competition) if options.competition else detect_competition(options.data)
    if options.pseudo_labels is not None:
        index = _label_images(options, competition)
    else:
        index = build_dataset(options.data, competition, experiment, options.out, options.folds, options.workers)
    print(f"{len(index)} tiles of {index['id'].nunique()} images in {options.out}")
    print(f"report: {options.out / 'dataset_report.html'}")
    return 0


def _with_fold_options(experiment: Experiment, options: BuildOptions) -> Experiment:
    """The experiment with the folds that the command line asks for.

    Raises:
        InputError: If a value is refused, or there are folds that are kept.
    """
    given = {"folds": options.num_folds, "fold_by": options.fold_by, "holdout": options.holdout}
    wanted = {name: value for name, value in given.items() if value is not None}
    kept = options.folds or options.out / "folds.csv"
    reads_split_groups = wanted == {"fold_by": "image"}  # of folds that are kept it says how to read them
    if wanted and kept.is_file() and not reads_split_groups:
        names = "--num-folds, --fold-by and --holdout"
        raise InputError(f"{kept}: its folds are kept: leave {names} out, or remove the file to draw anew")
    try:
        return replace(experiment, tiles=replace(experiment.tiles, **wanted))
    except ValueError as error:
        raise InputError(str(error)) from error


def _label_images(options: BuildOptions, competition: Competition) -> pd.DataFrame:
    """The dataset of predicted labels; settings and folds are the run's own."""
    from histofold.commands.pseudo import build_pseudo_dataset  # it needs torch, which the usual way does not

    assert options.pseudo_labels is not None
    if options.experiment or options.folds or options.num_folds or options.fold_by or options.holdout:
        raise InputError("--pseudo-labels takes scale, tiles and folds from its run: give none of them")
    return build_pseudo_dataset(options.data, competition, options.pseudo_labels, options.out, options.workers)


def build_dataset(
    root: Path, competition: Competition, experiment: Experiment, out: Path, folds_path: Path | None, workers: int
) -> pd.DataFrame:
    """Write a dataset; nothing is written before every fault of the input is known.

    Args:
        root: The competition folder.
        competition: Its adapter.
        experiment: Scale and tiles.
        out: Where to write.
        folds_path: Folds to keep; None makes them.
        workers: Processes.

    Returns:
        The index, as index.csv.

    Raises:
        InputError: With all faults.
    """
    samples, faults = audit_folder(competition, root)
    if faults:
        raise InputError(faults)
    targets = {sample.id: competition.target(sample) for sample in samples}
    fractions = {key: masked_fraction(target) for key, target in targets.items()}
    if folds_path is None and (out / "folds.csv").is_file():
        folds_path = out / "folds.csv"  # folds are computed once: other library versions would give others
    if experiment.data.clean_blank:
        targets = cleaned_targets(samples, targets)
    reference = _stain_reference(samples, experiment)
    exploration = explore_folder(competition, samples)
    clusters = exploration.clusters
    if folds_path is not None:
        folds = read_folds(folds_path, samples, experiment.tiles.fold_by)
    else:
        folds = plan_folds(samples, fractions, experiment.tiles, clusters=clusters, root=root)
    # Until the new dataset.json stands, the dataset counts as unfinished.
    (out / "dataset.json").unlink(missing_ok=True)
    write_atomically(out / "folds.csv", folds.to_csv(index=False, lineterminator="\n"))
    fold_of = dict(zip(folds["id"], folds["fold"], strict=True))
    regions_of = getattr(competition, "regions", lambda sample: {})  # not every competition knows the anatomy
    jobs = [
        TileJob(
            sample=sample,
            target=targets[sample.id],
            fold=int(fold_of[sample.id]),
            preprocessing=experiment.preprocessing,
            tiles=experiment.tiles,
            out=out,
            classes=competition.classes,
            regions=regions_of(sample),
        )
        for sample in samples
    ]
    index, mean, std = cut_slides(jobs, workers)
    write_atomically(out / "index.csv", index.to_csv(index=False, lineterminator="\n"))
    leaks = find_leaks(folds, samples, index=index, clusters=clusters)
    if leaks.faults:
        raise InputError(leaks.faults)
    for notice in leaks.notices:
        logger.warning("leak: %s", notice)
    info = DatasetInfo(
        competition=competition.name,
        root=str(root.resolve()),
        preprocessing=experiment.preprocessing,
        tiles=experiment.tiles,
        classes=competition.classes,
        clean_blank=experiment.data.clean_blank,
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        stain_reference=reference,
    )
    _write_report(out, competition, samples, exploration, fractions, index, folds, leaks.notices)
    write_atomically(out / "dataset.json", json.dumps(plain(info), indent=2) + "\n")
    return index


def _stain_reference(samples: list[Sample], experiment: Experiment) -> StainReference:
    """The colours of the images that the experiment names for stain normalisation; empty where it names none."""
    wanted = experiment.data.stain_references
    by_id = {sample.id: sample for sample in samples}
    unknown = [key for key in wanted if key not in by_id]
    if unknown:
        rule = "data.stain_references names an image that is not there"
        raise InputError([Fault(key, "experiment", rule, "name training images") for key in unknown])
    try:
        reference = fit_slide_reference([by_id[key] for key in wanted], experiment.preprocessing)
    except ImageError as error:
        raise InputError([image_error_fault("data.stain_references", Path("experiment"), error)]) from error
    if set(reference.images) != set(wanted):
        pale = sorted(set(wanted) - set(reference.images))
        rule = f"{', '.join(pale)}: too little tissue to measure colours on"
        raise InputError([Fault("data.stain_references", "experiment", rule, "name other images")])
    return reference


def _write_report(
    out: Path,
    competition: Competition,
    samples: list[Sample],
    exploration: Exploration,
    fractions: dict[str, float],
    index: pd.DataFrame,
    folds: pd.DataFrame,
    notices: Sequence[str],
) -> None:
    from histofold.commands.pictures import notice_pictures, sample_slides, sample_tiles
    from histofold.report.explore import explore_sections
    from histofold.report.reports import write_dataset_report

    pictures = notice_pictures(competition, samples, exploration.notices)
    facts = {
        "images": len(samples),
        "groups": int(folds["group"].nunique()),
        "folds": int(folds.loc[folds["fold"] >= 0, "fold"].nunique()),
        "tiles": len(index),
        "tiles with mask": f"{(index['mask_fraction'] > 0).mean():.0%}",
        "mean mask fraction of an image": f"{sum(fractions.values()) / len(fractions):.3f}",
    }
    write_dataset_report(
        out / "dataset_report.html",
        facts=facts,
        index=index,
        folds=folds,
        overlays=sample_tiles(out, index),
        notices=notices,
        explored=explore_sections(exploration, folds, sample_slides(competition, samples), pictures),
    )
