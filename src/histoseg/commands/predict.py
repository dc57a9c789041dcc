"""`histoseg predict --weights DIR --data DIR --out FILE.csv`: the submission, through the kernel's own code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from histoseg.commands.options import parse_options
from histoseg.competitions.registry import get_competition
from histoseg.core.log import logger
from histoseg.kernels.runner import RunSummary, run_submission
from histoseg.schema.manifest import load_manifest


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Predict a folder and write the submission."""

    weights: Path
    """Folder that `histoseg package` filled."""
    data: Path
    """The competition folder; ids and order come from its sample_submission.csv (a plain folder needs none)."""
    out: Path
    """The submission."""
    limit_s: float | None = None
    """Seconds that the run may take; it then leaves out views, members and images, in this order."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(PredictOptions, "predict", arguments)
    summary = predict_folder(options.weights, options.data, options.out, options.limit_s)
    for sample_id, reason in summary.failed.items():
        logger.warning("fallback row: %s: %s", sample_id, reason)
    total = summary.done + summary.taken_over + len(summary.failed)
    print(f"{total} rows, {len(summary.failed)} of them fallback rows, in {options.out}")
    return 0


def predict_folder(weights: Path, data: Path, out: Path, limit_s: float | None = None) -> RunSummary:
    """Predict the test split of a folder with packaged weights; the competition is the manifest's.

    Raises:
        InputError: If weights or tables are at fault; single images never are.
    """
    manifest = load_manifest(weights)
    competition = get_competition(manifest.competition)
    samples = competition.samples(data, "test")
    return run_submission(competition, samples, [(weights, manifest)], out, limit_s)
