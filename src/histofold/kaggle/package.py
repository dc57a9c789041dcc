"""Weights for Kaggle: a flat folder with the members, their manifest, and the wheel that their network needs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.metadata.files import dataset_metadata, wheels_notice
from histofold.kaggle.wheel import build_wheel
from histofold.schema.atomic import write_atomically, write_bytes_atomically
from histofold.schema.manifest import (
    MANIFEST_NAME,
    Manifest,
    Member,
    file_sha256,
    joined_thresholds,
    load_manifest,
    manifest_json,
)
from histofold.schema.network import needs_smp
from histofold.schema.parse import plain
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.run_record import RunRecord, finished_records, read_records

WHEEL_DISTRIBUTION = "segmentation-models-pytorch"
METADATA_NAME = "dataset-metadata.json"
AGREED_SETTINGS = (
    *("competition", "classes", "views", "average", "skip_blank"),
    *("min_area_um2", "max_hole_um2", "smooth_um", "seed_threshold"),
)
TILE_SETTINGS = ("tile", "halo", "blend", "stride")
DEFAULT_SLUG = "histofold-weights"  # the dataset that a kernel names by default


def package_runs(
    runs: Sequence[Path],
    out: Path,
    slug: str = "",
    licence: str = "other",
    shares: Mapping[Path, float] | None = None,
    batch: Callable[[Manifest, Path], int] | None = None,
) -> Manifest:
    """Put every finished fold of the runs into one flat folder and check the result.

    Runs may differ in network and preprocessing, scale included: each member carries its own. They must agree in all
    else that decides a prediction.

    Args:
        runs: Run folders, runs/A.
        out: Where to write; files that an earlier package put there are replaced.
        slug: Name of the dataset on Kaggle.
        licence: Its licence.
        shares: Part of each run in the average, divided among its folds; None: every member counts alike.
        batch: Proposes the tiles of a forward pass for a finished package; None leaves what the runs say.

    Raises:
        InputError: With all faults: runs without finished folds, overfitting checks, runs that do not fit together,
            folds with the same weights.
    """
    if not runs:
        raise InputError([Fault("runs", "command line", "no run given", "name at least one, as runs/E")])
    records = [(run, record) for run in runs for record in finished_records(run).values()]
    evaluated = {run: _evaluated_as_it_is(run) for run in runs}
    manifest = replace(_joined(records), thresholds=_mean_thresholds(evaluated))
    _refuse_unproven_skipping(evaluated, manifest)
    idle = {key: value for key, value in manifest.thresholds.items() if value >= manifest.seed_threshold > 0}
    if idle:
        logger.warning(
            "seed_threshold=%s does nothing where the threshold is as high: %s", manifest.seed_threshold, idle
        )
    check_target(out)
    sources = _member_sources(records)
    folds = Counter(run for run, _ in records)
    members = [
        Member(
            file=target,
            sha256=file_sha256(source),
            architecture=record.architecture,
            arguments=record.arguments,
            fold=record.fold,
            oof_score=_oof_score(run, record.fold) if evaluated[run] else None,
            weight=1.0 if shares is None else shares[run] / folds[run],
            preprocessing=_own_preprocessing(record, manifest),
        )
        for (run, record), (target, source) in zip(records, sources.items(), strict=True)
    ]
    manifest = write_package(replace(manifest, members=tuple(members)), sources, out, slug, licence)
    if batch is not None:
        manifest = replace(manifest, batch=batch(manifest, out))
        write_atomically(out / MANIFEST_NAME, manifest_json(manifest))
    return manifest


def _own_preprocessing(record: RunRecord, manifest: Manifest) -> Preprocessing | None:
    """The preprocessing of a member where it is not that of the package."""
    own = record.manifest.preprocessing
    return None if own == manifest.preprocessing else own


def _refuse_unproven_skipping(evaluated: Mapping[Path, bool], manifest: Manifest) -> None:
    """Blank tiles may only be skipped where an evaluation showed that it costs no truth.

    Raises:
        InputError: With every run that skips them and was not evaluated as it is.
    """
    rule = "skips blank tiles, and no evaluation of it as it is showed that this costs no truth"
    remedy = "run `histofold evaluate` first, or train with predict.skip_blank = false"
    faults = [Fault(run.name, str(run), rule, remedy) for run, as_it_is in evaluated.items() if not as_it_is]
    if manifest.skip_blank and faults:
        raise InputError(faults)


def write_package(manifest: Manifest, sources: Mapping[str, Path], out: Path, slug: str, licence: str) -> Manifest:
    """Write a weights folder: members, the wheel that their networks need, metadata and manifest.

    Args:
        manifest: The finished manifest.
        sources: The weights of each member by its file name.
        out: Where to write; files that an earlier package put there are replaced.
        slug: Name of the dataset on Kaggle; empty for the one that kernels name by default.
        licence: Its licence, as Kaggle knows it.

    Raises:
        InputError: With all faults of the metadata, before anything is touched.
    """
    name = slug or DEFAULT_SLUG
    dataset_metadata(slug=name, title=name, licence=licence)
    # Everything is checked; only now is anything touched. The old manifest goes first and the new one comes last, so
    # that no half of a package can be taken for a whole.
    out.mkdir(parents=True, exist_ok=True)
    _remove_earlier(out)
    for member in manifest.members:
        write_bytes_atomically(out / member.file, sources[member.file].read_bytes())
    smp = any(needs_smp(member.architecture) for member in manifest.members)
    wheels = [build_wheel(WHEEL_DISTRIBUTION, out)] if smp else []
    metadata = dataset_metadata(slug=name, title=name, licence=licence, description=wheels_notice(wheels))
    write_atomically(out / METADATA_NAME, json.dumps(metadata, indent=2) + "\n")
    write_atomically(out / MANIFEST_NAME, manifest_json(manifest))
    return load_manifest(out)


def check_target(out: Path) -> None:
    """Refuse to write a package into a run.

    Raises:
        InputError: `out` holds a run.
    """
    if any(out.glob("run.json")) or any(out.glob("fold*/run.json")):
        raise InputError([Fault("out", str(out), "this folder holds a run", "give a folder of its own, as weights")])


def _member_sources(records: Sequence[tuple[Path, RunRecord]]) -> dict[str, Path]:
    """The weights of each record by the name that they get.

    Raises:
        InputError: With all faults: missing weights, two members of one name or with the same bytes.
    """
    faults = []
    sources: dict[str, Path] = {}
    hashes: dict[str, str] = {}
    for run, record in records:
        source = run / f"fold{record.fold}" / "model.safetensors"
        target = f"{run.name}_fold{record.fold}.safetensors"
        if not source.is_file():
            faults.append(Fault(target, str(source), "no such file", "train the fold anew"))
            continue
        digest = file_sha256(source)
        if target in sources or digest in hashes:
            rule = f"the same checkpoint or name as {hashes.get(digest, target)}"
            faults.append(Fault(target, str(source), rule, "name each run once, under distinct names"))
        sources[target] = source
        hashes.setdefault(digest, target)
    if faults:
        raise InputError(faults)
    return sources


def _joined(records: Sequence[tuple[Path, RunRecord]]) -> Manifest:
    """The one manifest of all runs; they must predict the same way."""
    manifests = [record.manifest for _, record in records]
    # Whole images have no tiles: what tiles are like, is what the first run with tiles says.
    tiled = [manifest for manifest in manifests if manifest.preprocessing.scale_mode != "whole"]
    first = (tiled or manifests)[0]
    faults = [
        Fault(
            f"{run.name}/fold{record.fold}",
            str(run),
            f"{name} is {getattr(manifest, name)!r} and another run has {getattr(first, name)!r}",
            "package the runs apart: a kernel joins several packages",
        )
        for (run, record), manifest in zip(records, manifests, strict=True)
        for name in (*AGREED_SETTINGS, *(TILE_SETTINGS if manifest in tiled else ()))
        if getattr(manifest, name) != getattr(first, name)
    ]
    if faults:
        raise InputError(faults)
    return first


def _mean_thresholds(evaluated: dict[Path, bool]) -> dict[str, float]:
    """Thresholds of the runs' evaluations, averaged; 0.5 with a warning where a run was not evaluated as it is now."""
    tables = []
    for run, as_it_is in evaluated.items():
        path = run / "thresholds.json"
        if path.is_file() and as_it_is:
            tables.append(json.loads(path.read_text(encoding="utf-8")))
        else:
            logger.warning("%s was not evaluated since it was trained: packaged with the threshold 0.5", run)
            tables.append({"default": 0.5})
    return joined_thresholds(tables)


