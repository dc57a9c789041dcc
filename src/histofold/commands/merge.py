"""`histofold merge S0.csv S1.csv ... --out FILE.csv`: the shards of one submission, joined."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from histofold.commands import parse_options
from histofold.core.log import logger


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Join the shards of one submission that `histofold predict --num-shards N --shard-id I` wrote."""

    shards: tyro.conf.Positional[tuple[Path, ...]]
    """All shards, in any order; the sidecar FILE.csv.json of each lies beside it."""
    out: Path
    """The submission."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(MergeOptions, "merge", arguments)
    from histofold.predict.submission.merge import merge_shards

    merged = merge_shards(options.shards, options.out)
    for sample_id, reason in merged.fallback.items():
        logger.warning("fallback row: %s: %s", sample_id, reason)
    print(f"{merged.words()}, in {options.out}")
    return 0
