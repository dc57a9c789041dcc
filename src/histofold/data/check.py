"""A competition folder checked whole: tables, every pixel of every image, folds; and what deserves a look."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from histofold.competitions.base import Competition
from histofold.competitions.registry import find_competition
from histofold.core.faults import Fault, InputError
from histofold.data.audit import audit_folder, audit_test_images
from histofold.data.explore.folder import Exploration, Explorer
from histofold.data.folds import read_folds
from histofold.data.leaks import find_leaks
from histofold.schema.sample import Sample

LABEL_IMAGES = ("train_images", "train")
"""Folders of images that adapters want beside a table of labels; empty ones where the table is all there is."""


@dataclass(frozen=True, kw_only=True)
class CheckedFolder:
    """What a check found."""

    competition: Competition
    """The adapter."""
    samples: Sequence[Sample]
    """The training samples, as far as they can be made out."""
    faults: Sequence[Fault]
    """What must be mended."""
    exploration: Exploration
    """What was seen of the slides; its notices deserve a look and are no faults."""
    folds: pd.DataFrame | None
    """The folds.csv that the samples were held against, where there is one without fault."""
    leaks: Sequence[str]
    """What the folds let leak."""

    @property
    def notices(self) -> int:
        """How many things deserve a look."""
        return len(self.exploration.notices) + len(self.leaks)


def check_folder(path: Path, competition: str = "", folds_path: Path | None = None) -> CheckedFolder:
    """Hold a competition folder's tables and images against each other, both splits, every pixel decoded.

    Args:
        path: The folder; or its table of labels alone, plain or gzipped: then no images are looked for.
        competition: Name of the adapter; detected where it is empty.
        folds_path: A folds.csv to hold the samples against.

    Raises:
        InputError: If it is no competition's folder, or the table cannot be read.
    """
    if path.is_dir() or not path.exists():
        return _check(path, find_competition(competition, path), folds_path)
    with labels_as_folder(path) as root:
        try:
            checked = _check(root, find_competition(competition, root), folds_path, has_images=False)
        except InputError as error:
            raise InputError([_fault_of_table(fault, path, root) for fault in error.faults]) from None
        return replace(checked, faults=[_fault_of_table(fault, path, root) for fault in checked.faults])


def _check(root: Path, competition: Competition, folds_path: Path | None, has_images: bool = True) -> CheckedFolder:
    explorer = Explorer(competition)
    if has_images:
        samples, faults = audit_folder(competition, root, decode=True, look=explorer.look)
        faults += audit_test_images(competition, root)
    else:
        samples, faults = competition.inspect(root, "train")
        for sample in samples:
            with contextlib.suppress(InputError):  # a label that is at fault is among the faults already
                explorer.look_at_labels(sample, competition.target(sample))
    folds, leaks, exploration = None, [], explorer.finish()
    if folds_path is not None:
        try:
            folds = read_folds(folds_path, samples)
            leaks = find_leaks(folds, samples, clusters=exploration.clusters).notices
        except InputError as error:
            faults += error.faults
    return CheckedFolder(
        competition=competition, samples=samples, faults=faults, exploration=exploration, folds=folds, leaks=leaks
    )


@contextlib.contextmanager
def labels_as_folder(table: Path) -> Iterator[Path]:
    """A table of labels as a competition folder without images, for as long as the context lasts.

    Args:
        table: A train.csv under any name, plain or gzipped.

    Raises:
        InputError: If it is gzipped but broken.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for images in LABEL_IMAGES:
            (root / images).mkdir()
        opened = gzip.open if table.suffix == ".gz" else open
        try:
            with opened(table, "rb") as source, (root / "train.csv").open("wb") as target:
                shutil.copyfileobj(source, target)
        except (OSError, EOFError, zlib.error) as error:
            rule = f"cannot be read ({error})"
            raise InputError([Fault(table.stem, str(table), rule, "download it again")]) from error
        yield root


def _fault_of_table(fault: Fault, table: Path, root: Path) -> Fault:
    """A fault of `labels_as_folder` as one of the table that the user gave."""
    if not Path(fault.file).is_relative_to(root):
        return fault
    return replace(fault, file=str(table), id=table.stem if fault.id == root.name else fault.id)
