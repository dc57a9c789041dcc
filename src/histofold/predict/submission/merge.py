"""Shards back into one submission: refused unless they are all the parts of one run, unchanged."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.predict.submission.shards import ids_digest, shard_run
from histofold.schema.files import remove_leftovers, write_atomically
from histofold.schema.manifest import file_sha256
from histofold.schema.parse import load_own_json
from histofold.schema.shard import Shard, sidecar_path

_ROW_CHARACTERS = 1 << 30  # the rle of one slide may be many megabytes
_NAMED = 10  # how many missing shards or ids a fault names


@dataclass(frozen=True)
class MergedShards:
    """What a merge gave."""

    images: int
    """Ids of the submission."""
    fallback: dict[str, str]
    """For each id that kept its fallback row, the reason."""
    degraded: tuple[str, ...]
    """Ids that were predicted with less than all members and views."""

    def words(self) -> str:
        """The counts, for people."""
        return (
            f"{self.images} images, {len(self.fallback)} of them with fallback rows, {len(self.degraded)} predicted "
            "with fewer views or members"
        )


@dataclass(frozen=True)
class _Part:
    path: Path
    shard: Shard


def merge_shards(paths: Sequence[Path], out: Path) -> MergedShards:
    """Join the csvs of all shards of one submission, its ids in their order.

    Args:
        paths: The shards, in any order, their sidecars beside them.
        out: The submission.

    Raises:
        InputError: With every fault: missing or broken files, changed csvs, mixed runs, gaps and overlaps.
    """
    faults = [
        Fault(out.name, str(out), "--out is one of the shards", "give the submission another name")
        for path in paths
        if out.resolve() in (path.resolve(), sidecar_path(path).resolve())
    ]
    parts: list[_Part] = []
    for path in tqdm(paths, desc="check", unit="shard", dynamic_ncols=True):
        try:
            parts.append(_checked_part(path))
        except InputError as error:
            faults += error.faults
    faults += _run_faults(parts)
    if faults or not parts:
        raise InputError(faults or "no shards are given: name the csv of each")
    _warn_of_versions(parts)
    first = parts[0].shard
    remove_leftovers(out.parent)
    rows_by_place = [("", "")] * first.num_ids
    for part in tqdm(parts, desc="merge", unit="shard", dynamic_ncols=True):
        lines = _csv_rows(part.path)[1:]
        each, keys = part.shard.rows_per_id, part.shard.rows_per_id > 1
        rows = [",".join(line[1 + keys :]) for line in lines]
        for number, (key, place) in enumerate(zip(part.shard.ids, part.shard.places, strict=True)):
            rows_by_place[place] = key, "\n".join(rows[number * each : (number + 1) * each])
    write_atomically(out, get_competition(first.competition).submission_text(dict(rows_by_place), first.classes))
    fallback = {key: reason for part in parts for key, reason in part.shard.fallback.items()}
    return MergedShards(len(rows_by_place), fallback, tuple(key for part in parts for key in part.shard.degraded))


def _checked_part(path: Path) -> _Part:
    """A shard whose csv and sidecar fit each other.

    Raises:
        InputError: If a file is missing, broken or changed.
    """
    sidecar = sidecar_path(path)
    faults = []
    if not path.is_file():
        faults.append(Fault(path.name, str(path), "no such file", "check the path"))
    if not sidecar.is_file():
        rule = "no such file: the shard is not finished, or is a whole submission"
        faults.append(Fault(path.name, str(sidecar), rule, "predict the shard to its end; copy both files"))
    if faults:
        raise InputError(faults)
    part = _Part(path, load_own_json(Shard, sidecar, "copy it again, or predict the shard anew"))
    if file_sha256(path) != part.shard.csv_sha256:
        rule = "its bytes are not those that its sidecar names: it was changed, or cut short"
        raise InputError([Fault(path.name, str(path), rule, "copy it again, or predict the shard anew")])
    wanted = [[key, *name] for key in part.shard.ids for name in _class_cells(part.shard)]
    rows = _csv_rows(path)
    keys = 2 if part.shard.rows_per_id > 1 else 1
    if rows[:1] != [list(part.shard.columns)] or [row[:keys] for row in rows[1:]] != wanted:
        rule = "its columns or ids are not those that its sidecar names"
        raise InputError([Fault(path.name, str(sidecar), rule, "predict the shard anew")])
    return part


def _class_cells(shard: Shard) -> list[list[str]]:
    """What stands between id and row in the lines of an id: nothing, or the name of the class."""
    return [[name] for name in shard.classes] if shard.rows_per_id > 1 else [[]]


def _csv_rows(path: Path) -> list[list[str]]:
    csv.field_size_limit(_ROW_CHARACTERS)
    return list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))


def _run_faults(parts: Sequence[_Part]) -> Iterator[Fault]:
    """Shards of other runs than the first; among those of its run, gaps and overlaps."""
    if not parts:
        return
    own = []
    for part in parts:
        differing = _differences(part.shard, parts[0].shard)
        if differing:
            rule = f"it is of another submission than {parts[0].path.name}: {', '.join(differing)}"
            yield Fault(part.path.name, str(part.path), rule, "merge shards of one run only")
        else:
            own.append(part)
    yield from _overlap_faults(own)
    yield from _gap_faults(own)


def _differences(shard: Shard, first: Shard) -> list[str]:
    """In which words two shards are of different runs."""
    if shard_run(shard) == shard_run(first):
        return []
    pairs = {
        f"competition {shard.competition} and {first.competition}": shard.competition != first.competition,
        f"columns {', '.join(shard.columns)} and {', '.join(first.columns)}": shard.columns != first.columns,
        f"classes {', '.join(shard.classes)} and {', '.join(first.classes)}": shard.classes != first.classes,
        "other weights or settings (manifest)": shard.manifests != first.manifests,
        "other ids or another order": (shard.all_ids_sha256, shard.num_ids) != (first.all_ids_sha256, first.num_ids),
        f"{shard.num_shards} shards and {first.num_shards}": shard.num_shards != first.num_shards,
    }
    return [words for words, differ in pairs.items() if differ]


def _overlap_faults(parts: Sequence[_Part]) -> Iterator[Fault]:
    """Shards that are given twice, and ids that two shards claim."""
    of_shard: dict[int, _Part] = {}
    of_place: dict[int, _Part] = {}
    for part in parts:
        other = of_shard.setdefault(part.shard.shard_id, part)
        if other is not part:
            rule = f"shard {part.shard.shard_id} is given twice, the other time as {other.path}"
            yield Fault(part.path.name, str(part.path), rule, "give each shard once")
            continue
        taken = [place for place in part.shard.places if of_place.setdefault(place, part) is not part]
        if taken:
            rule = f"{len(taken)} of its ids are those of another shard too, {of_place[taken[0]].path}"
            yield Fault(part.path.name, str(part.path), rule, "predict both shards anew")


def _gap_faults(parts: Sequence[_Part]) -> Iterator[Fault]:
    """Shards and ids that are missing, or an order of ids that is not the submission's."""
    first = parts[0].shard
    there = {part.shard.shard_id for part in parts}
    if len(there) < first.num_shards:
        missing = (shard for shard in range(first.num_shards) if shard not in there)
        named = [str(shard) for shard, _ in zip(missing, range(_NAMED), strict=False)]
        more = first.num_shards - len(there) - len(named)
        rule = f"of {first.num_shards} shards these are missing: {', '.join(named)}" + f" and {more} more" * (more > 0)
        yield Fault("shards", str(parts[0].path), rule, "predict them, or name their files too")
        return
    ids = {place: key for part in parts for key, place in zip(part.shard.ids, part.shard.places, strict=True)}
    if len(ids) < first.num_ids or ids_digest([ids[place] for place in sorted(ids)]) != first.all_ids_sha256:
        rule = f"all {first.num_shards} shards hold {len(ids)} of {first.num_ids} ids, or hold them in another order"
        yield Fault("ids", str(parts[0].path), rule, "a sidecar was changed: predict the shards anew")


def _warn_of_versions(parts: Sequence[_Part]) -> None:
    """Bytes are promised for one machine and its versions only: say so where shards were made with several."""
    kinds = {json.dumps(part.shard.versions, sort_keys=True) for part in parts}
    if len(kinds) > 1:
        logger.warning("the shards were predicted with %d different sets of package versions", len(kinds))
