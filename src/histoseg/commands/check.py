"""`histoseg check dataset|weights|submission|kernel PATH`: every fault, one line each. Never loads torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from histoseg.commands.options import parse_options
from histoseg.competitions.base import scan_table
from histoseg.competitions.registry import detect_competition, get_competition
from histoseg.core.faults import Fault, InputError
from histoseg.core.rle import parse_rle
from histoseg.data.audit import audit_folder, audit_test_images
from histoseg.imaging.errors import ImageError
from histoseg.imaging.slide import open_slide
from histoseg.kaggle.metadata import check_dataset_metadata, check_kernel_metadata
from histoseg.schema.manifest import load_manifest


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """List every fault; exit status 2 where there is one."""

    what: tyro.conf.Positional[Literal["dataset", "weights", "submission", "kernel"]]
    """What PATH is."""
    path: tyro.conf.Positional[Path]
    """The competition folder, the weights folder, the submission file, or the kernel's folder."""
    competition: str = ""
    """Name of the adapter; detected where it is not given."""
    data: Path | None = None
    """The competition folder that a submission is held against."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(CheckOptions, "check", arguments)
    checks: dict[str, Callable[[CheckOptions], list[str]]] = {
        "dataset": check_dataset,
        "weights": check_weights,
        "submission": check_submission,
        "kernel": check_kernel,
    }
    for notice in checks[options.what](options):
        print(f"notice: {notice}")
    print(f"{options.path}: no faults")
    return 0


def check_dataset(options: CheckOptions) -> list[str]:
    """Hold a competition folder's tables and images against each other, both splits, every pixel decoded."""
    adapter = get_competition(options.competition) if options.competition else detect_competition(options.path)
    faults = audit_folder(adapter, options.path, decode=True)[1] + audit_test_images(adapter, options.path)
    if faults:
        raise InputError(faults)
    return []


def check_weights(options: CheckOptions) -> list[str]:
    """Check manifest, members and metadata of a weights folder."""
    manifest = load_manifest(options.path)
    get_competition(manifest.competition)  # refuses one that no adapter could write a submission for
    path = options.path / "dataset-metadata.json"
    if not path.is_file():
        return [f"{path} is missing: `histoseg package` writes it"]
    faults, notices = check_dataset_metadata(_read_json(path), options.path)
    if faults:
        raise InputError(faults)
    return [*notices, f"{len(manifest.members)} members of {manifest.competition}"]


def check_kernel(options: CheckOptions) -> list[str]:
    """Check the metadata of a kernel's folder."""
    folder = options.path if options.path.is_dir() else options.path.parent
    faults, notices = check_kernel_metadata(_read_json(folder / "kernel-metadata.json"), folder)
    if faults:
        raise InputError(faults)
    return notices


def _read_json(path: Path) -> dict[str, object]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError([Fault(path.stem, str(path), "no such file", "check the path")]) from error
    except ValueError as error:
        raise InputError([Fault(path.stem, str(path), f"not JSON ({error})", "write it anew")]) from error
    if not isinstance(data, dict):
        raise InputError([Fault(path.stem, str(path), "not an object", "write an object of keys")])
    return data


def check_submission(options: CheckOptions) -> list[str]:
    """Check columns and rows; with --data also ids, order and sizes."""
    if options.competition:
        adapter = get_competition(options.competition)
    else:
        adapter = detect_competition(options.data) if options.data else get_competition("hubmap_2022")
    table, faults = scan_table(options.path, adapter.columns)
    if not set(adapter.columns) <= set(table.columns):
        raise InputError(faults)
    if list(table.columns) != list(adapter.columns):
        rule = f"columns are {', '.join(table.columns)}"
        faults.append(Fault("columns", str(options.path), rule, f"write exactly {', '.join(adapter.columns)}"))
    shapes: dict[str, tuple[int, int]] = {}
    if options.data is not None:
        samples = adapter.samples(options.data, "test")
        if table["id"].tolist() != [sample.id for sample in samples]:
            rule = f"{len(table)} ids that are not the {len(samples)} of sample_submission.csv in its order"
            faults.append(Fault("id", str(options.path), rule, "write every id once, in the sample's order"))
        for sample in samples:
            try:
                with open_slide(sample.image_path) as slide:
                    shapes[sample.id] = slide.shape_hw
            except ImageError:
                continue
    for row in table.to_dict("records"):
        shape_hw = shapes.get(row["id"], (2**24, 2**24))
        text = row[adapter.columns[1]]
        if not text and adapter.never_empty:
            faults.append(Fault(row["id"], str(options.path), "empty row", f"write {adapter.fallback_row!r} at least"))
        try:
            parse_rle(text, shape_hw)
        except ValueError as error:
            faults.append(Fault(row["id"], str(options.path), f"malformed rle: {error}", "encode the mask anew"))
    if faults:
        raise InputError(faults)
    return [] if options.data else ["without --data neither ids nor sizes were checked"]
