"""A built dataset on disk, written and read: dataset.json, folds.csv, index.csv; its tiles are `tiles/files`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from histofold.competitions.base import Task
from histofold.core.faults import Fault, InputError
from histofold.data.contents import Content, folder_listing
from histofold.data.folds import ALWAYS_TRAINED
from histofold.data.tiles.cut import COLOUR_FIELDS, INDEX_COLUMNS
from histofold.data.tiles.files import REBUILD, TILE_FOLDERS
from histofold.schema.dataset import TilesConfig
from histofold.schema.experiment import Experiment
from histofold.schema.files import moved_path, remove_leftovers, weights_file, write_atomically
from histofold.schema.manifest import file_sha256
from histofold.schema.parse import load_json, load_own_json, write_json
from histofold.schema.preprocessing import Preprocessing, StainReference

FOLD_FIELDS = ("folds", "fold_by", "holdout")
"""Settings of `tiles` that draw folds, which folds.csv holds and the command line may choose."""
SCALE_FIELDS = tuple(field.name for field in fields(Preprocessing) if field.name not in COLOUR_FIELDS)


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What build_dataset.py records of what it did."""

    competition: str
    """Name of the adapter."""
    root: str
    """The competition folder, as it was called then."""
    root_beside: str = ""
    """The same from the dataset's own folder, which counts first: projects are moved."""
    preprocessing: Preprocessing
    """The spec that the tiles were cut with."""
    tiles: TilesConfig
    """How tiles were cut."""
    classes: tuple[str, ...] = ("mask",)
    """Names of the mask classes."""
    clean_blank: bool = False
    """Whether the tiles were cut without the labels on the glass around the tissue."""
    task: Task = "masks"
    """Whether tiles hold masks, or labels of single objects (`instances`)."""
    grow_sources: dict[str, float] = field(default_factory=dict)
    """By how many pixels of the image the objects of a source were grown before tiles were cut."""
    mean: tuple[float, float, float]
    """Mean of the tiles' channels, in 0 to 1."""
    std: tuple[float, float, float]
    """Standard deviation of the tiles' channels, in 0 to 1."""
    index_sha256: str = ""
    """SHA-256 of index.csv; empty in datasets of earlier versions."""
    contents: dict[str, Content] = field(default_factory=dict)
    """What each image and its truth were; empty in datasets of earlier versions."""
    listing: str = ""
    """Names, sizes and times of the files of the competition folder, as one digest."""
    stain_reference: StainReference = field(default_factory=StainReference)
    """Colours of the images in data.stain_references; what an experiment without a reference of its own aims at."""


def dataset_origin(root: Path, folder: Path, contents: dict[str, Content]) -> dict[str, Any]:
    """The fields of `DatasetInfo` that say what a dataset is built from.

    Args:
        root: The competition folder.
        folder: The dataset.
        contents: Its images and truths, by id.
    """
    return {
        "root": str(root.resolve()),
        "root_beside": os.path.relpath(root.resolve(), folder.resolve()),
        "contents": contents,
        "listing": folder_listing(root, folder),
    }


def refuse_other_dataset(folder: Path, root: Path) -> None:
    """Refuse to build into a folder that holds the dataset of another competition folder, or other files.

    Raises:
        InputError: With what the folder holds.
    """
    rule, info = "", built_info(folder)
    if info is not None:
        before = dataset_root(folder, info).resolve()
        rule = "" if before == root.resolve() else f"holds the dataset of another folder, {before}"
    elif folder.resolve() == root.resolve():
        rule = "is the competition folder itself"
    elif not (folder / "parts").is_dir():
        own = [name for name in (*TILE_FOLDERS, "index.csv") if (folder / name).exists()]
        rule = f"holds {', '.join(own)}, and no dataset of ours" if own else ""
    if rule:
        remedy = "give another --out, or add --overwrite (the folds are then drawn anew)"
        raise InputError([Fault("out", str(folder), f"this folder {rule}", remedy)])


def built_info(folder: Path) -> DatasetInfo | None:
    """What a folder says that it was built from; None where it says nothing, or was cut short."""
    try:
        return load_json(DatasetInfo, folder / "dataset.json")
    except InputError:
        return None


def clear_dataset(folder: Path) -> None:
    """Remove a dataset, its tables and tiles; a folder that holds none is left as it is."""
    if built_info(folder) is None:
        return
    for name in ("dataset.json", "folds.csv", "index.csv"):
        (folder / name).unlink(missing_ok=True)
    for name in ("parts", *TILE_FOLDERS):
        shutil.rmtree(folder / name, ignore_errors=True)


