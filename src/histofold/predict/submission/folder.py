"""Packaged weights on a competition folder: the submission, or one shard of it."""

from __future__ import annotations

from pathlib import Path

from histofold.competitions.base import submission_columns
from histofold.competitions.registry import get_competition
from histofold.predict.submission.runner import RunSummary, run_submission
from histofold.predict.submission.shards import WholeRun, finish_shard, finished_shard, planned_shard
from histofold.schema.manifest import load_manifest
from histofold.schema.shard import Shard, sidecar_path


def predict_folder(weights: Path, data: Path, out: Path, limit_s: float | None = None) -> RunSummary:
    """Predict the test split of a folder with packaged weights; the competition is the manifest's.

    Raises:
        InputError: If weights or tables are at fault; single images never are.
    """
    manifest = load_manifest(weights)
    competition = get_competition(manifest.competition)
    samples = competition.samples(data, "test")
    return run_submission(competition, samples, [(weights, manifest)], out, limit_s)


def predict_shard(
    weights: Path, data: Path, out: Path, num_shards: int, shard_id: int, *, limit_s: float | None = None
) -> tuple[Shard, bool]:
    """Predict one part of what `predict_folder` predicts, and write its sidecar; a finished part is left as it is.

    Returns:
        What the sidecar says, and whether anything was predicted.

    Raises:
        InputError: As `predict_folder`; also if another shard of the same submission lies at `out`.
        ValueError: If the numbers name no shard.
    """
    manifest = load_manifest(weights)
    competition = get_competition(manifest.competition)
    samples = competition.samples(data, "test")
    columns = submission_columns(competition, manifest.classes)
    planned = planned_shard(WholeRun(competition.name, columns, (manifest,), tuple(samples)), num_shards, shard_id)
    finished = finished_shard(out, planned)
    if finished is not None:
        return finished, False
    sidecar_path(out).unlink(missing_ok=True)  # from here on the csv is not finished
    own = [samples[place] for place in planned.places]
    summary = run_submission(competition, own, [(weights, manifest)], out, limit_s)
    degraded = [image.id for image in summary.images if image.outcome == "degraded"]
    return finish_shard(out, planned, summary.failed, degraded), True
