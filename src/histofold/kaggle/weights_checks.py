"""Whether a weights folder may go to Kaggle: manifest, members, wheels, metadata, and nothing that nobody asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.kaggle.metadata.checks import DATASET_METADATA_NAME
from histofold.kaggle.metadata.files import check_dataset_metadata
from histofold.schema.manifest import MANIFEST_NAME, Manifest, load_manifest
from histofold.schema.network import needs_smp

SMP_WHEEL_PATTERN = "segmentation_models_pytorch-*.whl"
_KEPT_NAMES = (MANIFEST_NAME, DATASET_METADATA_NAME, "README.md")


def check_weights_folder(folder: Path) -> tuple[Manifest, list[str]]:
    """Check everything about a weights folder.

    Args:
        folder: What `histofold package` has written. Without dataset-metadata.json it is good for predicting here, and
            what Kaggle wants of it is not asked for.

    Returns:
        The manifest, and notices of what is lawful but worth a look, the size among them.

    Raises:
        InputError: With all faults.
    """
    faults: list[Fault] = []
    manifest = _without_error(faults, folder)
    path = folder / DATASET_METADATA_NAME
    notices: list[str] = []
    if path.is_file():
        found, notices = _metadata_faults(path, folder)
        faults += found
        if manifest is not None:
            faults += _wheel_faults(manifest, folder)
            notices += _surplus_notices(manifest, folder)
    else:
        notices = [f"{path} is missing, so it cannot go to Kaggle: `histofold package` writes it"]
    if manifest is None or faults:
        raise InputError(faults)
    files = [entry for entry in folder.iterdir() if entry.is_file()]
    megabytes = sum(entry.stat().st_size for entry in files) / 1e6
    notices.append(
        f"{len(manifest.members)} members of {manifest.competition}, {megabytes:.1f} MB in {len(files)} files"
    )
    return manifest, notices


def upload_files(manifest: Manifest, folder: Path) -> list[Path]:
    """The files of a weights folder that belong to the dataset, sorted: manifest, members and wheels."""
    names = {MANIFEST_NAME, *(member.file for member in manifest.members)}
    return sorted([folder / name for name in names] + list(folder.glob("*.whl")))


def read_metadata(path: Path) -> dict[str, Any]:
    """A metadata file as an object whose keys stand there once.

    Raises:
        InputError: If it is missing, not JSON, no object, or names a key twice.
    """
    twice: list[str] = []

    def noted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=noted)
    except FileNotFoundError as error:
        raise InputError([Fault(path.stem, str(path), "no such file", "check the path")]) from error
    except ValueError as error:
        raise InputError([Fault(path.stem, str(path), f"not JSON ({error})", "write it anew")]) from error
    if not isinstance(data, dict):
        raise InputError([Fault(path.stem, str(path), "not an object", "write an object of keys")])
    if twice:
        rule = "stands there twice, and only the last one would count"
        raise InputError([Fault(key, str(path), rule, "write it once") for key in sorted(set(twice))])
    return data


def _without_error(faults: list[Fault], folder: Path) -> Manifest | None:
    """The manifest, if it and its competition are without fault."""
    try:
        manifest = load_manifest(folder)
        get_competition(manifest.competition)  # refuses one that no adapter could write a submission for
    except InputError as error:
        faults += error.faults
        return None
    return manifest


def _metadata_faults(path: Path, folder: Path) -> tuple[list[Fault], list[str]]:
    try:
        data: Mapping[str, Any] = read_metadata(path)
    except InputError as error:
        return error.faults, []
    return check_dataset_metadata(data, folder)


def _wheel_faults(manifest: Manifest, folder: Path) -> list[Fault]:
    """A wheel that a member needs and that is not there, and one that no member needs."""
    wheels = sorted(path.name for path in folder.glob(SMP_WHEEL_PATTERN))
    needed = any(needs_smp(member.architecture) for member in manifest.members)
    remedy = "package the weights anew: `histofold package`"
    if needed and not wheels:
        rule = "no such wheel, and Kaggle's image lacks the package that the networks are built with"
        return [Fault(SMP_WHEEL_PATTERN, str(folder), rule, remedy)]
    if len(wheels) > 1:
        return [Fault(name, str(folder), "one of several wheels of one package", remedy) for name in wheels]
    if wheels and not needed:
        return [Fault(wheels[0], str(folder), "a wheel that no member needs", "remove it")]
    return []


def _surplus_notices(manifest: Manifest, folder: Path) -> list[str]:
    known = {*_KEPT_NAMES, *(path.name for path in upload_files(manifest, folder))}
    surplus = sorted(entry.name for entry in folder.iterdir() if entry.is_file() and entry.name not in known)
    return [f"{name}: the manifest does not name it; `histofold submit` leaves it out" for name in surplus]
