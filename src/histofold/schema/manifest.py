"""The manifest: all that a kernel needs to know about a set of weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from histofold.core.faults import Fault, InputError
from histofold.schema.objects import ObjectConfig
from histofold.schema.parse import load_json, plain, read_json
from histofold.schema.prediction import PredictConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import is_utf8
from histofold.schema.volumes import VolumeConfig

MANIFEST_FORMAT = "histofold/1"
MANIFEST_NAME = "manifest.json"
CLASS_KEY = "class:"
"""What the keys of thresholds of single classes begin with."""
RECORDED_PACKAGES = (
    *("histofold", "torch", "segmentation-models-pytorch", "timm", "numpy", "opencv-python-headless", "pillow"),
)
"""Packages whose versions a manifest holds."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One checkpoint of an ensemble."""

    file: str
    """Name of the safetensors file beside the manifest."""
    sha256: str
    """SHA-256 of that file, in hexadecimal."""
    architecture: str
    """Network family, as `build_model` knows it."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """What the network is built with."""
    fold: int = 0
    """The fold that this member was not trained on."""
    oof_score: float | None = None
    """Its out-of-fold score, for people to read."""
    weight: float = 1.0
    """Its share in the ensemble's average."""
    preprocessing: Preprocessing | None = None
    """Its own preprocessing; None means the manifest's."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(
                f"weight={self.weight} of {self.file} must be positive and finite; leave the member out instead"
            )
        if Path(self.file).name != self.file or self.file == "..":
            raise ValueError(f"file={self.file!r} must be a plain name: weights lie flat beside the manifest")


@dataclass(frozen=True, kw_only=True)
class Manifest(PredictConfig):
    """Weights, and how an image becomes a mask with them: an experiment's settings of prediction are among its keys."""

    format: str = MANIFEST_FORMAT
    """Version of this description."""
    competition: str
    """Name of the adapter that reads the images and writes the rows."""
    preprocessing: Preprocessing
    """From a slide's pixels to the network's input."""
    classes: tuple[str, ...] = ("ftu",)
    """Names of the mask classes, in the order of the networks' channels."""
    members: tuple[Member, ...] = ()
    """The ensemble."""
    thresholds: dict[str, float] = field(default_factory=lambda: {"default": 0.5})
    """Probability thresholds: `default`, then by organ, then by organ/source, then by class as `class:NAME`."""
    tile: int = 512
    """Tile side in network pixels (physical mode); of a shorter image its own, up to the next multiple of 32."""
    views: tuple[str, ...] = ("identity",)
    """Views that are averaged, by names as `parse_view` reads them."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that made the weights."""
    objects: ObjectConfig | None = None
    """How objects are found, in competitions of objects; None: masks are predicted."""
    volume: VolumeConfig | None = None
    """How volumes are predicted, in competitions of volumes."""

    def __post_init__(self) -> None:
        if self.format != MANIFEST_FORMAT:
            raise ValueError(f"format={self.format!r} is not {MANIFEST_FORMAT!r}: package the weights anew")
        if "default" not in self.thresholds:
            raise ValueError("thresholds lack the mandatory key 'default': add it")
        if not all(0 < value < 1 for value in self.thresholds.values()):
            raise ValueError(f"thresholds={self.thresholds} must lie between 0 and 1")
        self._check_classes()
        self._check_slices()
        super().__post_init__()
        self.check_tile()
        self.preprocessing.check_stain()
        for member in self.members:
            if member.preprocessing is not None:
                member.preprocessing.check_stain()

    @property
    def row_classes(self) -> tuple[str, ...]:
        """The classes that a submission has rows of; of objects the maps beside the first class are none."""
        return self.classes if self.objects is None else self.classes[:1]

    def _check_slices(self) -> None:
        """Refuse networks that see another number of slices than they are given, and slices of pictures."""
        for member in self.members:
            given = (member.preprocessing or self.preprocessing).slices
            if member.arguments.get("slices", 3) != given:
                raise ValueError(
                    f"{member.file} does not see the {given} channels of its preprocessing: package it anew"
                )
        if self.preprocessing.slices != 3 and self.volume is None:
            raise ValueError(f"slices={self.preprocessing.slices} of pictures, which have 3 channels: package it anew")

    def _check_classes(self) -> None:
        names = set(self.classes)
        if not names or len(names) < len(self.classes) or "" in names:
            raise ValueError(f"classes={self.classes}: name at least one mask class, and each once")
        if not all(map(is_utf8, names)):
            raise ValueError(f"classes={self.classes!a} are no names in UTF-8: package it anew")
        unknown = [key for key in self.thresholds if key.startswith(CLASS_KEY) and key[len(CLASS_KEY) :] not in names]
        if unknown:
            raise ValueError(f"thresholds of {', '.join(unknown)}: known classes are {', '.join(self.classes)}")
        for member in self.members:
            count = member.arguments.get("classes", len(self.classes))
            if count != len(self.classes):
                raise ValueError(f"{member.file} gives {count} classes and classes={self.classes}: package it apart")


