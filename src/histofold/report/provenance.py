"""Sections that every evaluation has: what leaks were looked for, and how long the work took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from histofold.report.blocks import Block, Section, Table, Text
from histofold.trust.evaluation import Evaluation
from histofold.trust.scored import ScoredSlide


def leak_section(evaluation: Evaluation) -> Section:
    """What was looked for, and what was found."""
    audit = evaluation.audit
    rows = [(check.question, check.compared, check.found) for check in audit.checks]
    good = "None of these leaks from training into scores was found."
    words = [good] if audit.is_clean else ["Some scores look better than they are:", *audit.notices]
    if audit.patients:
        words.append(f"{audit.patients[:1].upper()}{audit.patients[1:]}.")
    words.append("Near-duplicates are looked for when a dataset is built, and stand in dataset_report.html.")
    tone: Literal["good", "warn"] = "good" if audit.is_clean and not audit.patients else "warn"
    return Section("Leaks", [Text(words, tone), Table(("looked for", "looked at", "found"), rows)])


def timing_section(evaluation: Evaluation, slides: Mapping[str, ScoredSlide]) -> Section:
    """Seconds of each fold's training, and of predicting its slides where that is known.

    Args:
        evaluation: Of the run.
        slides: What is kept of each slide, by id; none where times were not kept.
    """
    rows = []
    for fold in evaluation.folds:
        record = fold.record
        own = [slides[key] for key in record.dice_by_id if key in slides]
        seconds = sum(slide.seconds for slide in own) if own else None
        megapixels = sum(slide.shape_hw[0] * slide.shape_hw[1] for slide in own) / 1e6
        each = None if seconds is None else seconds / megapixels
        training = (record.steps, record.seconds, record.seconds / max(1, record.steps))
        rows.append((fold.fold, *training, len(own) or None, seconds, each))
    header = ("fold", "steps", "training, s", "s a step", "slides predicted", "prediction, s", "s a megapixel")
    width = len(header) if slides else 4
    caption = "Training without its validations; prediction of the held-out slides, each when it was first scored."
    blocks: list[Block] = [Table(header[:width], [row[:width] for row in rows], caption, decimals=2)]
    return Section("Timing", blocks)
