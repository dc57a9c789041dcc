"""The sidecar of a shard: whose part of a submission a csv holds, so that parts are only ever merged with their own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from histofold.schema.parse import plain

SHARD_FORMAT = "histofold-shard/1"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several parts of a submission; its csv is finished when this stands beside it."""

    format: str = SHARD_FORMAT
    """Version of this description."""
    competition: str
    """Name of the adapter."""
    columns: tuple[str, ...]
    """Columns of the csv: id and row, of several classes id, class and row."""
    classes: tuple[str, ...]
    """Mask classes; of several of them an id has a row for each."""
    manifests: tuple[str, ...]
    """SHA-256 of the text of each manifest, in the order of the ensemble."""
    all_ids_sha256: str
    """SHA-256 of the ids of the whole submission, in order."""
    num_ids: int
    """How many they are."""
    num_shards: int
    """Parts of the submission."""
    shard_id: int
    """Which part this is, counted from 0."""
    ids: tuple[str, ...]
    """Ids of this part, in the order of its rows."""
    places: tuple[int, ...]
    """For each of them its place in the whole submission, counted from 0."""
    fallback: dict[str, str] = field(default_factory=dict)
    """For each id that kept its fallback row, the reason."""
    degraded: tuple[str, ...] = ()
    """Ids that were predicted with fewer views or members, since time was short."""
    csv_sha256: str
    """SHA-256 of the csv's bytes."""
    inputs_sha256: str
    """Digest of weights, tables and image files; a finished part is taken as it is only where it is the same."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the packages that predicted."""

    def __post_init__(self) -> None:
        if self.format != SHARD_FORMAT:
            raise ValueError(f"format={self.format!r} is not {SHARD_FORMAT!r}: predict the shard anew")
        check_shard_numbers(self.num_shards, self.shard_id)
        if len(self.columns) < (3 if len(self.classes) > 1 else 2):
            raise ValueError(f"columns={self.columns} do not fit classes={self.classes}")
        if len(set(self.ids)) < len(self.ids):
            raise ValueError("an id stands twice in ids")
        inside = all(0 <= place < self.num_ids for place in self.places)
        rising = all(first < second for first, second in zip(self.places, self.places[1:], strict=False))
        if len(self.places) != len(self.ids) or not inside or not rising:
            raise ValueError(f"places must rise, lie below num_ids={self.num_ids}, and be as many as ids")
        strangers = sorted({*self.fallback, *self.degraded} - set(self.ids))
        if strangers:
            raise ValueError(f"fallback or degraded ids that are not in ids: {', '.join(strangers[:3])}")

    @property
    def rows_per_id(self) -> int:
        """Lines of the csv for each id."""
        return max(1, len(self.classes))


def check_shard_numbers(num_shards: int, shard_id: int) -> None:
    """Refuse numbers that name no part.

    Raises:
        ValueError: If there are no shards, or this is none of them.
    """
    if num_shards < 1:
        raise ValueError(f"num_shards={num_shards}: a submission has at least 1 shard")
    if not 0 <= shard_id < num_shards:
        raise ValueError(f"shard_id={shard_id}: {num_shards} shards are counted from 0 to {num_shards - 1}")


def sidecar_path(csv_path: Path) -> Path:
    """Where the sidecar of a shard's csv lies: FILE.csv.json."""
    return csv_path.with_name(f"{csv_path.name}.json")


def shard_json(shard: Shard) -> str:
    """The sidecar as text."""
    return json.dumps(plain(shard), indent=2) + "\n"