def look_up_threshold(thresholds: Mapping[str, float], organ: str, source: str) -> float:
    """The threshold of an image: organ/source, else organ, else default."""
    for key in (f"{organ}/{source}", organ):
        if key in thresholds:
            return thresholds[key]
    return thresholds["default"]


def look_up_thresholds(
    thresholds: Mapping[str, float], organ: str, source: str, classes: Sequence[str]
) -> float | tuple[float, ...]:
    """The threshold of an image, or those of its classes where there are several.

    A class's own, `class:NAME`, goes before those of organ/source, organ and default.
    """
    general = look_up_threshold(thresholds, organ, source)
    own = tuple(thresholds.get(CLASS_KEY + name, general) for name in classes)
    return own[0] if len(own) == 1 else own


def joined_thresholds(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Thresholds of an ensemble of several sets: the mean of each key, looked up in each set as for an image."""
    keys = sorted({key for table in tables for key in table}, key=lambda key: (key != "default", key))
    joined = {}
    for key in keys:
        organ, _, source = key.partition("/")
        values = [table.get(key, look_up_threshold(table, organ, source)) for table in tables]
        joined[key] = sum(values) / len(values)
    return joined


def read_thresholds(path: Path) -> dict[str, float]:
    """Read thresholds.json of an evaluated run, by the keys of a manifest.

    Raises:
        InputError: If it is missing, cut short or holds anything else.
    """
    remedy = f"run `histofold evaluate {path.parent}` again"
    values = read_json(path, remedy)
    known = isinstance(values, dict) and "default" in values
    if not known or not all(isinstance(value, float) and 0 < value < 1 for value in values.values()):
        rule = "no table of thresholds between 0 and 1 with a default"
        raise InputError([Fault(path.stem, str(path), rule, remedy)])
    return dict(values)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_manifest(folder: Path) -> Manifest:
    """Read FOLDER/manifest.json and check every member's file and SHA-256.

    Raises:
        InputError: With all faults: unknown keys, missing files, files that are not what the manifest says, members
            with the same bytes (an "ensemble" of one checkpoint).
    """
    path = folder / MANIFEST_NAME
    manifest = load_json(Manifest, path, "package the weights anew")
    faults = []
    seen: dict[str, str] = {}
    for member in manifest.members:
        file = folder / member.file
        if not file.is_file():
            faults.append(Fault(member.file, str(path), "no such file beside the manifest", "package the weights anew"))
            continue
        if file_sha256(file) != member.sha256:
            rule = "its SHA-256 is not the manifest's: the file was changed or cut short"
            faults.append(Fault(member.file, str(path), rule, "upload it again"))
        if member.sha256 in seen:
            rule = f"same bytes as {seen[member.sha256]}: the ensemble would count one checkpoint twice"
            faults.append(Fault(member.file, str(path), rule, "package distinct folds"))
        seen.setdefault(member.sha256, member.file)
    if not manifest.members:
        faults.append(Fault("members", str(path), "no members", "package at least one trained fold"))
    if faults:
        raise InputError(faults)
    return manifest


def manifest_json(manifest: Manifest) -> str:
    """The manifest as the text of manifest.json: what it is of first, then the settings of prediction."""
    data = {name: value for name, value in plain(manifest).items() if value is not None}
    first = ("format", "competition", "preprocessing", "classes", "members", "thresholds")
    return json.dumps({**{name: data[name] for name in first}, **data}, indent=2) + "\n"


def installed_versions(packages: Sequence[str] = RECORDED_PACKAGES) -> dict[str, str]:
    """Versions of packages, as far as they are installed; by default of those that decide a prediction."""
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
