"""What a run writes down as it goes: log.csv, and the same through a tracker that Accelerate knows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from histofold.core.faults import Fault, InputError
from histofold.schema.experiment import Experiment
from histofold.schema.files import write_atomically
from histofold.schema.parse import plain

FIRST_COLUMNS = ("step", "epoch", "lr", "loss")
LAST_COLUMNS = ("val_dice", "images_per_s", "seconds")
FOLDER = "tracker"


def write_log(rows: list[dict[str, float]], path: Path) -> None:
    """Write log.csv: fixed columns, among them each term of the loss that there is; what was not measured is blank."""
    terms = dict.fromkeys(name for row in rows for name in row if name.startswith("loss_"))
    table = pd.DataFrame(rows, columns=[*FIRST_COLUMNS, *terms, *LAST_COLUMNS])
    table["step"] = table["step"].astype(int)
    write_atomically(path, table.to_csv(index=False, float_format="%.6g"))


def check_tracker(name: str) -> None:
    """Refuse a tracker that cannot be had.

    Raises:
        InputError: If Accelerate does not know it, or its package is not installed.
    """
    installed = sorted(str(kind) for kind in get_available_trackers())
    if not name or name in installed:
        return
    if name in LOGGER_TYPE_TO_CLASS:
        rule, remedy = f"{name} is not installed", f"install its package; installed: {', '.join(installed) or 'none'}"
    else:
        known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
        rule, remedy = f"Accelerate knows no tracker {name!r}", f"known: {known}; empty for log.csv alone"
    raise InputError([Fault("train.tracker", "experiment", rule, remedy)])


def start_tracker(accelerator: Accelerator, experiment: Experiment, folder: Path, step: int) -> None:
    """Start the experiment's tracker, if any.

    A tracker of files writes into runs/E/fold{k}/tracker and goes on there when the run is resumed: what it had
    after the state that training went back to, TensorBoard forgets. Others open a run of their own each time.

    Args:
        accelerator: Made with this tracker.
        experiment: Its settings go to the tracker.
        folder: runs/E/fold{k}.
        step: The step that training goes on from.
    """
    name = experiment.train.tracker
    if not name:
        return
    has_folder = LOGGER_TYPE_TO_CLASS[name].requires_logging_directory
    project = FOLDER if has_folder else folder.parent.name
    settings = {"tensorboard": {"purge_step": step + 1}} if name == "tensorboard" else {}
    # TensorBoard would open a second folder for the settings of each start; they stand in experiment.toml.
    flat = None if name == "tensorboard" else flat_settings(plain(experiment))
    accelerator.init_trackers(project, config=flat, init_kwargs=settings)


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested settings under dotted names, as trackers take them; lists and tables of names become text."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str | int | float | bool) else str(value)
    return flat


def log_to_tracker(accelerator: Accelerator, row: Mapping[str, float]) -> None:
    """Pass a row of the log on, blanks left out."""
    if accelerator.trackers:
        values = {key: value for key, value in row.items() if key != "step" and math.isfinite(value)}
        accelerator.log(values, step=int(row["step"]))


def stop_tracker(accelerator: Accelerator) -> None:
    """Have the tracker write what it holds; unlike `Accelerator.end_training` the group of processes stays."""
    for tracker in accelerator.trackers:
        tracker.finish()
