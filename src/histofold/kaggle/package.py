"""Finished runs as one folder of weights: members that predict alike, with thresholds, scores and shares."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from histofold.competitions.tables import read_table
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.core.metrics.calibration import scaled_score
from histofold.kaggle.weights_folder import check_target, write_package
from histofold.schema.choices import CHOICES_NAME, CHOSEN_SETTINGS, agreed_choices, read_choices, read_cleaning
from histofold.schema.experiment import JointRuns, joint_folder
from histofold.schema.files import moved_path, weights_rule, write_atomically
from histofold.schema.manifest import (
    MANIFEST_NAME,
    Manifest,
    Member,
    file_sha256,
    joined_thresholds,
    manifest_json,
    read_thresholds,
)
from histofold.schema.network import SCORE_LINE, is_detector
from histofold.schema.objects import ObjectConfig, with_mean_choices
from histofold.schema.parse import load_toml, plain, read_json
from histofold.schema.run_record import RunRecord, finished_records, read_records
from histofold.schema.sam import SAM

AGREED_SETTINGS = (
    *("competition", "classes", "views", "average", "skip_blank"),
    *("min_area_um2", "max_hole_um2", "seed_threshold", "objects", "volume"),
)
TILE_SETTINGS = ("tile", "halo", "blend", "stride")


def package_runs(
    runs: Sequence[Path],
    out: Path,
    slug: str = "",
    licence: str = "other",
    shares: Sequence[float] = (),
    batch: Callable[[Manifest, Path], int] | None = None,
) -> Manifest:
    """Put every finished fold of the runs into one flat folder and check the result.

    Runs may differ in network and preprocessing, scale included: each member carries its own. They must agree in all
    else that decides a prediction.

    Args:
        runs: Run folders, runs/A, or files that name some, as experiments/group_ensemble.toml.
        out: Where to write; files that an earlier package put there are replaced.
        slug: Name of the dataset on Kaggle.
        licence: Its licence.
        shares: Part of each run in the average, divided among its folds; none: every member counts alike.
        batch: Proposes the tiles of a forward pass for a finished package; None leaves what the runs say.

    Raises:
        InputError: With all faults: runs without finished folds, overfitting checks, runs that do not fit together,
            folds with the same weights.
    """
    folders, parts = _named_runs(runs, shares)
    records = [(run, record) for run in folders for record in finished_records(run).values()]
    evaluated = {run: _evaluated_as_it_is(run) for run in folders}
    manifest = _joined(records)
    lines = _score_lines(records, evaluated)
    thresholds = _mean_thresholds(evaluated, manifest.objects.min_score if manifest.objects else 0.5)
    objects = _chosen_objects(manifest.objects, evaluated, lines)
    if objects and lines:
        thresholds = {"default": objects.min_score}
    manifest = replace(manifest, thresholds=thresholds, objects=objects)
    if together := {} if parts else _evaluated_together(runs, folders):
        parts = {run: together["shares"][run.name] for run in folders}
        manifest = replace(manifest, thresholds=together["thresholds"], **together["cleaning"])
    else:
        manifest = _with_chosen_cleaning(manifest, evaluated)
    _refuse_unproven_skipping(evaluated, manifest)
    idle = {key: value for key, value in manifest.thresholds.items() if value >= manifest.seed_threshold > 0}
    if idle and not (manifest.volume and manifest.volume.most_share):  # whose thresholds are no probabilities
        logger.warning(
            "seed_threshold=%s does nothing where the threshold is as high: %s", manifest.seed_threshold, idle
        )
    for run, missing in missing_folds(records).items():
        logger.warning("%s is incomplete: folds %s are not finished, and not packaged", run, ", ".join(missing))
    check_target(out)
    sources = _member_sources(records)
    folds = Counter(run for run, _ in records)
    members = [
        Member(
            file=target,
            sha256=file_sha256(source),
            architecture=record.architecture,
            arguments=record.arguments | ({SCORE_LINE: list(lines[run])} if lines else {}),
            fold=record.fold,
            oof_score=_oof_score(run, record.fold) if evaluated[run] else None,
            weight=parts[run] / folds[run] if parts else 1.0,
            preprocessing=None
            if record.manifest.preprocessing == manifest.preprocessing
            else record.manifest.preprocessing,
        )
        for (run, record), (target, source) in zip(records, sources.items(), strict=True)
    ]
    manifest = write_package(replace(manifest, members=tuple(members)), sources, out, slug, licence)
    if batch is not None:
        manifest = replace(manifest, batch=batch(manifest, out))
        write_atomically(out / MANIFEST_NAME, manifest_json(manifest))
    return manifest


def missing_folds(records: Sequence[tuple[Path, RunRecord]]) -> dict[Path, list[str]]:
    """The folds of each incomplete run that are not finished."""
    finished = {(run, record.fold) for run, record in records}
    known: dict[Path, set[int]] = {}
    for run, record in records:
        known.setdefault(run, set()).update(record.folds)
    lost = {run: [str(k) for k in sorted(folds) if (run, k) not in finished] for run, folds in known.items()}
    return {run: folds for run, folds in lost.items() if folds}


def _named_runs(paths: Sequence[Path], shares: Sequence[float]) -> tuple[list[Path], dict[Path, float]]:
    """The runs, those of every ensemble file in its place, and their shares where some are given.

    Raises:
        InputError: No run is named, or not every one of them has a positive share.
    """
    if not paths:
        raise InputError([Fault("runs", "command line", "no run given", "name at least one, as runs/E")])
    runs: list[Path] = []
    given: list[float] = []
    for path in paths:
        joint = load_toml(JointRuns, path) if path.suffix == ".toml" else JointRuns(runs=(str(path),))
        runs += [moved_path(Path(run), path) for run in joint.runs]
        given += joint.shares
    if shares and given:
        raise InputError([Fault("shares", "command line", "given here and in a file", "give them in one place")])
    given = given or list(shares)
    if given and (len(given) != len(runs) or not all(0 < share < math.inf for share in given)):
        rule = f"{len(given)} shares for {len(runs)} runs"
        raise InputError([Fault("shares", "command line", rule, "give each run a positive share, or none of them")])
    return runs, dict(zip(runs, given, strict=True)) if given else {}


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
        if rule := weights_rule(source):
            remedy = "copy the run again, or let `histofold train E.toml --resume` write it"
            faults.append(Fault(target, str(source), rule, remedy))
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
    remedy = "leave it out: it stands beside trained networks in reports alone"
    faults += [
        Fault(f"{run.name}/fold{record.fold}", str(run), "Segment Anything is a baseline: no kernel holds it", remedy)
        for run, record in records
        if record.architecture == SAM
    ]
    if faults:
        raise InputError(faults)
    return first


def _mean_thresholds(evaluated: dict[Path, bool], otherwise: float) -> dict[str, float]:
    """Thresholds of the runs' evaluations, averaged; with a warning another where a run was not evaluated as it is."""
    tables = []
    for run, as_it_is in evaluated.items():
        path = run / "thresholds.json"
        if path.is_file() and as_it_is:
            tables.append(read_thresholds(path))
        else:
            words = "%s was not evaluated since it was trained: packaged with the threshold %g"
            logger.warning(words, run, otherwise)
            tables.append({"default": otherwise})
    return joined_thresholds(tables)