def begin_dataset(folder: Path, folds: pd.DataFrame) -> None:
    """Write folds.csv; from here until dataset.json stands, the dataset counts as unfinished."""
    (folder / "dataset.json").unlink(missing_ok=True)
    remove_leftovers(folder, folder / "parts", *(folder / name for name in TILE_FOLDERS))
    write_atomically(folder / "folds.csv", folds.to_csv(index=False, lineterminator="\n"))


def finish_dataset(folder: Path, index: pd.DataFrame, info: DatasetInfo) -> None:
    """Write index.csv and, last of all, dataset.json."""
    write_atomically(folder / "index.csv", index.to_csv(index=False, lineterminator="\n"))
    info = replace(info, index_sha256=file_sha256(folder / "index.csv"))
    write_json(folder / "dataset.json", info)


def load_dataset(folder: Path) -> tuple[DatasetInfo, pd.DataFrame, pd.DataFrame]:
    """Read a built dataset.

    Returns:
        (info, index, folds): `index` as index.csv with numbers as numbers, `folds` as folds.csv with int folds.

    Raises:
        InputError: If it is missing or incomplete, with the command that makes it.
    """
    if not (folder / "dataset.json").is_file():
        command = f"python build_dataset.py --data DIR --experiment E.toml --out {folder}"
        remedy = f"run `{command}` first, or set data.dataset"
        raise InputError([Fault("dataset", str(folder), "no built dataset here", remedy)])
    info = load_own_json(DatasetInfo, folder / "dataset.json", REBUILD)
    text = dict.fromkeys(("tile_id", "id", "bin", "organ", "source", "grid", "region", "label_origin"), str)
    path = folder / "index.csv"
    index = read_own_table(path, text, REBUILD)
    missing = [column for column in INDEX_COLUMNS if column not in index.columns]
    if missing:
        raise InputError([Fault(c, str(path), "missing column", "build it anew") for c in missing])
    if info.index_sha256 not in ("", file_sha256(path)):
        rule = "its bytes are not those that dataset.json names: it was changed or cut short"
        raise InputError([Fault("index", str(path), rule, REBUILD)])
    return info, index, _read_folds(folder / "folds.csv", set(index["id"]))


def _read_folds(path: Path, ids: set[str]) -> pd.DataFrame:
    """folds.csv of a built dataset, which names each image that tiles were cut of."""
    remedy = "put the file back, or remove it and build the dataset anew"
    folds = read_own_table(path, {"id": str, "group": str, "stratum": str}, remedy)
    missing = [column for column in ("id", "group", "stratum", "fold") if column not in folds.columns]
    faults = [Fault(column, str(path), "missing column", remedy) for column in missing]
    if not missing and folds["fold"].dtype.kind != "i":
        faults.append(Fault("fold", str(path), "a row without a whole number: it was cut short", remedy))
    if not missing and (lost := sorted(ids - set(folds["id"]))):
        rule = f"{len(lost)} images of the tiles have no row, the first is {lost[0]}: it was changed or cut short"
        faults.append(Fault("folds", str(path), rule, remedy))
    if faults:
        raise InputError(faults)
    return folds


def read_own_table(path: Path, text: Mapping[str, type], remedy: str) -> pd.DataFrame:
    """Read a csv that we wrote.

    Args:
        path: The file.
        text: Columns that are read as text; where there are some, empty cells are empty texts, else they are NaN.
        remedy: What is to be done where it is missing or broken.

    Raises:
        InputError: If it is missing, cut short or no table.
    """
    try:
        return pd.read_csv(path, dtype=dict(text), keep_default_na=not text)
    except OSError as error:
        raise InputError([Fault(path.stem, str(path), f"{error.strerror}", remedy)]) from error
    except ValueError as error:  # also of pandas' own errors
        raise InputError([Fault(path.stem, str(path), f"not a table ({error})", remedy)]) from error


def dataset_root(folder: Path, info: DatasetInfo) -> Path:
    """Where the competition folder of a built dataset lies now: beside it as then, else where it was, else near it."""
    beside = Path(os.path.normpath(folder.resolve() / info.root_beside))
    return beside if info.root_beside and beside.is_dir() else moved_path(Path(info.root), folder)


def known_folds(experiment: Experiment) -> list[int]:
    """The folds of the experiment's dataset that can be held out."""
    return _scored_folds(load_dataset(Path(experiment.data.dataset))[2])


