"""`histofold sweep experiments/S.toml`: search over the settings of an experiment."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from histofold.commands import parse_options
from histofold.commands.launch import LauncherOptions, run_jobs, without_options
from histofold.core.faults import InputError
from histofold.schema.kinds import require_kind
from histofold.schema.sweep import load_sweep


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Search over the settings of an experiment; run it again, or several times at once, to go on with it."""

    path: tyro.conf.Positional[Path]
    """The search, a TOML file; its name without the suffix is the folder's name."""
    workers: int = 1
    """Processes on this machine, or jobs of --launcher, each with a trial of its own; on other machines call the same
    verb."""
    runs: Path = Path("runs")
    """Where runs are kept; other machines must see the same folder to go on with a trial that was cut short."""
    storage: str = ""
    """Address of the study's database, which several machines need: postgresql://me@host/name or
    mysql://...; without it, the file runs/S/study.db."""
    jobs: Annotated[LauncherOptions, tyro.conf.arg(name="")] = field(default_factory=LauncherOptions)
    """Jobs instead of this process."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(SweepOptions, "sweep", arguments)
    require_kind(options.path, "sweep")
    if options.path.suffix != ".toml":
        raise InputError(f"{options.path}: a sweep is a TOML file: give its whole name, as experiments/sweep_lr.toml")
    if options.workers < 1:
        raise InputError(f"--workers {options.workers} must be at least 1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a sweep does not run under torchrun: give --workers, or call it several times")
    if options.jobs.launcher == "slurm" and options.workers > 1 and not options.storage:
        raise InputError(
            "--launcher slurm: workers on several machines need a database: give --storage, or --workers 1"
        )
    config = load_sweep(options.path)
    from histofold.report.sweep import write_sweep_report
    from histofold.train.sweep.results import conclusion, score_note, trial_table
    from histofold.train.sweep.search import check_folds, forecast, search
    from histofold.train.sweep.study import Sweep
    from histofold.trust.evaluate import shift_score

    folder = options.runs / options.path.stem
    digest = check_folds(config, folder)
    print(forecast(config))
    if options.jobs.launcher != "here":
        Sweep(folder, config, digest, options.storage)  # begins the study: many jobs at once would each make its tables
        command = ["sweep", *without_options(arguments, "--workers")]
        run_jobs({f"worker {number}": command for number in range(options.workers)}, folder / "jobs", options.jobs)
    workers = options.workers if options.jobs.launcher == "here" else 1
    sweep = search(config, folder, digest, workers, options.storage, shift_score)
    write_sweep_report(folder, trial_table(sweep), list(config.space), config.metric, score_note(config.metric))
    print(conclusion(sweep, options.path))
    return 0