def _evaluated_as_it_is(run: Path) -> bool:
    """Whether the evaluation saw exactly the folds, weights and settings that stand there now."""
    path = run / "summary.json"
    if not path.is_file():
        return False
    summary = json.loads(path.read_text(encoding="utf-8"))
    weights = {p.parent.name: file_sha256(p) for p in run.glob("fold*/model.safetensors")}
    settings = {folder.name: plain(record.manifest) for folder, record in read_records(run).items()}
    return summary["weights_sha256"] == weights and summary["settings"] == settings


def _oof_score(run: Path, fold: int) -> float | None:
    path = run / "oof.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path, dtype={"id": str})
    scores = table.loc[table["fold"] == fold, "dice"]
    return round(float(scores.mean()), 6) if len(scores) else None


def _remove_earlier(out: Path) -> None:
    """Remove what an earlier package left: what its manifest names, and the files that stand beside every manifest."""
    path = out / MANIFEST_NAME
    if not path.is_file():
        return
    names = [METADATA_NAME, *(wheel.name for wheel in out.glob("*.whl"))]
    try:
        names += [str(member["file"]) for member in json.loads(path.read_text(encoding="utf-8"))["members"]]
    except (ValueError, KeyError, TypeError):
        logger.warning("%s cannot be read: its weights are left where they are", path)
    path.unlink()
    for name in names:
        (out / Path(name).name).unlink(missing_ok=True)
