"""What a sweep found: its trials as a table, best first, and the experiment of the best one."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from histofold.core.faults import Fault, InputError
from histofold.data.store import read_own_table
from histofold.schema.experiment import VALIDATION_THRESHOLD, Experiment
from histofold.schema.files import write_atomically
from histofold.schema.parse import plain, read_toml, to_toml
from histofold.schema.sweep import with_settings
from histofold.train.sweep.study import WORDS, Sweep, is_cut_short, number_of

VALUES = ("val_dice", "loss")
LOSS_SHARE = 0.1
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
LAST_COLUMNS = ("state", "steps", "seconds", "folder", "note")
NOTES = {
    "val_dice": "chosen by its score on the held-out folds, which is therefore optimistic",
    "shift": "chosen by its shift score on the held-out folds, which is therefore optimistic",
    "loss": "best by training loss",
}
"""What a reader must know of the best trial, by the metric that decided."""


def trial_table(sweep: Sweep) -> pd.DataFrame:
    """One row a trial: complete ones first and the best of them on top, then pruned, failed and unfinished ones.

    Returns:
        Columns trial, every setting by its dotted name, shift where it decides, val_dice, loss, state, steps, seconds,
        folder, note.
    """
    best = sweep.best()
    rows = [_row(sweep, trial) for trial in _ranked(sweep)]
    columns = ["trial", *sweep.config.space, *_values(sweep), *LAST_COLUMNS]
    table = pd.DataFrame(rows, columns=columns)
    if best is not None and table["state"].isin(("complete", "pruned")).sum() > 1:  # else nothing was chosen
        table.loc[table["trial"] == number_of(best), "note"] = NOTES[sweep.config.metric]
    return table


def write_trial_table(sweep: Sweep) -> None:
    """Write runs/S/table.csv as the study is now."""
    write_atomically(sweep.folder / "table.csv", trial_table(sweep).to_csv(index=False))


def score_note(metric: str) -> str:
    """What a reader must know to trust the best score."""
    return "Trials are ranked by their training loss." if metric == "loss" else f"The best trial was {NOTES[metric]}."


def write_best(sweep: Sweep) -> None:
    """Write runs/S/best.toml, the whole experiment of the best trial, where one is complete."""
    best = sweep.best()
    if best is not None:
        head = f"# Trial {number_of(best)} of the sweep {sweep.folder.name}: {sweep.config.metric} {best.value:.4f}\n"
        text = to_toml(best_experiment(sweep))
        write_atomically(sweep.folder / "best.toml", f"{head}# {score_note(sweep.config.metric)}\n\n{text}")


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


def conclusion(sweep: Sweep, path: Path) -> str:
    """Best settings and where everything lies, in words.

    Args:
        sweep: The sweep.
        path: Its TOML file.

    Raises:
        InputError: If trials are not done, or none is complete.
    """
    left = len(sweep.unfinished())
    if left:
        remedy = "run it again to go on; what ended the workers stands above"
        raise InputError([Fault(sweep.folder.name, str(sweep.folder), f"{left} trials are not done", remedy)])
    experiment, best = best_experiment(sweep), sweep.best()
    assert best is not None
    table = trial_table(sweep)
    states = table["state"].value_counts()
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    score = f"{sweep.config.metric} {best.value:.4f}"
    if sweep.config.metric != "loss":
        threshold = f" at threshold {VALIDATION_THRESHOLD}" if sweep.config.metric == "val_dice" else ""
        score += f"{threshold} on fold {', '.join(map(str, sweep.config.folds))}"
        note = table.loc[table["trial"] == number_of(best), "note"].iloc[0]
        score += f"; {note}" if note else ""
    options = overrides(experiment, list(sweep.config.space))
    named = read_toml(path).get("experiment")
    lines = [f"{counts}, in {sweep.folder}", f"best: trial {number_of(best)}, {score}"]
    if options is not None and isinstance(named, str):
        lines.append(f"histofold train {shlex.quote(str(path.parent / named))} {options}")
    lines.append(f"whole experiment: {sweep.folder / 'best.toml'}")
    return "\n".join(lines)


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


def _values(sweep: Sweep) -> tuple[str, ...]:
    """Columns of what is measured of a trial: a shift score is only where it decides."""
    return ("shift", *VALUES) if sweep.config.metric == "shift" else VALUES


def _ranked(sweep: Sweep) -> list[FrozenTrial]:
    sign = 1 if sweep.config.metric == "loss" else -1

    def rank(trial: FrozenTrial) -> tuple[int, float, int]:
        value = sign * trial.value if trial.value is not None else 0.0
        return list(STATES.values()).index(_state(trial)), value, number_of(trial)

    return sorted(sweep.trials(), key=rank)


def _state(trial: FrozenTrial) -> str:
    """The state of a trial in words; what was cut short waits to be taken up again."""
    return STATES[TrialState.WAITING if is_cut_short(trial) else trial.state]


def _row(sweep: Sweep, trial: FrozenTrial) -> dict[str, Any]:
    folder = sweep.trial_folder(number_of(trial))
    settings = {name: _cell(value) for name, value in sweep.settings_of(trial).items()}
    known = trial.user_attrs
    told: dict[str, Any] = dict(known) if "steps" in known else trial_costs(folder) | known
    note = str(told.get(WORDS, ""))
    if trial.state == TrialState.PRUNED:
        step = trial.last_step
        told["val_dice"], told["steps"] = trial.value, max(told["steps"], step or 0)  # the log is as old as the state
        note = f"stopped after step {step}: its score is not that of a whole run"
    return {
        "trial": number_of(trial),
        **settings,
        **{name: told.get(name) for name in (*_values(sweep), "steps", "seconds")},
        "state": _state(trial),
        "folder": folder.relative_to(sweep.folder).as_posix(),
        "note": " ".join(note.split()),
    }


def _cell(value: Any) -> Any:
    """Lists and tables as JSON."""
    return json.dumps(plain(value)) if isinstance(value, (list, tuple, dict)) else value


def trial_costs(folder: Path) -> dict[str, float]:
    """Training loss (mean over folds of the last tenth of each log), steps and seconds of a trial, by its logs."""
    losses, steps, seconds = [], 0, 0.0
    for path in sorted(folder.glob("fold*/log.csv")):
        log = read_own_table(path, {}, "run the sweep again, or remove the trial's folder")
        if log.empty:
            continue
        steps += int(log["step"].iloc[-1])
        seconds += float(log["seconds"].max())
        logged = log["loss"].dropna()
        losses.append(float(logged.tail(max(1, round(LOSS_SHARE * len(logged)))).mean()))
    loss = float(np.mean(losses)) if losses else float("nan")
    return {"loss": loss, "steps": steps, "seconds": round(seconds, 1)}
