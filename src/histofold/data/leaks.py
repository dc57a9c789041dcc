"""What leaks from training into scores: split groups, near-duplicates, copies, tiles, labels and earlier runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from histofold.competitions.base import CLUSTER_PREFIX
from histofold.core.faults import Fault, listed_ids
from histofold.data.folds import ALWAYS_TRAINED
from histofold.schema.manifest import file_sha256
from histofold.schema.run_record import RECORD_NAME, read_records
from histofold.schema.sample import Sample

STAMP_PIECES = 64
STAMP_BYTES = 4096
MOST_LINES = 20  # of one kind of notice
PSEUDO = "pseudo"


@dataclass
class LeakReport:
    """What was found."""

    faults: list[Fault] = field(default_factory=list)
    """Tables that contradict each other: no score made with them means anything."""
    notices: list[str] = field(default_factory=list)
    """What makes scores look better than they are, though somebody may have wanted it."""


def patients_in_words(groups: Mapping[str, str], folds: pd.DataFrame | None = None) -> str:
    """What is not known of patients; empty where every image has one, or a group of another kind.

    Args:
        groups: `Sample.group` by id: what the tables say, or the id itself.
        folds: Columns id and group of a folds.csv, which may name groups that the tables do not.
    """
    stated = {group for key, group in groups.items() if group != key} - {""}
    filed = {} if folds is None else dict(zip(folds["id"], folds["group"], strict=True))
    # A group of near-duplicates is named after an image in it.
    known = {group for group in {*stated, *filed.values()} - {""} if not group.startswith(CLUSTER_PREFIX)}
    known -= set(groups) - stated
    unknown = [key for key, group in groups.items() if not {group, filed.get(key, "")} & known]
    if not unknown:
        return ""
    if len(unknown) == len(groups):
        return "no patient is known: each image counts as its own patient"
    words = f"of {len(unknown)} images no patient is known ({listed_ids(unknown)})"
    return f"{words}: each of them counts as its own patient"


def find_leaks(
    folds: pd.DataFrame,
    samples: Sequence[Sample],
    *,
    index: pd.DataFrame | None = None,
    clusters: Mapping[str, str] | None = None,
) -> LeakReport:
    """Hold folds against all that should not be split by them.

    Args:
        folds: Columns id, group, fold (int) of folds.csv.
        samples: The training samples; their files are compared byte by byte where they have the same size.
        index: Columns id, fold of index.csv, and label_origin, label_fold where it has them.
        clusters: Cluster of near-duplicates by id.
    """
    fold_of = {str(key): int(fold) for key, fold in zip(folds["id"], folds["fold"], strict=True)}
    unscored = {sample.id for sample in samples if not sample.is_scored and fold_of.get(sample.id) == ALWAYS_TRAINED}
    scored = {key: fold for key, fold in fold_of.items() if key not in unscored}  # a fold leaves out what is kin to it
    groups = {sample.id: sample.group or sample.id for sample in samples}
    named = folds[folds["group"] != ""]  # a file need not name groups
    filed = dict(zip(named["id"].astype(str), named["group"].astype(str), strict=True))
    report = LeakReport()
    split = {**_split(groups, scored), **_split(filed, scored)}
    report.notices += _notices(split, "group {} stands in folds {}: its images {} score what was trained on")
    near = _split(clusters or {}, scored)
    report.notices += _notices(near, "near-duplicates of {} stand in folds {}: {} are almost one image")
    copies = _split(same_files(samples), fold_of, fewest=1)
    across = {name: places for name, places in copies.items() if len(set(places.values())) > 1}
    inside = {name: places for name, places in copies.items() if name not in across}
    report.notices += _notices(across, "the file of {} stands in folds {} under the ids {}")
    report.notices += _notices(inside, "the file of {0} stands in fold {1} under the ids {2}: it counts twice")
    if index is not None:
        report.faults += _index_faults(index, fold_of)
    return report


def _split(names: Mapping[str, str], fold_of: Mapping[str, int], fewest: int = 2) -> dict[str, dict[str, int]]:
    """Fold by id of each name whose images stand in at least `fewest` folds."""
    members: dict[str, dict[str, int]] = {}
    for key, name in names.items():
        if key in fold_of:
            members.setdefault(name, {})[key] = fold_of[key]
    return {name: places for name, places in members.items() if len(set(places.values())) >= fewest}


def _notices(split: Mapping[str, Mapping[str, int]], words: str) -> list[str]:
    """A line for each name, its folds and its ids; of many only the first, and how many there are."""
    lines = [
        words.format(name, ", ".join(map(str, sorted(set(places.values())))), listed_ids(places))
        for name, places in list(split.items())[:MOST_LINES]
    ]
    left = len(split) - len(lines)
    return [*lines, f"and {left} more of this kind"] if left else lines


def _index_faults(index: pd.DataFrame, fold_of: Mapping[str, int]) -> list[Fault]:
    """Tiles that stand in another fold than their image, and pseudo-labels that are scored or of no fold."""
    remedy = "build the dataset anew"
    faults = []
    for key, found in index.groupby(index["id"].astype(str), sort=False)["fold"].unique().items():
        wanted = fold_of.get(str(key))
        if len(found) > 1:
            rule = f"tiles of one image stand in folds {', '.join(map(str, sorted(found)))}: it leaks"
            faults.append(Fault(str(key), "index.csv", rule, remedy))
        elif wanted is None:
            faults.append(Fault(str(key), "index.csv", "its tiles are of no image of folds.csv", remedy))
        elif int(found[0]) != wanted:
            rule = f"its tiles stand in fold {found[0]} and folds.csv says {wanted}: it leaks"
            faults.append(Fault(str(key), "index.csv", rule, remedy))
    if "label_origin" not in index.columns:
        return faults
    made = index[index["label_origin"] == PSEUDO].astype({"fold": int})
    for key in made.loc[made["fold"] != ALWAYS_TRAINED, "id"].unique():
        faults.append(Fault(str(key), "index.csv", "pseudo-labels in a fold: a score against them is none", remedy))
    label_folds = pd.to_numeric(made.get("label_fold", pd.Series(index=made.index)), errors="coerce")
    for key in made.loc[~(label_folds >= 0), "id"].unique():  # an empty cell is no number, and none is >= 0
        rule = "pseudo-labels without label_fold: nothing says whose validation images their network saw"
        faults.append(Fault(str(key), "index.csv", rule, remedy))
    return faults


def image_stamp(path: Path) -> str:
    """Identify a file by its size and 64 pieces of 4 KiB spread over it, as hexadecimal; empty where it is missing.

    Files that differ in size, or in any piece, differ in it; slides of gigabytes need not be read whole.
    """
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with path.open("rb") as stream:
            for piece in range(STAMP_PIECES):
                stream.seek(max(0, size - STAMP_BYTES) * piece // (STAMP_PIECES - 1), os.SEEK_SET)
                digest.update(stream.read(STAMP_BYTES))
    except OSError:
        return ""
    return digest.hexdigest()[:32]


def same_files(samples: Sequence[Sample]) -> dict[str, str]:
    """For each image whose file is byte for byte that of another one, the first id of these; by id."""
    known = {sample.id: sample.image_path for sample in samples if sample.image_path.is_file()}
    keys: dict[str, tuple[object, ...]] = {key: (path.stat().st_size,) for key, path in known.items()}
    for reading in (image_stamp, file_sha256):  # each only where what was cheaper to read is equal
        counts: dict[tuple[object, ...], int] = {}
        for found in keys.values():
            counts[found] = counts.get(found, 0) + 1
        keys = {key: (*found, reading(known[key])) for key, found in keys.items() if counts[found] > 1}
    first: dict[tuple[object, ...], str] = {}
    named = {key: first.setdefault(found, key) for key, found in keys.items()}
    shared = {name for key, name in named.items() if key != name}
    return {key: name for key, name in named.items() if name in shared}


def forbidden_samples(folds: pd.DataFrame, samples: Mapping[str, Sample], fold: int) -> list[Sample]:
    """What a network must not have seen to be scored on a fold: its images, and those of their groups.

    Images that the fold itself trains on are left aside: where folds split groups, `find_leaks` says so.

    Args:
        folds: Columns id, group, fold of folds.csv.
        samples: Samples by id.
        fold: The fold that is held out.
    """
    held_out = folds["fold"] == fold
    own = set(folds.loc[held_out, "id"])
    groups = {sample.group for key, sample in samples.items() if key in own and sample.group}
    groups |= set(folds.loc[held_out, "group"])
    allowed = set(folds.loc[~held_out, "id"])
    return [s for key, s in samples.items() if key in own or (s.group in groups and key not in allowed)]


def seen_images(
    trained_on: Mapping[str, str], competition: str, forbidden: Sequence[Sample], own_competition: str
) -> list[str]:
    """The ids of the forbidden images that a network has seen.

    Args:
        trained_on: `trained_on` of its run.json: file stamp by id, ids of further sources as `source/id`.
        competition: Name of the adapter that the ids are of.
        forbidden: What it must not have seen.
        own_competition: Name of their adapter. Equal ids are equal images within one competition; the names of files
            in plain folders prove nothing, there the files themselves decide.
    """
    stamps = set(trained_on.values()) - {""}
    by_id = set(trained_on) if competition == own_competition != "folder" else set()
    return [s.id for s in forbidden if s.id in by_id or image_stamp(s.image_path) in stamps]


def run_leaks(run: Path) -> list[Fault]:
    """Folds of a run that were scored on images that they had been trained on; overfitting checks are left aside."""
    faults = []
    for folder, record in read_records(run).items():
        both = [key for key in record.dice_by_id if key in record.trained_on]
        if both and record.limit is None:
            rule = f"scored on {len(both)} images that it was trained on: {listed_ids(both)}"
            faults.append(Fault(folder.name, str(folder / RECORD_NAME), rule, "train the fold anew"))
    return faults