def _score_lines(
    records: Sequence[tuple[Path, RunRecord]], evaluated: Mapping[Path, bool]
) -> dict[Path, Sequence[float]]:
    """Of several runs of detectors, whose scores are to be ranked together, what their evaluations scale them by.

    None where there is one run, whose ranking no line changes, or where a run was not evaluated as it is.
    """
    if len(evaluated) < 2 or not all(is_detector(record.architecture) for _, record in records):
        return {}
    if not all(evaluated.values()):
        logger.warning("not every run was evaluated since it was trained: their scores are ranked as they are")
        return {}
    lines = {}
    for run in evaluated:
        remedy = f"run `histofold evaluate {run}` again"
        summary = read_json(run / "summary.json", remedy)
        if "calibration" not in summary:
            raise InputError([Fault("calibration", str(run / "summary.json"), "an older evaluation lacks it", remedy)])
        lines[run] = summary["calibration"][SCORE_LINE]
    return lines


def _chosen_objects(
    own: ObjectConfig | None, evaluated: Mapping[Path, bool], lines: Mapping[Path, Sequence[float]]
) -> ObjectConfig | None:
    """How objects are found, with what the runs' evaluations chose; None for runs of masks."""
    if own is None:
        return None
    tables = []
    for run, as_it_is in evaluated.items():
        table = read_choices(run / CHOICES_NAME, CHOSEN_SETTINGS) if as_it_is else {}
        if run in lines:  # fused scores fall with every pass that does not agree, so that it must not rise
            chosen = table.get("min_score", own.min_score)
            table["min_score"] = min(chosen, scaled_score(chosen, lines[run]))
        tables.append(table)
    return with_mean_choices(own, tables)


