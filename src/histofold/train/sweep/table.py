"""The trials of a sweep as a table, best first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from histofold.schema.parse import plain
from histofold.train.sweep.study import STATES, Sweep

VALUES = ("val_dice", "loss")
LOSS_SHARE = 0.1
LAST_COLUMNS = ("state", "steps", "seconds", "folder", "note")
OPTIMISTIC = "chosen by its score on the held-out folds, which is therefore optimistic"


def trial_table(sweep: Sweep) -> pd.DataFrame:
    """One row a trial: complete ones first and the best of them on top, then pruned, failed and unfinished ones.

    Returns:
        Columns trial, every setting by its dotted name, val_dice, loss, state, steps, seconds, folder, note.
    """
    best = sweep.best()
    rows = [_row(sweep, trial) for trial in _ranked(sweep)]
    columns = ["trial", *sweep.config.space, *VALUES, *LAST_COLUMNS]
    table = pd.DataFrame(rows, columns=columns)
    if best is not None:
        is_held_out = sweep.config.metric == "val_dice"
        table.loc[table["trial"] == best.number, "note"] = OPTIMISTIC if is_held_out else "best by training loss"
    return table


def _ranked(sweep: Sweep) -> list[FrozenTrial]:
    order = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING)
    sign = -1 if sweep.config.metric == "val_dice" else 1

    def rank(trial: FrozenTrial) -> tuple[int, float, int]:
        value = sign * trial.value if trial.value is not None else 0.0
        return order.index(trial.state), value, trial.number

    return sorted(sweep.trials(), key=rank)


def _row(sweep: Sweep, trial: FrozenTrial) -> dict[str, Any]:
    folder = sweep.trial_folder(trial.number)
    settings = {name: _cell(value) for name, value in sweep.settings_of(trial).items()}
    known = trial.user_attrs
    told: dict[str, Any] = dict(known) if "steps" in known else trial_costs(folder) | known
    note = str(told.get("words", ""))
    if trial.state == TrialState.PRUNED:
        step = trial.last_step
        told["val_dice"], told["steps"] = trial.value, max(told["steps"], step or 0)  # the log is as old as the state
        note = f"stopped after step {step}: its score is not that of a whole run"
    return {
        "trial": trial.number,
        **settings,
        **{name: told.get(name) for name in (*VALUES, "steps", "seconds")},
        "state": STATES[trial.state],
        "folder": folder.relative_to(sweep.folder).as_posix(),
        "note": " ".join(note.split()),
    }


def _cell(value: Any) -> Any:
    """Lists and tables as JSON."""
    return json.dumps(plain(value)) if isinstance(value, (list, tuple, dict)) else value


def trial_costs(folder: Path) -> dict[str, float]:
    """Training loss (mean over folds of the last tenth of each log), steps and seconds of a trial as its logs tell."""
    losses, steps, seconds = [], 0, 0.0
    for path in sorted(folder.glob("fold*/log.csv")):
        log = pd.read_csv(path)
        if log.empty:
            continue
        steps += int(log["step"].iloc[-1])
        seconds += float(log["seconds"].max())
        logged = log["loss"].dropna()
        losses.append(float(logged.tail(max(1, round(LOSS_SHARE * len(logged)))).mean()))
    loss = float(np.mean(losses)) if losses else float("nan")
    return {"loss": loss, "steps": steps, "seconds": round(seconds, 1)}
