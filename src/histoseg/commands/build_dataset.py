"""`python build_dataset.py --data DIR`: from the raw folder to folds, tiles and a report."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import tyro

from histoseg.competitions.base import Competition
from histoseg.competitions.registry import detect_competition, get_competition
from histoseg.core.faults import InputError
from histoseg.data.audit import audit_folder
from histoseg.data.folds import make_folds, read_folds
from histoseg.data.store import DatasetInfo
from histoseg.data.tiles import TileJob, cut_slides
from histoseg.schema.atomic import write_atomically
from histoseg.schema.experiment import Experiment
from histoseg.schema.parse import load_toml, plain
from histoseg.schema.sample import Sample


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


def run(arguments: list[str]) -> int:
    """The verb."""
    options = tyro.cli(BuildOptions, prog="build_dataset.py", args=arguments)
    experiment = load_toml(Experiment, options.experiment) if options.experiment else Experiment()
    if options.folds is not None and not options.folds.is_file():
        raise InputError(f"--folds {options.folds}: no such file: give a folds.csv; for a number use --num-folds")
    if options.num_folds is not None:
        kept = options.folds or options.out / "folds.csv"
        if kept.is_file():
            raise InputError(f"{kept}: its folds are kept: leave --num-folds out, or remove the file to draw anew")
        try:
            tiles = replace(experiment.tiles, folds=options.num_folds)
        except ValueError as error:
            raise InputError(str(error)) from error
        experiment = replace(experiment, tiles=tiles)
    competition = get_competition(options.competition) if options.competition else detect_competition(options.data)
    index = build_dataset(options.data, competition, experiment, options.out, options.folds, options.workers)
    print(f"{len(index)} tiles of {index['id'].nunique()} images in {options.out}")
    print(f"report: {options.out / 'dataset_report.html'}")
    return 0


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
    fractions = {key: runs.area / (runs.shape_hw[0] * runs.shape_hw[1]) for key, runs in targets.items()}
    if folds_path is None and (out / "folds.csv").is_file():
        folds_path = out / "folds.csv"  # folds are computed once: other library versions would give others
    if folds_path is not None:
        folds = read_folds(folds_path, samples)
    else:
        folds = make_folds(samples, fractions, experiment.tiles.folds, experiment.tiles.seed)
    # Until the new dataset.json stands, the dataset counts as unfinished.
    (out / "dataset.json").unlink(missing_ok=True)
    write_atomically(out / "folds.csv", folds.to_csv(index=False, lineterminator="\n"))
    fold_of = dict(zip(folds["id"], folds["fold"], strict=True))
    jobs = [
        TileJob(sample, targets[sample.id], int(fold_of[sample.id]), experiment.preprocessing, experiment.tiles, out)
        for sample in samples
    ]
    index, mean, std = cut_slides(jobs, workers)
    write_atomically(out / "index.csv", index.to_csv(index=False, lineterminator="\n"))
    info = DatasetInfo(
        competition=competition.name,
        root=str(root.resolve()),
        preprocessing=experiment.preprocessing,
        tiles=experiment.tiles,
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
    )
    _write_report(out, samples, fractions, index, folds)
    write_atomically(out / "dataset.json", json.dumps(plain(info), indent=2) + "\n")
    return index


def _write_report(
    out: Path, samples: list[Sample], fractions: dict[str, float], index: pd.DataFrame, folds: pd.DataFrame
) -> None:
    from histoseg.commands.pictures import sample_tiles
    from histoseg.report.reports import write_dataset_report

    facts = {
        "images": len(samples),
        "groups": int(folds["group"].nunique()),
        "folds": int(folds["fold"].nunique()),
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
        notices=[],
    )
