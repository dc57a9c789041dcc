"""`histofold sweep experiments/S.toml`: search over the settings of an experiment."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from histofold.commands.options import parse_options
from histofold.core.faults import Fault, InputError
from histofold.report.sweep import plot_sweep, write_sweep_page
from histofold.schema.atomic import write_atomically
from histofold.schema.experiment import Experiment
from histofold.schema.parse import plain, read_toml, to_toml
from histofold.schema.sweep import SweepConfig, load_sweep, with_settings
from histofold.train.sweep.lease import try_lease, wait_for_lease
from histofold.train.sweep.objective import TrainingObjective, check_folds, planned_steps
from histofold.train.sweep.study import Sweep
from histofold.train.sweep.table import OPTIMISTIC, trial_table
from histofold.train.sweep.workers import run_workers


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Search over the settings of an experiment; run it again, or several times at once, to go on with it."""

    path: tyro.conf.Positional[Path]
    """The search, a TOML file; its name without the suffix is the folder's name."""
    workers: int = 1
    """Processes on this machine, each with a trial of its own; on other machines that see the same folder, call the
    same verb."""
    runs: Path = Path("runs")
    """Where runs are kept."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(SweepOptions, "sweep", arguments)
    if options.path.suffix != ".toml":
        raise InputError(f"{options.path}: a sweep is a TOML file: give its whole name, as experiments/sweep_lr.toml")
    if options.workers < 1:
        raise InputError(f"--workers {options.workers} must be at least 1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a sweep does not run under torchrun: give --workers, or call it several times")
    config = load_sweep(options.path)
    folder = options.runs / options.path.stem
    digest = check_folds(config, folder)
    print(forecast(config))
    objective = TrainingObjective(config.folds, config.metric, config.pruner != "none")
    sweep = run_workers(folder, config, digest, objective, options.workers, write_table)
    write_results(sweep)
    left = len(sweep.unfinished())
    if left:
        remedy = "run it again to go on; what ended the workers stands above"
        raise InputError([Fault(folder.name, str(folder), f"{left} trials are not done", remedy)])
    print(_conclusion(sweep, options.path))
    return 0


def forecast(config: SweepConfig) -> str:
    """What the search costs at most, in words."""
    count, folds, steps = config.size(), len(config.folds), planned_steps(config)
    sizes = config.space.get("train.batch")
    largest = max(sizes.ends()) if sizes else config.experiment.train.batch
    bound = "at most " if config.pruner != "none" or sizes or "train.steps" in config.space else ""
    tiles = steps * int(largest) * config.experiment.train.accumulate
    trials = f"{count} trial{'s' * (count > 1)} x {folds} fold{'s' * (folds > 1)}"
    return f"{trials}: {bound}{steps} steps, {tiles} tiles"


def write_table(sweep: Sweep) -> None:
    """Write table.csv as the study is now, unless another worker is just doing it."""
    lease = try_lease(sweep.folder / "table.lease")
    if lease is not None:
        try:
            write_atomically(sweep.folder / "table.csv", trial_table(sweep).to_csv(index=False))
        finally:
            lease.release()


def write_results(sweep: Sweep) -> None:
    """Write table.csv, figure.png, report.html and, of a sweep with a complete trial, best.toml."""
    lease = wait_for_lease(sweep.folder / "table.lease")
    try:
        table, config = trial_table(sweep), sweep.config
        write_atomically(sweep.folder / "table.csv", table.to_csv(index=False))
        settings = list(config.space)
        picture = plot_sweep(table, settings, config.metric, sweep.folder / "figure.png")
        is_held_out = config.metric == "val_dice"
        note = f"The best trial was {OPTIMISTIC}." if is_held_out else "Trials are ranked by their training loss."
        write_sweep_page(sweep.folder / "report.html", sweep.folder.name, table, config.metric, picture, note)
        best = sweep.best()
        if best is not None:
            head = f"# Trial {best.number} of the sweep {sweep.folder.name}: {config.metric} {best.value:.4f}\n"
            text = to_toml(best_experiment(sweep))
            write_atomically(sweep.folder / "best.toml", f"{head}# {note}\n\n{text}")
    finally:
        lease.release()


def best_experiment(sweep: Sweep) -> Experiment:
    """The whole experiment of the best trial.

    Raises:
        InputError: If no trial is complete.
    """
    best = sweep.best()
    if best is None:
        rule = "no trial came to its end"
        raise InputError([Fault(sweep.folder.name, str(sweep.folder / "table.csv"), rule, "see its column note")])
    return with_settings(sweep.config.experiment, sweep.settings_of(best), str(sweep.folder))


def overrides(experiment: Experiment, settings: list[str]) -> str | None:
    """The command-line options that set some settings to an experiment's values; None where one has no such option."""
    options: dict[str, list[str]] = {}
    tables = plain(experiment)
    for name in settings:
        parts = name.split(".")
        if len(parts) < 2:
            return None
        section, key = parts[:2]
        option = _option(f"{section}.{key}".replace("_", "-"), tables[section][key])
        if option is None:
            return None
        options[f"{section}.{key}"] = option
    return " ".join(shlex.quote(word) for option in options.values() for word in option)


def _option(name: str, value: Any) -> list[str] | None:
    """The words that set one setting."""
    if isinstance(value, bool):
        section, _, key = name.partition(".")
        return [f"--{section}.{'' if value else 'no-'}{key}"]
    if isinstance(value, dict):
        value = [word for pair in value.items() for word in pair]
    if isinstance(value, list) and (not value or any(isinstance(item, (dict, list)) for item in value)):
        return None
    return [f"--{name}", *(str(item) for item in (value if isinstance(value, list) else [value]))]


def _conclusion(sweep: Sweep, path: Path) -> str:
    """Best settings and where everything lies, in words."""
    experiment, best = best_experiment(sweep), sweep.best()
    assert best is not None
    states = trial_table(sweep)["state"].value_counts()
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    told = f"{sweep.config.metric} {best.value:.4f}"
    if sweep.config.metric == "val_dice":
        told += f" on fold {', '.join(map(str, sweep.config.folds))}; {OPTIMISTIC}"
    options = overrides(experiment, list(sweep.config.space))
    named = read_toml(path).get("experiment")
    lines = [f"{counts}, in {sweep.folder}", f"best: trial {best.number}, {told}"]
    if options is not None and isinstance(named, str):
        lines.append(f"histofold train {shlex.quote(str(path.parent / named))} {options}")
    lines.append(f"whole experiment: {sweep.folder / 'best.toml'}")
    return "\n".join(lines)
