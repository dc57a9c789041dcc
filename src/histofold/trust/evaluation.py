"""What an evaluation found, whatever is scored: its figures in words, for the command line and for its report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pandas as pd

from histofold.competitions.base import ObjectCompetition
from histofold.data.sources import JoinedTruth, Source, joined_groups, joined_samples
from histofold.schema.files import write_atomically
from histofold.schema.manifest import file_sha256
from histofold.schema.parse import plain, write_json
from histofold.schema.sample import Sample
from histofold.trust.audit import RunAudit, audit_run
from histofold.trust.intervals import bounds_words
from histofold.trust.oof import FoldRun

_AGREEMENT = 1e-4
"""Scores of a fold and of its training differ by less where nothing has changed between them."""


def training_words(now: float, trained: float, steps: int, kind: str) -> str:
    """How training saw a fold's score, in words.

    Args:
        now: The score with the settings of training.
        trained: That of the end of training.
        steps: Its steps; 0 of what was never trained.
        kind: What is scored, as its settings are called.
    """
    if steps == 0:
        return "nothing was trained"
    if abs(now - trained) < _AGREEMENT:
        return "as in training"
    return f"{trained:.4f} in training: settings of prediction, {kind} or the machine are others since"


@dataclass(frozen=True)
class FinishedRun:
    """A run that may be scored."""

    run: Path
    """The run, runs/E."""
    folds: Sequence[FoldRun]
    """Its finished folds."""
    sources: Sequence[Source]
    """Its datasets."""
    missing: Sequence[int]
    """Its folds that are not finished."""

    @cached_property
    def truth(self) -> JoinedTruth:
        """The truth of every slide."""
        return JoinedTruth(self.sources)

    @cached_property
    def samples(self) -> dict[str, Sample]:
        """The slides by id."""
        return joined_samples(self.sources)

    @cached_property
    def groups(self) -> dict[str, str]:
        """The group of each slide."""
        return joined_groups(self.sources)

    @property
    def object_competition(self) -> ObjectCompetition:
        """The adapter of a run of objects."""
        return cast(ObjectCompetition, self.sources[0].competition)

    def facts(self) -> dict[str, Any]:
        """What summary.json holds whatever is scored: with it, one sees whether the run is still what was scored."""
        return {
            "weights_sha256": {fold.folder.name: file_sha256(fold.folder / "model.safetensors") for fold in self.folds},
            "settings": {fold.folder.name: plain(fold.record.manifest) for fold in self.folds},
            "missing_folds": list(self.missing),
            **({"prompts": sam.prompts} if (sam := self.folds[0].sam) else {}),
        }

    def write(self, oof: pd.DataFrame, thresholds: Mapping[str, float], summary: Mapping[str, Any]) -> dict[str, Any]:
        """Write oof.csv, thresholds.json and, last, summary.json with `facts`.

        Returns:
            The fields that every `Evaluation` has.
        """
        summary = {**summary, **self.facts()}
        write_atomically(self.run / "oof.csv", oof.to_csv(index=False, float_format="%.6f"))
        write_json(self.run / "thresholds.json", thresholds)
        write_json(self.run / "summary.json", summary)
        own = {name: getattr(self, name) for name in ("run", "folds", "truth", "samples", "groups", "notes", "audit")}
        return {**own, "oof": oof, "thresholds": thresholds, "summary": summary}

    @cached_property
    def audit(self) -> RunAudit:
        """What could make its scores look better than they are."""
        return audit_run(self.folds, self.sources)

    @property
    def notes(self) -> list[str]:
        """Words about folds that are not finished, so that the score speaks of fewer images, and not trained at all."""
        numbers = ", ".join(map(str, self.missing))
        notes = [f"folds {numbers} are not finished: the score speaks of the other folds alone"] if numbers else []
        sam = self.folds[0].sam
        if sam is not None:
            notes.append(
                "Segment Anything as it was published: nothing was trained, and every fold has the same weights"
            )
        if sam is not None and sam.prompts != "grid":
            notes.append(f"prompted by the truth of each held-out image ({sam.prompts}): an upper bound, no prediction")
        return notes


@dataclass(frozen=True, kw_only=True)
class Evaluation(ABC):
    """What an evaluation found, and what it found it with: what its report shows."""

    run: Path
    """The run, runs/E."""
    folds: Sequence[FoldRun]
    """Its finished folds."""
    truth: JoinedTruth
    """Of every slide."""
    samples: Mapping[str, Sample]
    """The slides by id."""
    groups: Mapping[str, str]
    """The group of each: what is compared slide by slide is compared over these."""
    oof: pd.DataFrame
    """oof.csv."""
    thresholds: Mapping[str, float]
    """thresholds.json."""
    summary: Mapping[str, Any]
    """summary.json."""
    notes: Sequence[str]
    """What a reader must know beside the figures."""
    audit: RunAudit
    """What could make them look better than they are."""

    @property
    def metric(self) -> str:
        """The word that stands before a score."""
        return str(self.summary["metric"])

    @property
    @abstractmethod
    def score(self) -> float:
        """The host's score of all held-out slides."""

    @abstractmethod
    def fold_lines(self) -> list[str]:
        """The figures of each fold in words."""

    @abstractmethod
    def choice_words(self) -> str:
        """What was chosen, on what, and what it changes."""

    @abstractmethod
    def further_lines(self) -> list[str]:
        """Further figures of all slides."""

    @abstractmethod
    def peer_words(self) -> str:
        """What the score is to be held against, as the end of a sentence."""

    def score_words(self) -> str:
        """The score alone."""
        return f"out-of-fold {self.metric} {self.score:.4f}"

    def interval_words(self) -> str:
        """What chance could make of the score, and what it lacks."""
        words = bounds_words(self.summary["interval"], f" over {self.summary['groups']} groups")
        if missing := self.summary["missing_folds"]:
            words += f"; incomplete, without the unfinished folds {', '.join(map(str, missing))}"
        if self.summary.get("prompts", "grid") != "grid":
            words += "; prompted by the truth, an upper bound"
        return words

    def lines(self) -> list[str]:
        """The figures in words."""
        headline = f"{self.score_words()} ({self.interval_words()}); {self.peer_words()}"
        return [*self.fold_lines(), self.choice_words(), *self.further_lines(), headline]
