"""A built dataset on disk, written and read: dataset.json, folds.csv, index.csv; its tiles are `tiles/files`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pandas as pd

from histofold.core.faults import Fault, InputError
from histofold.data.folds import ALWAYS_TRAINED
from histofold.data.tiles.cut import COLOUR_FIELDS, INDEX_COLUMNS
from histofold.schema.dataset import TilesConfig
from histofold.schema.experiment import Experiment
from histofold.schema.files import write_atomically
from histofold.schema.parse import load_json, plain
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
    """The competition folder."""
    preprocessing: Preprocessing
    """The spec that the tiles were cut with."""
    tiles: TilesConfig
    """How tiles were cut."""
    classes: tuple[str, ...] = ("mask",)
    """Names of the mask classes."""
    clean_blank: bool = False
    """Whether the tiles were cut without the labels on the glass around the tissue."""
    mean: tuple[float, float, float]
    """Mean of the tiles' channels, in 0 to 1."""
    std: tuple[float, float, float]
    """Standard deviation of the tiles' channels, in 0 to 1."""
    stain_reference: StainReference = field(default_factory=StainReference)
    """Colours of the images in data.stain_references; what an experiment without a reference of its own aims at."""


def begin_dataset(folder: Path, folds: pd.DataFrame) -> None:
    """Write folds.csv; from here until dataset.json stands, the dataset counts as unfinished."""
    (folder / "dataset.json").unlink(missing_ok=True)
    write_atomically(folder / "folds.csv", folds.to_csv(index=False, lineterminator="\n"))


def finish_dataset(folder: Path, index: pd.DataFrame, info: DatasetInfo) -> None:
    """Write index.csv and, last of all, dataset.json."""
    write_atomically(folder / "index.csv", index.to_csv(index=False, lineterminator="\n"))
    write_atomically(folder / "dataset.json", json.dumps(plain(info), indent=2) + "\n")


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
    info = load_json(DatasetInfo, folder / "dataset.json")
    text = dict.fromkeys(("tile_id", "id", "bin", "organ", "source", "grid", "region", "label_origin"), str)
    index = pd.read_csv(folder / "index.csv", dtype=text, keep_default_na=False)
    missing = [column for column in INDEX_COLUMNS if column not in index.columns]
    if missing:
        raise InputError([Fault(c, str(folder / "index.csv"), "missing column", "build it anew") for c in missing])
    folds = pd.read_csv(folder / "folds.csv", dtype={"id": str, "group": str, "stratum": str}, keep_default_na=False)
    return info, index, folds


def known_folds(experiment: Experiment) -> list[int]:
    """The folds of the experiment's dataset that can be held out."""
    folds = load_dataset(Path(experiment.data.dataset))[2]
    return sorted(int(fold) for fold in folds["fold"].unique() if fold != ALWAYS_TRAINED)


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
    ]
    if len(info.classes) != experiment.model.classes:
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


def tile_differences(experiment: Experiment, folder: Path) -> list[Fault]:
    """Settings of `tiles` that the built tiles of a dataset do not follow; they can be trained on all the same.

    Returns:
        A fault for each setting in which experiment and tiles differ, the folds aside.
    """
    info = load_json(DatasetInfo, folder / "dataset.json")
    built, wanted = vars(info.tiles), vars(experiment.tiles)
    return [
        Fault(
            f"tiles.{name}",
            str(folder / "dataset.json"),
            f"tiles were cut with {built[name]!r} and stay so, though the experiment says {wanted[name]!r}",
            "build the dataset anew with --experiment where that matters",
        )
        for name in wanted
        if name not in FOLD_FIELDS and wanted[name] != built[name]
    ]