def _scored_folds(folds: pd.DataFrame) -> list[int]:
    return sorted(int(fold) for fold in folds["fold"].unique() if fold != ALWAYS_TRAINED)


def check_experiment(experiment: Experiment, fold: int | None) -> list[int]:
    """The folds that can be held out, once what needs no network and no image is seen to be right.

    Raises:
        InputError: If the dataset is missing, was cut otherwise or has no such fold, or a file of weights is not there.
    """
    folder = Path(experiment.data.dataset)
    info, _, folds = load_dataset(folder)
    complete_preprocessing(experiment, info, folder)
    known = _scored_folds(folds)
    faults = []
    if fold is not None and fold not in known:
        remedy = f"known folds: {', '.join(map(str, known))}"
        faults.append(Fault(f"fold {fold}", str(folder / "folds.csv"), "no such fold", remedy))
    for name in ("encoder_weights", "init"):
        kind, _, path = getattr(experiment.model, name).partition(":")
        if kind == "file" and not weights_file(Path(path)).is_file():
            faults.append(Fault(f"model.{name}", path, "no such file", "check the path after `file:`"))
    if faults:
        raise InputError(faults)
    return known


def complete_preprocessing(experiment: Experiment, info: DatasetInfo, folder: Path) -> Preprocessing:
    """The experiment's preprocessing, completed by the dataset's moments; refuses tiles of another scale or classes.

    Raises:
        InputError: With one fault for each setting in which experiment and tiles differ.
    """
    wanted, built = experiment.preprocessing, info.preprocessing
    faults = [
        Fault(
            f"preprocessing.{name}",
            str(folder / "dataset.json"),
            f"tiles were cut with {getattr(built, name)!r} and the experiment says {getattr(wanted, name)!r}",
            "build the dataset anew with --experiment, or change the experiment",
        )
        for name in SCALE_FIELDS
        if getattr(wanted, name) != getattr(built, name)
        and not (name == "slices" and wanted.channels <= built.channels)
    ]
    if experiment.model.classes not in known_channels(info):
        rule = f"tiles have {len(info.classes)} mask classes ({', '.join(info.classes)}), the experiment's network "
        rule += f"{experiment.model.classes}"
        remedy = f"write model.classes = {len(info.classes)}, or build a dataset of a folder with that many"
        faults.append(Fault("model.classes", str(folder / "dataset.json"), rule, remedy))
    if info.clean_blank != experiment.data.clean_blank:
        rule = f"tiles were cut with {info.clean_blank} and the experiment says {experiment.data.clean_blank}"
        remedy = "build the dataset anew with --experiment, or change the experiment"
        faults.append(Fault("data.clean_blank", str(folder / "dataset.json"), rule, remedy))
    if wanted.stain != "none" and wanted.stain_reference == StainReference():
        wanted = replace(wanted, stain_reference=info.stain_reference)
    try:
        wanted.check_stain()
    except ValueError as error:
        remedy = "name images in data.stain_references and build the dataset anew with --experiment"
        faults.append(Fault("preprocessing.stain", str(folder / "dataset.json"), str(error), remedy))
    if faults:
        raise InputError(faults)
    if wanted.normalise == "dataset":
        return replace(wanted, mean=info.mean, std=info.std)
    return wanted


def known_channels(info: DatasetInfo) -> tuple[int, ...]:
    """What `model.classes` may be: the number of mask classes; of objects also that of the dense network's channels."""
    return (len(info.classes), 3) if info.task == "instances" else (len(info.classes),)


def tile_differences(experiment: Experiment, folder: Path) -> list[Fault]:
    """Settings of tiles that the built ones of a dataset do not follow; they can be trained on all the same.

    Returns:
        A fault for each setting in which experiment and tiles differ, the folds aside.
    """
    info = load_json(DatasetInfo, folder / "dataset.json")
    pairs = {
        f"tiles.{name}": (value, getattr(experiment.tiles, name))
        for name, value in vars(info.tiles).items()
        if name not in FOLD_FIELDS
    }
    pairs["data.grow_sources"] = (info.grow_sources, experiment.data.grow_sources)
    return [
        Fault(
            name,
            str(folder / "dataset.json"),
            f"tiles were cut with {built!r} and stay so, though the experiment says {wanted!r}",
            "build the dataset anew with --experiment where that matters",
        )
        for name, (built, wanted) in pairs.items()
        if wanted != built
    ]
