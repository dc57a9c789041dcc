"""Find a kernel's inputs by content: mounts have moved before, and no path below /kaggle/input is certain."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.schema.manifest import MANIFEST_FORMAT, MANIFEST_NAME, Manifest, load_manifest


def walk_files(root: Path, name: str) -> Iterator[Path]:
    """Every file of a name below a folder, in sorted order; links are followed, folders of images are not entered."""
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(f for f in folders if f not in ("train_images", "test_images", "train_annotations"))
        if name in files:
            yield Path(folder) / name


def find_packages(root: Path, competition: str) -> list[tuple[Path, Manifest]]:
    """Every weight folder of the competition below a root, its files checked against their SHA-256.

    A dataset that is mounted at two paths counts once.

    Raises:
        InputError: If there is none, or a file is missing or changed.
    """
    packages: list[tuple[Path, Manifest]] = []
    for path in walk_files(root, MANIFEST_NAME):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if not isinstance(data, dict) or data.get("format") != MANIFEST_FORMAT:
            continue
        if data.get("competition") != competition:
            logger.warning("%s is of %s, not of %s: left out", path, data.get("competition"), competition)
            continue
        manifest = load_manifest(path.parent)
        if any(manifest == found for _, found in packages):
            logger.warning("%s is a package that was found before: left out", path)
            continue
        packages.append((path.parent, manifest))
    if not packages:
        rule = f"no {MANIFEST_NAME} of format {MANIFEST_FORMAT} and competition {competition}"
        raise InputError([Fault(competition, str(root), rule, "add the weights' dataset to the kernel")])
    return packages


def find_competition_folder(root: Path, columns: tuple[str, str], image_folder: str, slug: str) -> Path:
    """The folder of a sample_submission.csv with the right columns beside its image folder.

    Where several fit, the one on a path that names the competition wins over datasets that copy its layout.

    Raises:
        InputError: If there is none.
    """
    candidates = []
    for path in walk_files(root, "sample_submission.csv"):
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            header = next(csv.reader([stream.readline()]), [])
        if tuple(header[:2]) == columns:
            candidates.append(path.parent)
    candidates.sort(key=lambda folder: slug not in folder.parts)
    for folder in candidates:
        if (folder / image_folder).is_dir():
            return folder
    if candidates:
        logger.warning("no %s beside any sample_submission.csv: every row will be a fallback", image_folder)
        return candidates[0]
    rule = f"no sample_submission.csv with the columns {', '.join(columns)}"
    raise InputError([Fault("sample_submission.csv", str(root), rule, "add the competition to the kernel's inputs")])


def use_wheels(folder: Path) -> None:
    """Put the pure-Python wheels beside the weights on the import path: they are what the weights were made with."""
    for wheel in sorted(folder.glob("*.whl")):
        if str(wheel) not in sys.path:
            sys.path.insert(0, str(wheel))
