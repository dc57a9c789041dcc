"""What could make a run's scores look better than they are: its folds, files and tiles, held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from histofold.data.leaks import find_leaks, patients_in_words
from histofold.data.sources import Source, joined_folds, joined_groups
from histofold.trust.oof import FoldRun


@dataclass(frozen=True, kw_only=True)
class LeakCheck:
    """One thing that was looked at."""

    question: str
    """What would be a leak."""
    compared: int
    """How many things were looked at."""
    found: int
    """How many of them leak."""


@dataclass(frozen=True, kw_only=True)
class RunAudit:
    """What was looked at, and what was found."""

    checks: Sequence[LeakCheck]
    """The questions."""
    notices: Sequence[str]
    """What was found, in words."""
    patients: str
    """What is not known of patients; empty where all are known."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing leaks."""
        return not any(check.found for check in self.checks) and not self.notices


def audit_run(folds: Sequence[FoldRun], sources: Sequence[Source]) -> RunAudit:
    """Look for leaks between what the folds of a run were trained on and what they are scored on.

    Args:
        folds: The finished folds.
        sources: The datasets of the run.
    """
    table = joined_folds(sources)
    group_of = joined_groups(sources)
    notices: list[str] = []
    moved = tiles = 0
    for source in sources:
        if source.role == "folds":
            report = find_leaks(source.folds, list(source.samples.values()), index=source.index)
            notices += [f"{fault.id}: {fault.rule}" for fault in report.faults] + report.notices
            moved, tiles = moved + len(report.faults), tiles + len(source.index)
    both = [key for fold in folds for key in fold.record.dice_by_id if key in fold.record.trained_on]
    split = {group for fold in folds for group in _groups_on_both_sides(fold, group_of)}
    checks = [
        LeakCheck(
            question="images that a fold was trained on and is scored on",
            compared=sum(len(fold.record.dice_by_id) for fold in folds),
            found=len(both),
        ),
        LeakCheck(
            question="groups (patients) with images on both sides of a fold",
            compared=len({group_of.get(key, key) for fold in folds for key in fold.record.dice_by_id}),
            found=len(split),
        ),
        LeakCheck(question="images whose tiles stand in another fold", compared=len(table), found=moved),
    ]
    samples = {source.key(key): sample for source in sources for key, sample in source.samples.items()}
    groups = {key: sample.group or key for key, sample in samples.items() if key in group_of}
    return RunAudit(checks=checks, notices=notices, patients=patients_in_words(groups, table))


def _groups_on_both_sides(fold: FoldRun, group_of: Mapping[str, str]) -> set[str]:
    """Groups of which a fold was trained on some images and is scored on others."""
    trained = {group_of[key] for key in fold.record.trained_on if key in group_of}
    return trained & {group_of[key] for key in fold.record.dice_by_id if key in group_of}
