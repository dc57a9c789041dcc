"""A submission in shards that any number of processes share: each takes the next one that no other has."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from histofold.core.log import logger
from histofold.predict.submission.shards import FolderRun, open_folder, plan_shards, predict_planned
from histofold.schema.claims import Claims
from histofold.schema.files import LineJournal
from histofold.schema.shard import Shard

PROGRESS = "progress.jsonl"
"""A line for each shard as it is finished: its number, images, fallback rows, seconds, host and time."""


def shards_folder(out: Path) -> Path:
    """Where the shards of a submission lie: FILE.csv.shards."""
    return out.with_name(f"{out.name}.shards")


def shard_paths(out: Path, num_shards: int) -> list[Path]:
    """The csv of each shard; another number of shards has other files."""
    return [shards_folder(out) / f"{shard}_of_{num_shards}.csv" for shard in range(num_shards)]


def predict_free_shards(run: FolderRun, num_shards: int) -> list[int]:
    """Predict the shards of a submission that are neither finished nor under way in another process.

    Whoever is killed frees its shard, and the next process goes on with it after its last finished row.

    Args:
        run: What is predicted; `out` is the submission, beside which the shards lie.
        num_shards: Parts of the submission.

    Returns:
        The shards that other processes are still at; empty where all are finished.

    Raises:
        InputError: As `predict_folder`; if the file system has no locks.
        ValueError: If there are no shards.
    """
    adapter, whole = open_folder(run)
    plan, paths = plan_shards(whole, num_shards), shard_paths(run.out, num_shards)
    waiting, is_busy = list(range(num_shards)), True
    bar = tqdm(total=num_shards, desc="shards", unit="shard", dynamic_ncols=True)
    with Claims(shards_folder(run.out) / f"claims_of_{num_shards}") as claims, bar:
        while waiting and is_busy:
            held, is_busy = [], False
            for shard_id in waiting:
                if not claims.take(shard_id):
                    held.append(shard_id)
                    continue
                started = time.monotonic()
                shard, is_new = predict_planned(replace(run, out=paths[shard_id]), adapter, whole, plan(shard_id))
                if is_new:
                    _note(claims, shards_folder(run.out) / PROGRESS, shard, time.monotonic() - started)
                claims.free(shard_id)
                is_busy |= is_new
                bar.update()
            waiting = held  # whose owners may have ended in the meantime
    return waiting


def _note(claims: Claims, path: Path, shard: Shard, seconds: float) -> None:
    """Add a finished shard to the progress, one process at a time."""
    for sample_id, reason in shard.fallback.items():
        logger.warning("fallback row: %s: %s", sample_id, reason)
    claims.take(shard.num_shards, wait=True)
    counts = {
        "shard": shard.shard_id,
        "of": shard.num_shards,
        "images": len(shard.ids),
        "fallback": len(shard.fallback),
    }
    ended = datetime.now(UTC).isoformat(timespec="seconds")
    LineJournal(path).add({**counts, "seconds": round(seconds, 1), "host": socket.gethostname(), "ended": ended})
    claims.free(shard.num_shards)
