"""Weights for Kaggle: a flat folder with the members, their manifest, and the wheel that their network needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from histoseg.core.faults import Fault, InputError
from histoseg.core.log import logger
from histoseg.kaggle.metadata import dataset_metadata
from histoseg.kaggle.wheel import build_wheel
from histoseg.schema.atomic import write_atomically, write_bytes_atomically
from histoseg.schema.manifest import MANIFEST_NAME, Manifest, Member, file_sha256, load_manifest, manifest_json
from histoseg.schema.parse import parse_dataclass

WHEEL_DISTRIBUTION = "segmentation-models-pytorch"
METADATA_NAME = "dataset-metadata.json"


def package_runs(runs: Sequence[Path], out: Path, slug: str = "", licence: str = "other") -> Manifest:
    """Put every finished fold of the runs into one flat folder and check the result.

    Args:
        runs: Run folders, runs/A.
        out: Where to write; files that an earlier package put there are replaced.
        slug: Name of the dataset on Kaggle.
        licence: Its licence.

    Raises:
        InputError: With all faults: runs without finished folds, overfitting checks, runs that do not fit together,
            folds with the same weights.
    """
    if not runs:
        raise InputError([Fault("runs", "command line", "no run given", "name at least one, as runs/E")])
    records = [(run, record) for run in runs for record in _records(run)]
    manifest = _joined(records)
    thresholds = _mean_thresholds(runs)
    out.mkdir(parents=True, exist_ok=True)
    _remove_earlier(out)
    members = [_copy_member(run, record, out) for run, record in records]
    manifest = replace(manifest, members=tuple(members), thresholds=thresholds)
    build_wheel(WHEEL_DISTRIBUTION, out)
    name = slug or "histoseg-" + "-".join(run.name.replace("_", "-").lower() for run in runs)[:40]
    metadata = dataset_metadata(slug=name, title=name, licence=licence)
    write_atomically(out / METADATA_NAME, json.dumps(metadata, indent=2) + "\n")
    write_atomically(out / MANIFEST_NAME, manifest_json(manifest))
    return load_manifest(out)


def _records(run: Path) -> list[dict[str, Any]]:
    paths = sorted(run.glob("fold*/run.json"))
    if not paths:
        raise InputError([Fault(run.name, str(run), "no finished fold", "train it first: `histoseg train`")])
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    faults = [
        Fault(f"fold {record['fold']}", str(run), "an overfitting check (--limit)", "train the fold in full")
        for record in records
        if record["limit"] is not None
    ]
    if faults:
        raise InputError(faults)
    return records


def _joined(records: Sequence[tuple[Path, dict[str, Any]]]) -> Manifest:
    """The one manifest of all runs; they must predict the same way."""
    manifests = [parse_dataclass(Manifest, record["manifest"], str(run)) for run, record in records]
    first = manifests[0]
    settings = ("competition", "preprocessing", "classes", "min_area_um2", "tile", "halo", "blend", "stride", "views")
    faults = [
        Fault(
            f"{run.name}/fold{record['fold']}",
            str(run),
            f"{name} is {getattr(manifest, name)!r} and {records[0][0].name} has {getattr(first, name)!r}",
            "package the runs apart: a kernel joins several packages",
        )
        for (run, record), manifest in zip(records, manifests, strict=True)
        for name in settings
        if getattr(manifest, name) != getattr(first, name)
    ]
    if faults:
        raise InputError(faults)
    return first


def _mean_thresholds(runs: Sequence[Path]) -> dict[str, float]:
    """Thresholds of the runs' evaluations, averaged; 0.5 with a warning where a run was not evaluated."""
    tables = []
    for run in runs:
        path = run / "thresholds.json"
        if path.is_file():
            tables.append(json.loads(path.read_text(encoding="utf-8")))
        else:
            logger.warning("%s was not evaluated: packaged with the threshold 0.5 and without a score", run)
            tables.append({"default": 0.5})
    keys = sorted({key for table in tables for key in table}, key=lambda key: (key != "default", key))
    return {key: sum(t.get(key, t["default"]) for t in tables) / len(tables) for key in keys}


def _copy_member(run: Path, record: dict[str, Any], out: Path) -> Member:
    source = run / f"fold{record['fold']}" / "model.safetensors"
    target = out / f"{run.name}_fold{record['fold']}.safetensors"
    write_bytes_atomically(target, source.read_bytes())
    return Member(
        file=target.name,
        sha256=file_sha256(target),
        architecture=record["architecture"],
        arguments=record["arguments"],
        fold=record["fold"],
        oof_score=_oof_score(run, record["fold"]),
    )


def _oof_score(run: Path, fold: int) -> float | None:
    path = run / "oof.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path, dtype={"id": str})
    scores = table.loc[table["fold"] == fold, "dice"]
    return round(float(scores.mean()), 6) if len(scores) else None


def _remove_earlier(out: Path) -> None:
    """Remove what an earlier package left: its manifest first, so that no half of it can be taken for a whole."""
    for pattern in (MANIFEST_NAME, METADATA_NAME, "*.safetensors", "*.whl"):
        for path in out.glob(pattern):
            path.unlink()
