"""`histofold predict --weights DIR --data DIR --out FILE.csv`: the submission, through the kernel's own code.

With --num-shards N --shard-id I it is one part of it, for `histofold merge`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from histofold.commands import parse_options
from histofold.core.log import logger
from histofold.schema.kinds import require_kind
from histofold.schema.shard import check_shard_numbers, sidecar_path


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Predict a folder and write the submission."""

    weights: Path
    """Folder that `histofold package` filled."""
    data: Path
    """The competition folder; ids and order come from its sample_submission.csv (a plain folder needs none)."""
    out: Path
    """The submission."""
    competition: str = ""
    """Name of the adapter of --data (folder: any images); else that of the weights, or what --data is seen to be."""
    limit_s: float | None = None
    """Seconds that the run may take; it then leaves out views, members and images, in this order."""
    num_shards: int | None = None
    """Predict only one of so many parts, for `histofold merge`; a sidecar FILE.csv.json then stands beside the rows."""
    shard_id: int | None = None
    """Which part, counted from 0."""

    def __post_init__(self) -> None:
        if self.limit_s is not None and not 0 < self.limit_s < math.inf:
            raise ValueError(f"--limit-s {self.limit_s:g} must be a positive number of seconds")
        if (self.num_shards is None) != (self.shard_id is None):
            raise ValueError("--num-shards and --shard-id belong together: give both or none")
        if self.num_shards is not None and self.shard_id is not None:
            check_shard_numbers(self.num_shards, self.shard_id)


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(PredictOptions, "predict", arguments)
    require_kind(options.weights, "weights")
    require_kind(options.data, "data")
    if options.num_shards is not None and options.shard_id is not None:
        return _run_shard(options, options.num_shards, options.shard_id)
    from histofold.predict.submission.shards import predict_folder

    summary = predict_folder(options.weights, options.data, options.out, options.limit_s, options.competition)
    _tell_fallbacks(summary.failed)
    total = summary.done + summary.taken_over + len(summary.failed)
    print(f"{total} rows, {len(summary.failed)} of them fallback rows, in {options.out}")
    return 0


def _tell_fallbacks(failed: Mapping[str, str]) -> None:
    for sample_id, reason in failed.items():
        logger.warning("fallback row: %s: %s", sample_id, reason)


def _run_shard(options: PredictOptions, num_shards: int, shard_id: int) -> int:
    from histofold.predict.submission.shards import predict_shard

    part, competition = (num_shards, shard_id), options.competition
    shard, is_new = predict_shard(
        options.weights, options.data, options.out, part, limit_s=options.limit_s, competition=competition
    )
    if not is_new:
        print(
            f"shard {shard_id} of {num_shards} is finished, with the same weights, tables and images: left as it is; "
            f"delete {sidecar_path(options.out)} to predict it again"
        )
    _tell_fallbacks(shard.fallback)
    print(
        f"shard {shard_id} of {num_shards}: {len(shard.ids)} of {shard.num_ids} images, {len(shard.fallback)} of them "
        f"with fallback rows, in {options.out}"
    )
    return 0
