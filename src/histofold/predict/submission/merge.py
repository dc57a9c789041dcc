"""Shards back into one submission: refused unless they are all the parts of one run, unchanged."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.predict.submission.shards import ids_digest, shard_run
from histofold.schema.files import csv_lines, remove_leftovers, write_pieces_atomically
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
    starts: np.ndarray
    """Where in the file the lines of each id begin, and where the last ones end, int64 (ids + 1,)."""


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
    rows = tqdm(_placed_rows(parts), total=first.num_ids, desc="merge", unit="image", dynamic_ncols=True)
    adapter = get_competition(first.competition)
    write_pieces_atomically(out, map(str.encode, adapter.submission_pieces(rows, first.classes)))
    fallback = {key: reason for part in parts for key, reason in part.shard.fallback.items()}
    return MergedShards(first.num_ids, fallback, tuple(key for part in parts for key in part.shard.degraded))


def _placed_rows(parts: Sequence[_Part]) -> Iterator[tuple[str, str]]:
    """Each id and its rows in the order of the submission, read where they lie: memory holds those of one id."""
    places = np.concatenate([part.shard.places for part in parts]).astype(np.int64)
    owners = np.repeat(np.arange(len(parts)), [len(part.shard.ids) for part in parts])
    numbers = np.concatenate([np.arange(len(part.shard.ids)) for part in parts])
    for place in places.argsort():
        part, number = parts[owners[place]], numbers[place]
        with part.path.open("rb") as stream:
            stream.seek(part.starts[number])
            lines = _csv_rows(stream.read(part.starts[number + 1] - part.starts[number]))
        yield part.shard.ids[number], "\n".join(",".join(line[_key_columns(part.shard) :]) for line in lines)


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
    shard = load_own_json(Shard, sidecar, "copy it again, or predict the shard anew")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != shard.csv_sha256:
        rule = "its bytes are not those that its sidecar names: it was changed, or cut short"
        raise InputError([Fault(path.name, str(path), rule, "copy it again, or predict the shard anew")])
    wanted = [[key, *name] for key in shard.ids for name in _class_cells(shard)]
    rows, keys = _csv_rows(content), _key_columns(shard)
    ends = np.cumsum([len(csv_lines([row]).encode()) for row in rows])  # as we have written them
    is_ours = rows[:1] == [list(shard.columns)] and ends[-1] == len(content)
    if not is_ours or [row[:keys] for row in rows[1:]] != wanted:
        rule = "its columns or ids are not those that its sidecar names"
        raise InputError([Fault(path.name, str(sidecar), rule, "predict the shard anew")])
    return _Part(path, shard, ends[:: shard.rows_per_id])


def _class_cells(shard: Shard) -> list[list[str]]:
    """What stands between id and row in the lines of an id: nothing, or the name of the class."""
    return [[name] for name in shard.classes] if shard.rows_per_id > 1 else [[]]


def _key_columns(shard: Shard) -> int:
    """Columns before a row: the id, and of several classes the class."""
    return 1 + len(_class_cells(shard)[0])


def _csv_rows(content: bytes) -> list[list[str]]:
    csv.field_size_limit(_ROW_CHARACTERS)
    return list(csv.reader(io.StringIO(content.decode(), newline="")))


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
