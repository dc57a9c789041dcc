"""From weights and samples to a submission, whatever happens to single images: `histofold predict` and every kernel."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from histofold.competitions.base import Competition
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.predict.stages import OutOfTimeError
from histofold.predict.submission.clock import Budget, WorkAhead
from histofold.predict.submission.journal import SubmissionJournal, inputs_digest
from histofold.predict.submission.predictor import SubmissionPredictor
from histofold.predict.submission.rows import MaskRows, RowsFactory
from histofold.predict.submission.watchdog import Watchdog, flush_on_sigterm
from histofold.schema.manifest import Manifest
from histofold.schema.sample import Sample

LATE = "the clock ran out"


@dataclass(frozen=True)
class ImageRecord:
    """What became of one image."""

    id: str
    """The image."""
    shape_hw: tuple[int, int] | None = None
    """Its size in pixels, None where it was not read."""
    seconds: float = 0.0
    """Wall time."""
    area_px: int = 0
    """Pixels of its mask, of all classes together."""
    passes: str = ""
    """Forward passes of each tile, as "8 of 8"."""
    outcome: str = "predicted"
    """What it got: "predicted", "degraded" (fewer passes, or not to its end), "taken over" or "fallback"."""
    reason: str = ""
    """Why it is degraded or a fallback."""


@dataclass(frozen=True)
class RunSummary:
    """What became of the images."""

    done: int
    """Rows that the network made."""
    failed: dict[str, str]
    """For each image that kept its fallback row, the reason."""
    taken_over: int
    """Rows that an earlier, interrupted run had made."""
    seconds: float
    """Wall time."""
    images: tuple[ImageRecord, ...] = ()
    """A record for each image, in the order of the rows."""
    device: str = ""
    """What the networks ran on."""
    steps: tuple[str, ...] = ()
    """What was left out for want of time or memory, in words."""


@dataclass
class _Progress:
    """The records so far, and the image that is being predicted."""

    records: dict[str, ImageRecord] = field(default_factory=dict)
    current: str = ""

    def add(self, record: ImageRecord) -> None:
        self.records[record.id] = record
        self.current = ""

    def failed(self) -> dict[str, str]:
        return {key: record.reason for key, record in self.records.items() if record.outcome == "fallback"}


def run_submission(
    competition: Competition,
    samples: Sequence[Sample],
    packages: Sequence[tuple[Path, Manifest]],
    out: Path,
    limit_s: float | None = None,
    hang_status: int = 1,
    make_rows: RowsFactory = MaskRows,
) -> RunSummary:
    """Predict samples and write the submission.

    A csv of fallback rows stands before anything is loaded; finished rows are journalled; SIGTERM writes what there is.

    Args:
        competition: The adapter.
        samples: What to predict, in the order of the rows.
        packages: Weight folders with their checked manifests; several join as one ensemble.
        out: The submission.
        limit_s: Seconds that the run may take; None means no limit.
        hang_status: Exit status of the process where an image hangs and cannot be interrupted.
        make_rows: What makes the rows.

    Raises:
        InputError: If the packages are of other classes than one another, or of several where the host takes one, or
            members cannot be loaded or are not distinct.
    """
    started = time.monotonic()
    _check_classes(packages)
    manifests = [manifest for _, manifest in packages]
    rows = make_rows(competition, manifests)
    fallbacks = {sample.id: rows.fallback(sample) for sample in samples}
    rows.file_text(fallbacks)  # refuses classes that the host does not take
    journal = SubmissionJournal(out, rows.file_text, fallbacks, inputs_digest(manifests, samples))
    budget, progress, predictor = Budget(limit_s), _Progress(), None
    watchdog = Watchdog(budget, journal, hang_status)
    try:
        with journal, flush_on_sigterm(journal), watchdog:
            for key in journal.done:
                progress.add(ImageRecord(key, outcome="taken over"))
            waiting = [sample for sample in samples if sample.id not in journal.done]
            if waiting:
                predictor = SubmissionPredictor(competition, packages, budget, rows=rows)
                _predict_waiting(predictor, waiting, journal, progress)
    except KeyboardInterrupt:
        if not watchdog.fired:
            raise
        if progress.current:
            progress.add(ImageRecord(progress.current, outcome="fallback", reason="it hung"))
        _give_up_rest(samples, progress, LATE)
    if predictor is not None:
        logger.info("%s", predictor.forecast())
    return _summary(samples, progress, predictor, time.monotonic() - started)


def _predict_waiting(
    predictor: SubmissionPredictor, waiting: Sequence[Sample], journal: SubmissionJournal, progress: _Progress
) -> None:
    """Predict one image after another; one image must never cost the other rows.

    Small ones come first: should the time not suffice, one that is huge must not take it from all others.
    """
    measured = [(predictor.megapixels(sample), sample) for sample in waiting]
    measured.sort(key=lambda pair: sum(pair[0]))
    megapixels, waiting = [pair[0] for pair in measured], [pair[1] for pair in measured]
    ahead = [sum(stage) for stage in zip(*megapixels, strict=True)]
    for place, sample in enumerate(tqdm(waiting, desc="predict", unit="image", dynamic_ncols=True)):
        own = megapixels[place]
        ahead = [max(0.0, total - mine) for total, mine in zip(ahead, own, strict=True)]
        started = time.monotonic()
        progress.current = sample.id
        try:
            row = predictor.row(sample, own, WorkAhead(tuple(ahead), len(waiting) - place - 1))
        except OutOfTimeError:
            _give_up_rest(waiting[place:], progress, LATE)
            predictor.say(f"{LATE}: {len(waiting) - place} images keep their fallback row")
            return
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            logger.warning("image %s keeps its fallback row: %s", sample.id, reason)
            journal.give_up(sample.id)
            seconds = time.monotonic() - started
            progress.add(ImageRecord(sample.id, seconds=seconds, outcome="fallback", reason=reason))
            continue
        journal.add(sample.id, row.text, final=not row.degraded)
        outcome = "degraded" if row.degraded else "predicted"
        seconds = time.monotonic() - started
        progress.add(ImageRecord(sample.id, row.shape_hw, seconds, row.area_px, row.passes, outcome, row.degraded))


def _give_up_rest(waiting: Sequence[Sample], progress: _Progress, reason: str) -> None:
    """Fallback rows for those that have no record; they are not journalled, so that a later run predicts them."""
    for sample in waiting:
        if sample.id not in progress.records:
            progress.add(ImageRecord(sample.id, outcome="fallback", reason=reason))


def _summary(
    samples: Sequence[Sample], progress: _Progress, predictor: SubmissionPredictor | None, seconds: float
) -> RunSummary:
    images = tuple(progress.records[sample.id] for sample in samples)
    outcomes = [record.outcome for record in images]
    return RunSummary(
        done=outcomes.count("predicted") + outcomes.count("degraded"),
        failed=progress.failed(),
        taken_over=outcomes.count("taken over"),
        seconds=seconds,
        images=images,
        device=predictor.device if predictor is not None else "",
        steps=tuple(predictor.steps) if predictor is not None else (),
    )


def _check_classes(packages: Sequence[tuple[Path, Manifest]]) -> None:
    """Refuse packages of different classes."""
    classes = packages[0][1].classes
    for folder, manifest in packages:
        if manifest.classes != classes:
            rule = f"its classes are {', '.join(manifest.classes)} and those of the first {', '.join(classes)}"
            raise InputError([Fault("classes", str(folder), rule, "predict it apart")])
