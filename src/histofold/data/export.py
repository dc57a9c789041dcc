"""Datasets of single objects in the forms of other tools: COCO's json, and the text files of YOLO.

Each fold has its lists: what it trains on, without tiles that touch a scored one, and what it is scored on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from histofold.competitions.base import Competition, ObjectCompetition
from histofold.core.faults import Fault, InputError
from histofold.core.objects.coco import counts_text
from histofold.core.objects.instances import Objects
from histofold.core.rle.rings import trace_components
from histofold.core.rle.runs import Runs
from histofold.data.folds import ALWAYS_TRAINED
from histofold.data.places import trained_ids
from histofold.schema.files import write_atomically
from histofold.schema.parse import write_json
from histofold.schema.sample import Sample, id_file_name

ExportForm = Literal["coco", "yolo"]


def export_objects(
    form: ExportForm, competition: ObjectCompetition, samples: Sequence[Sample], folds: pd.DataFrame, out: Path
) -> Path:
    """Write the objects of training samples as `coco` or `yolo`.

    `coco`: all.json, and fold{k}_train.json and fold{k}_valid.json of each fold, images by their whole path; objects as
    compressed counts, which are exact, what people were unsure of as crowds, which COCO's score ignores.
    `yolo`: images/ and labels/, fold{k}.yaml with the lists that it names; an object is the outer ring of its largest
    piece in shares of the sides, for the form knows no holes and no unsure objects.

    Args:
        form: Which form.
        competition: The adapter, its samples loaded.
        samples: All training samples.
        folds: Columns id, group and fold (int) of folds.csv.
        out: The dataset; a folder of the form's name is written in it.

    Returns:
        That folder.

    Raises:
        InputError: If the competition is of masks.
    """
    require_objects(competition)
    by_id = {sample.id: sample for sample in samples}
    lists = {"all": list(by_id)}
    for fold in sorted(set(folds["fold"]) - {ALWAYS_TRAINED}):
        lists[f"fold{fold}_train"] = trained_ids(folds, by_id, int(fold))
        lists[f"fold{fold}_valid"] = folds.loc[folds["fold"] == fold, "id"].tolist()
    folder = out / form
    folder.mkdir(parents=True, exist_ok=True)
    write = _write_coco if form == "coco" else _write_yolo
    write(folder, competition, by_id, lists)
    return folder


def require_objects(competition: Competition) -> None:
    """Raise InputError where a competition is of masks."""
    if competition.task != "instances":
        rule = f"{competition.name} has masks, and no single objects to export"
        raise InputError([Fault("--export", competition.name, rule, "leave it out")])


def _write_coco(
    folder: Path, competition: ObjectCompetition, samples: Mapping[str, Sample], lists: Mapping[str, Sequence[str]]
) -> None:
    """A file of each list; an image and an object have the same id in all of them."""
    images: dict[str, dict[str, Any]] = {}
    notes: dict[str, list[dict[str, Any]]] = {}
    count = 0
    for number, (key, sample) in enumerate(samples.items(), 1):
        objects, unsure = competition.objects(sample), competition.unsure(sample)
        height, width = objects.shape_hw
        path = str(sample.image_path.resolve())
        images[key] = {"id": number, "file_name": path, "height": height, "width": width}
        notes[key] = [*_annotations(objects, number, count, 0), *_annotations(unsure, number, count + len(objects), 1)]
        count += len(objects) + len(unsure)
    categories = [{"id": number, "name": name} for number, name in enumerate(competition.classes, 1)]
    for name, keys in lists.items():
        content = {
            "info": {"description": f"{competition.name}, {name}"},
            "images": [images[key] for key in keys],
            "annotations": [note for key in keys for note in notes[key]],
            "categories": categories,
        }
        write_json(folder / f"{name}.json", content)


def _annotations(objects: Objects, image: int, before: int, is_crowd: int) -> list[dict[str, Any]]:
    """The annotations of some objects of an image, numbered on."""
    return [
        {
            "id": before + number,
            "image_id": image,
            "category_id": 1,
            "iscrowd": is_crowd,
            "area": runs.area,
            "bbox": [x, y, right - x, bottom - y],
            "segmentation": {"size": list(objects.shape_hw), "counts": counts_text(runs)},
        }
        for number, (runs, (y, x, bottom, right)) in enumerate(zip(objects, objects.boxes.tolist(), strict=True), 1)
    ]


def _write_yolo(
    folder: Path, competition: ObjectCompetition, samples: Mapping[str, Sample], lists: Mapping[str, Sequence[str]]
) -> None:
    """Images and labels, and the lists and settings of each fold."""
    for name in ("images", "labels"):
        (folder / name).mkdir(exist_ok=True)
    places = {}
    for key, sample in samples.items():
        places[key] = folder / "images" / f"{id_file_name(key)}{sample.image_path.suffix}"
        _link(sample.image_path, places[key])
        lines = [yolo_line(runs) for runs in competition.objects(sample) if runs.area]
        write_atomically(folder / "labels" / f"{id_file_name(key)}.txt", "".join(f"{line}\n" for line in lines))
    for name, keys in lists.items():
        write_atomically(folder / f"{name}.txt", "".join(f"./images/{places[key].name}\n" for key in keys))
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(competition.classes))
    for fold in {name.partition("_")[0] for name in lists if name.startswith("fold")}:
        text = f"path: {folder.resolve()}\ntrain: {fold}_train.txt\nval: {fold}_valid.txt\nnames:\n{names}"
        write_atomically(folder / f"{fold}.yaml", text)


def _link(source: Path, target: Path) -> None:
    """Have a file in a second place, without a copy where the disk allows."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def yolo_line(runs: Runs) -> str:
    """An object as YOLO writes it: class 0, then x and y of its outline's corners as shares of the image's sides."""
    largest = max(trace_components(runs), key=lambda piece: piece.pieces.area)
    height, width = runs.shape_hw
    shares_P2 = largest.rings[0] / np.array([width, height])
    return " ".join(["0", *(f"{share:.6f}" for share in shares_P2.ravel())])
