"""A folder of weights as Kaggle takes it: flat, with manifest, wheel and metadata; written, and checked."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.metadata.dataset import (
    DATASET_METADATA_NAME,
    dataset_metadata,
    read_dataset_metadata,
    wheels_notice,
)
from histofold.kaggle.wheel import build_wheel
from histofold.schema.files import remove_leftovers, weights_rule, write_atomically, write_bytes_atomically
from histofold.schema.manifest import MANIFEST_FORMAT, MANIFEST_NAME, Manifest, load_manifest, manifest_json
from histofold.schema.network import needs_smp
from histofold.schema.parse import kept_json, write_json

DEFAULT_SLUG = "histofold-weights"  # the dataset that a kernel names by default
WHEEL_DISTRIBUTION = "segmentation-models-pytorch"
WHEEL_PATTERN = "segmentation_models_pytorch-*.whl"
YOLO_NOTICE = (
    "a network is a yolo: its kernel needs ultralytics, which is not in this folder and is under the AGPL-3.0. Attach "
    "a dataset that holds it unpacked and put that on sys.path before the kernel's code; its licence then counts too"
)


def write_package(manifest: Manifest, sources: Mapping[str, Path], out: Path, slug: str, licence: str) -> Manifest:
    """Write a weights folder: members, the wheel that their networks need, metadata and manifest.

    Files that an earlier package put there are replaced. Without a slug the dataset gets the name that kernels
    look for by default.

    Raises:
        InputError: With all faults of the metadata, before anything is touched.
    """
    name = slug or DEFAULT_SLUG
    dataset_metadata(slug=name, title=name, licence=licence)
    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob(".new-*"):  # of a call that was killed
        shutil.rmtree(stale)
    remove_leftovers(out)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=out) as folder:
        new = Path(folder)  # on the same disk: should it be full, the earlier package stays whole
        for member in manifest.members:
            write_bytes_atomically(new / member.file, sources[member.file].read_bytes())
        smp = any(needs_smp(member.architecture) for member in manifest.members)
        wheels = [build_wheel(WHEEL_DISTRIBUTION, new)] if smp else []
        metadata = dataset_metadata(slug=name, title=name, licence=licence, description=wheels_notice(wheels))
        write_json(new / DATASET_METADATA_NAME, metadata)
        write_atomically(new / MANIFEST_NAME, manifest_json(manifest))
        load_manifest(new)
        # Everything is checked; only now is anything touched. The old manifest goes first and the new one comes last,
        # so that no half of a package can be taken for a whole.
        _remove_earlier(out)
        for path in sorted(new.iterdir(), key=lambda path: path.name == MANIFEST_NAME):
            os.replace(path, out / path.name)
    return load_manifest(out)


def check_target(out: Path) -> None:
    """Refuse to write a package into a run.

    Raises:
        InputError: `out` holds a run.
    """
    if any(out.glob("run.json")) or any(out.glob("fold*/run.json")):
        raise InputError([Fault("out", str(out), "this folder holds a run", "give a folder of its own, as weights")])


def refuse_foreign_target(out: Path) -> None:
    """Refuse to write a package beside files that are none of ours.

    Raises:
        InputError: `out` holds files, a README aside, and no package's manifest.
    """
    entries = [path.name for path in sorted(out.glob("[!.]*")) if path.name != "README.md"] if out.is_dir() else []
    if entries and kept_json(out / MANIFEST_NAME).get("format") != MANIFEST_FORMAT:
        named = ", ".join(entries[:3]) + " ..." * (len(entries) > 3)
        rule = f"this folder holds no weights of ours but other files: {named}"
        raise InputError([Fault("out", str(out), rule, "give a folder of its own, or add --overwrite")])


def _remove_earlier(out: Path) -> None:
    """Remove what an earlier package left: what its manifest names, and the files that stand beside every manifest."""
    path = out / MANIFEST_NAME
    if not path.is_file():
        return
    names = [DATASET_METADATA_NAME, *(wheel.name for wheel in out.glob("*.whl"))]
    try:
        names += [str(member["file"]) for member in json.loads(path.read_text(encoding="utf-8"))["members"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        logger.warning("%s cannot be read: its weights are left where they are", path)
    path.unlink()
    for name in names:
        (out / Path(name).name).unlink(missing_ok=True)


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
    notices: list[str] = []
    manifest = None
    path = folder / DATASET_METADATA_NAME
    try:
        manifest = load_manifest(folder)
        faults += _broken_members(manifest, folder)
        faults += _task_faults(manifest, folder)
    except InputError as error:
        faults += error.faults
    if manifest is not None and any(member.architecture == "yolo" for member in manifest.members):
        notices.append(YOLO_NOTICE)
    if not path.is_file():
        notices.append(f"{path} is missing, so it cannot go to Kaggle: `histofold package` writes it")
    else:
        try:
            notices += read_dataset_metadata(folder)[1]
        except InputError as error:
            faults += error.faults
        if manifest is not None:
            faults += _wheel_faults(manifest, folder)
            notices += _surplus_notices(manifest, folder)
    if manifest is None or faults:
        raise InputError(faults)
    sizes = [entry.stat().st_size for entry in folder.iterdir() if entry.is_file()]
    size = f"{sum(sizes) / 1e6:.1f} MB in {len(sizes)} files"
    return manifest, [*notices, f"{len(manifest.members)} members of {manifest.competition}, {size}"]


def upload_files(manifest: Manifest, folder: Path) -> list[Path]:
    """The files of a weights folder that belong to the dataset, sorted: manifest, members and wheels."""
    names = {MANIFEST_NAME, *(member.file for member in manifest.members)}
    return sorted([folder / name for name in names] + list(folder.glob("*.whl")))


def _broken_members(manifest: Manifest, folder: Path) -> list[Fault]:
    """Members that are no whole files of weights, though their bytes are those that the manifest names."""
    rules = {member.file: weights_rule(folder / member.file) for member in manifest.members}
    remedy = "package the weights anew: `histofold package`"
    return [Fault(name, str(folder), rule, remedy) for name, rule in rules.items() if rule]


def _task_faults(manifest: Manifest, folder: Path) -> list[Fault]:
    """A manifest of masks in a competition of objects, or the reverse.

    Raises:
        InputError: If no adapter could write a submission of its competition.
    """
    of_objects = get_competition(manifest.competition).task == "instances"
    if of_objects == (manifest.objects is not None):
        return []
    asked, given = ("objects", "no settings of them") if of_objects else ("masks", "settings of objects")
    rule = f"{manifest.competition} asks for {asked}, and the manifest has {given}"
    return [Fault("objects", str(folder / MANIFEST_NAME), rule, "package the weights anew: `histofold package`")]


def _wheel_faults(manifest: Manifest, folder: Path) -> list[Fault]:
    """A wheel that a member needs and that is not there, and one that no member needs."""
    wheels = sorted(path.name for path in folder.glob(WHEEL_PATTERN))
    needed = any(needs_smp(member.architecture) for member in manifest.members)
    remedy = "package the weights anew: `histofold package`"
    if needed and not wheels:
        rule = "no such wheel, and Kaggle's image lacks the package that the networks are built with"
        return [Fault(WHEEL_PATTERN, str(folder), rule, remedy)]
    if len(wheels) > 1:
        return [Fault(name, str(folder), "one of several wheels of one package", remedy) for name in wheels]
    broken = [name for name in wheels if not zipfile.is_zipfile(folder / name)]
    if broken:
        return [Fault(name, str(folder), "a wheel that is cut short", remedy) for name in broken]
    return [] if needed or not wheels else [Fault(wheels[0], str(folder), "a wheel that no member needs", "remove it")]


def _surplus_notices(manifest: Manifest, folder: Path) -> list[str]:
    known = {DATASET_METADATA_NAME, "README.md", *(path.name for path in upload_files(manifest, folder))}
    surplus = sorted(entry.name for entry in folder.iterdir() if entry.is_file() and entry.name not in known)
    return [f"{name}: the manifest does not name it; `histofold submit` leaves it out" for name in surplus]