def _evaluated_together(paths: Sequence[Path], folders: Sequence[Path]) -> dict[str, Any]:
    """What an evaluation of the runs of one file as an ensemble chose; nothing where none saw them as they are."""
    path = joint_folder(paths[0], folders[0].parent) / "summary.json"
    if len(paths) > 1 or paths[0].suffix != ".toml" or not path.is_file():
        return {}
    remedy = f"run `histofold evaluate {paths[0]}` again"
    summary = read_json(path, remedy)
    if not isinstance(summary, dict) or not {"shares", "thresholds", "cleaning", "runs"} <= summary.keys():
        raise InputError([Fault(path.stem, str(path), "no summary of an evaluation of runs together", remedy)])
    if summary["runs"] == {run.name: _weights_and_settings(run) for run in folders}:
        return dict(summary)
    logger.warning("%s was not evaluated since its runs were trained: every member counts alike", paths[0])
    return {}


def _weights_and_settings(run: Path) -> dict[str, Any]:
    """What an evaluation of a run depends on, as it is now."""
    weights = {path.parent.name: file_sha256(path) for path in run.glob("fold*/model.safetensors")}
    settings = {folder.name: plain(record.manifest) for folder, record in read_records(run).items()}
    return {"weights_sha256": weights, "settings": settings}


def _with_chosen_cleaning(manifest: Manifest, evaluated: Mapping[Path, bool]) -> Manifest:
    """A manifest with the settings of cleaning that all runs' evaluations chose alike; else with a warning the own."""
    chosen = {run: read_cleaning(run) if as_it_is else {} for run, as_it_is in evaluated.items()}
    settings: dict[str, Any] = agreed_choices(list(chosen.values()))
    if not settings and any(chosen.values()):
        words = "; ".join(f"{run}: {each or 'their own'}" for run, each in chosen.items())
        logger.warning("the runs chose different settings of cleaning, so that their own stay: %s", words)
    return replace(manifest, **settings)


def _evaluated_as_it_is(run: Path) -> bool:
    """Whether the evaluation saw exactly the folds, weights and settings that stand there now."""
    path = run / "summary.json"
    if not path.is_file():
        return False
    remedy = f"run `histofold evaluate {run}` again"
    summary = read_json(path, remedy)
    if not isinstance(summary, dict) or not {"weights_sha256", "settings", "images"} <= set(summary):
        raise InputError([Fault(path.stem, str(path), "no summary of an evaluation", remedy)])
    as_it_is = all(summary[name] == now for name, now in _weights_and_settings(run).items())
    if as_it_is and (found := len(_oof_table(run))) != summary["images"]:
        rule = f"{found} images, and {summary['images']} were evaluated: it was cut short"
        raise InputError([Fault("oof", str(run / "oof.csv"), rule, remedy)])
    return as_it_is


def _oof_table(run: Path) -> pd.DataFrame:
    """oof.csv of an evaluated run, the scores as numbers; no rows where there is no file.

    Raises:
        InputError: If it is cut short or no table.
    """
    path, score = run / "oof.csv", "ap" if _is_of_objects(run) else "dice"
    if not path.is_file():
        return pd.DataFrame(columns=["fold", score])
    try:
        table = read_table(path, ("id", "fold", score))
        return table.assign(fold=table["fold"].astype(int), **{score: pd.to_numeric(table[score])})
    except ValueError as error:  # an InputError is one
        rule, remedy = f"not a whole table of scores ({error})", f"run `histofold evaluate {run}` again"
        raise InputError([Fault("oof", str(path), rule, remedy)]) from error


def _is_of_objects(run: Path) -> bool:
    return (run / CHOICES_NAME).is_file()


def _oof_score(run: Path, fold: int) -> float | None:
    if _is_of_objects(run):  # their score of a fold is no mean over its images
        score = read_json(run / "summary.json", f"run `histofold evaluate {run}` again")["folds"][str(fold)]["score"]
        return round(score, 6) if math.isfinite(score) else None
    table = _oof_table(run)
    scores = table.loc[table["fold"] == fold, "dice"]
    return round(float(scores.mean()), 6) if len(scores) else None
