"""What a run writes down as it goes: log.csv, and the same through a tracker that Accelerate knows."""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import cv2
import numpy as np
import pandas as pd
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from histofold.core.faults import Fault, InputError
from histofold.core.rle.runs import Masks
from histofold.data.thumbnails import fitting_shape, read_small, small_mask
from histofold.data.tiles.masks import any_class
from histofold.imaging.slide import open_sample
from histofold.schema.experiment import Experiment
from histofold.schema.files import write_atomically
from histofold.schema.parse import kept_json, plain
from histofold.schema.sample import Sample

FIRST_COLUMNS = ("step", "epoch", "lr", "loss")
LAST_COLUMNS = ("images_per_s", "seconds")
OnSlide = Callable[[Sample, Masks, Masks], None]
"""Gets a slide of a validation, its truth and what is predicted."""
FOLDER = "tracker"
ID_FILE = "tracker.json"
"""In runs/E/fold{k}: the tracker that keeps the run elsewhere, and the id that it has there."""
WANDB_PROJECT = "histofold"
PICTURE_SIDE = 640
"""Longer side of a picture of a validation slide, in pixels."""
PICTURES = 4
"""Slides of a validation that are shown."""
TRUTH_RGB, PREDICTION_RGB = (0, 98, 255), (255, 205, 0)


def score_column(metric: str) -> str:
    """The column of log.csv that holds a metric: `val_dice`, `val_ap50`."""
    return f"val_{metric.lower()}"


def write_log(rows: list[dict[str, float]], path: Path, metric: str = "Dice") -> None:
    """Write log.csv: fixed columns, among them each term of the loss that there is; what was not measured is blank."""
    terms = dict.fromkeys(name for row in rows for name in row if name.startswith("loss_"))
    table = pd.DataFrame(rows, columns=[*FIRST_COLUMNS, *terms, score_column(metric), *LAST_COLUMNS])
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
    after the state that training went back to, TensorBoard forgets. W&B and MLflow go on under the id that
    `ID_FILE` keeps. Others open a run of their own each time.

    Args:
        accelerator: Made with this tracker.
        experiment: Its settings go to the tracker.
        folder: runs/E/fold{k}.
        step: The step that training goes on from; 0: the run is new.
    """
    name = experiment.train.tracker
    if not name or not accelerator.is_main_process:
        return
    kept = kept_json(folder / ID_FILE) if step > 0 else {}
    run_id = str(kept["id"]) if kept.get("tracker") == name and "id" in kept else ""
    project, settings = _tracker_settings(name, folder, step, run_id)
    # TensorBoard would open a second folder for the settings of each start; they stand in experiment.toml. MLflow
    # refuses those that have changed, as a resumed run's may (the loader's processes).
    without_settings = name == "tensorboard" or (name == "mlflow" and run_id)
    flat = None if without_settings else flat_settings(plain(experiment))
    accelerator.init_trackers(project, config=flat, init_kwargs={name: settings})
    if name == "mlflow":
        run_id = accelerator.trackers[0].tracker.info.run_id
    if name == "wandb":
        run_id = settings["id"]
    if run_id:
        write_atomically(folder / ID_FILE, json.dumps({"tracker": name, "id": run_id}) + "\n")


def _tracker_settings(name: str, folder: Path, step: int, run_id: str) -> tuple[str, dict[str, Any]]:
    """Project of a tracker, and what it is started with so that folds stand together under names of their own.

    Args:
        name: Of the tracker.
        folder: runs/E/fold{k}.
        step: The step that training goes on from.
        run_id: Of the run to go on with; empty: a new one.
    """
    experiment, fold = folder.parent.name, folder.name
    if name == "wandb":
        own = {"name": f"{experiment} {fold}", "group": experiment, "id": run_id or uuid4().hex, "resume": "allow"}
        return os.environ.get("WANDB_PROJECT", WANDB_PROJECT), own
    if name == "mlflow":  # its experiment is the group
        return experiment, {"run_id": run_id} if run_id else {"run_name": fold}
    if name == "tensorboard":
        return FOLDER, {"purge_step": step + 1}
    return (FOLDER if LOGGER_TYPE_TO_CLASS[name].requires_logging_directory else experiment), {}


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


def organ_dice(by_id: Mapping[str, float], samples: Sequence[Sample]) -> dict[str, float]:
    """Mean Dice of the slides of each organ that is known, as `organ_dice/ORGAN`.

    Below `val_dice/` MLflow, which keeps files, could not put them: that name is a file already.
    """
    by_organ: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        if sample.organ and sample.id in by_id:
            by_organ[f"organ_dice/{_shown_name(sample.organ)}"].append(by_id[sample.id])
    return {name: float(np.mean(scores)) for name, scores in sorted(by_organ.items())}


def overlay_logger(accelerator: Accelerator, step: int, samples: Sequence[Sample]) -> OnSlide:
    """What shows trackers that take pictures some slides of a validation, always the same ones.

    Args:
        accelerator: With its trackers.
        step: The step that the predictions are of.
        samples: All slides of the validation.
    """
    shown = {samples[place].id for place in np.linspace(0, len(samples) - 1, PICTURES).astype(int)}

    def show(sample: Sample, truth: Masks, prediction: Masks) -> None:
        if sample.id not in shown or not accelerator.trackers:
            return
        name, picture_HWC = f"validation/{_shown_name(sample.id)}", draw_outlines(sample, truth, prediction)
        for tracker in accelerator.trackers:
            _log_picture(tracker, name, picture_HWC, step)

    return show


def _log_picture(tracker: GeneralTracker, name: str, picture_HWC: np.ndarray, step: int) -> None:
    """Hand a picture on; trackers that Accelerate gives no pictures get none."""
    if tracker.name == "tensorboard":
        tracker.log_images({name: picture_HWC[None]}, step, dataformats="NHWC")
    elif tracker.name == "wandb":
        tracker.log_images({name: [picture_HWC]}, step)
    elif tracker.name == "mlflow":
        import mlflow

        mlflow.log_image(picture_HWC, key=name, step=step)


def draw_outlines(sample: Sample, truth: Masks, prediction: Masks) -> np.ndarray:
    """A slide at the size of a picture with the inner edges of truth (blue) and prediction (yellow), uint8 (H, W, 3).

    Of several classes their union is drawn.

    Raises:
        ImageError: If the slide cannot be read.
    """
    with open_sample(sample) as slide:
        small_hw = fitting_shape(slide.shape_hw, PICTURE_SIDE)
        picture_HWC = read_small(slide, small_hw)
    for masks, colour in ((truth, TRUTH_RGB), (prediction, PREDICTION_RGB)):
        mask_HW = small_mask(any_class(masks), small_hw).astype(np.uint8)
        picture_HWC[mask_HW > cv2.erode(mask_HW, np.ones((3, 3), np.uint8), borderValue=0)] = colour
    return picture_HWC


def _shown_name(text: str) -> str:
    """A name as all trackers take it: MLflow refuses other characters."""
    return re.sub(r"[^\w\-. /]", "_", text)


def stop_tracker(accelerator: Accelerator) -> None:
    """Have the tracker write what it holds; unlike `Accelerator.end_training` the group of processes stays."""
    for tracker in accelerator.trackers:
        tracker.finish()
