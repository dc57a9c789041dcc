"""Settings chosen on other folds than those that are scored with the choice, and only where they gain beyond chance."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd

from histofold.trust.intervals import Difference, finite_interval, paired_difference
from histofold.trust.thresholds import apply_thresholds, choose_thresholds

LEAST_GAIN = 0.001
"""Dice that another setting must gain, beyond chance, to be taken instead of the run's own."""
Candidate = TypeVar("Candidate", bound=Hashable)


class ScoredCandidates(Generic[Candidate]):
    """Scores of the same held-out images under each of several settings, at every threshold.

    Whatever is chosen for an image is chosen by images of other folds: by `folds` below, which never holds its own.

    Args:
        tables: For each candidate a table as `choose_thresholds` takes it, with columns fold and group; all of them of
            the same images in the same order.
        grid: The thresholds.
        classes: Names of the classes where there are several.
    """

    def __init__(
        self, tables: Mapping[Candidate, pd.DataFrame], grid: Sequence[float], classes: Sequence[str] = ()
    ) -> None:
        first = next(iter(tables.values()))
        self._tables, self._grid, self._classes = tables, grid, classes
        self._fold_N, self._group_N = first["fold"].to_numpy(), first["group"].to_numpy()
        self.folds = frozenset(map(int, self._fold_N))
        self._thresholds: dict[tuple[Candidate, frozenset[int]], dict[str, float]] = {}
        self._scores: dict[tuple[Candidate, frozenset[int], frozenset[int]], np.ndarray] = {}

    def places(self, folds: frozenset[int]) -> np.ndarray:
        """Which images are of some folds, bool (N,)."""
        return np.isin(self._fold_N, sorted(folds))

    def thresholds(self, candidate: Candidate, folds: frozenset[int]) -> dict[str, float]:
        """The thresholds that some folds choose under a candidate; of no folds 0.5."""
        key = (candidate, folds)
        if key not in self._thresholds:
            table = self._tables[candidate][self.places(folds)]
            chosen = choose_thresholds(table, self._grid, self._classes) if folds else {"default": 0.5}
            self._thresholds[key] = chosen
        return self._thresholds[key]

    def scores(self, candidate: Candidate, chosen_on: frozenset[int], folds: frozenset[int]) -> np.ndarray:
        """Scores of the images of some folds at thresholds that others chose; as `apply_thresholds` gives them."""
        key = (candidate, chosen_on, folds)
        if key not in self._scores:
            table = self._tables[candidate][self.places(folds)]
            self._scores[key] = apply_thresholds(table, self.thresholds(candidate, chosen_on), self._classes)
        return self._scores[key]

    def best(self, candidates: Sequence[Candidate], folds: frozenset[int]) -> Candidate:
        """The candidate of the best mean score on some folds, of equal ones the first."""
        return max(candidates, key=lambda each: round(float(self.scores(each, folds, folds).mean()), 9))

    def gain(self, candidates: Sequence[Candidate], folds: frozenset[int]) -> Difference:
        """What choosing among candidates gains over the first of them: each of the folds by what the others choose.

        The images that choose are never those that are scored, so that the best of many has no luck of its own.
        """
        own, chosen = [], []
        for fold in sorted(folds):
            others, alone = folds - {fold}, frozenset({fold})
            best = self.best(candidates, others)
            own.append(self._means(self.scores(candidates[0], others, alone)))
            chosen.append(self._means(self.scores(best, others, alone)))
        order = np.concatenate([np.flatnonzero(self._fold_N == fold) for fold in sorted(folds)])
        return paired_difference(np.concatenate(own).tolist(), np.concatenate(chosen).tolist(), self._group_N[order])

    def nested_scores(
        self,
        choose: Callable[[frozenset[int]], Candidate],
        scored_by: Mapping[Candidate, pd.DataFrame] | None = None,
    ) -> np.ndarray:
        """Scores of all images, each under what the folds without it choose, and at the thresholds that these choose.

        Args:
            choose: Gives the candidate that some folds choose.
            scored_by: Tables of other scores of these images, which are scored with what is chosen here; None: those
                that are chosen on.

        Returns:
            float (N,) in the order of the tables; of several classes (N, K).
        """
        parts = {}
        for fold in self.folds:
            others = self.folds - {fold}
            chosen = choose(others)
            table = (scored_by or self._tables)[chosen][self._fold_N == fold]
            parts[fold] = apply_thresholds(table, self.thresholds(chosen, others), self._classes)
        scores = np.empty((len(self._fold_N), *next(iter(parts.values())).shape[1:]))
        for fold, of_fold in parts.items():
            scores[self._fold_N == fold] = of_fold
        return scores

    @staticmethod
    def _means(scores: np.ndarray) -> np.ndarray:
        return scores.mean(axis=1) if scores.ndim == 2 else scores


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of trying other values of one setting."""

    name: str
    """The setting."""
    own: Any
    """Its value before."""
    best: Any
    """The value of the best mean score."""
    gain: Difference | None
    """What choosing it gains, each fold by what the others choose; None where there are too few folds to say."""
    taken: bool
    """Whether the best value is used from here on."""

    def words(self, show: Callable[[Any], str] = "{:g}".format) -> str:
        """The outcome in words.

        Args:
            show: Writes a value.
        """
        if self.gain is None:
            return f"{self.name}: one fold alone has no other to check a choice on: left at {show(self.own)}"
        if self.best == self.own:
            return f"{self.name}: nothing that was tried is better: left at {show(self.own)}"
        tried = f"{self.name} {show(self.best)} instead of {show(self.own)}: {self.gain}"
        if self.taken:
            return f"{tried}: taken"
        reason = f"not more than {LEAST_GAIN}" if self.gain.is_gain else "not beyond chance"
        return f"{tried}: {reason}: left at {show(self.own)}"

    def plain(self, show: Callable[[Any], str] = "{:g}".format) -> dict[str, Any]:
        """The outcome as plain data, with its words."""
        gain = self.gain
        figures = {} if gain is None else {"gain": gain.second - gain.first, "interval": finite_interval(gain.interval)}
        values = {"own": self.own, "best": self.best, "taken": self.taken}
        return {"name": self.name, **values, **figures, "words": self.words(show)}


def try_values(
    scored: ScoredCandidates[Candidate], name: str, values: Mapping[Any, Candidate], own: Any, folds: frozenset[int]
) -> Trial:
    """Whether some folds take another value of a setting: where it gains more than `LEAST_GAIN` and beyond chance.

    Args:
        scored: The scores.
        name: The setting.
        values: The candidate of each value.
        own: The value that stays otherwise, and where others are as good.
        folds: Who chooses; a single fold has no other to check a choice on, and keeps its own.
    """
    order = sorted(values, key=lambda value: value != own)
    candidates = [values[value] for value in order]
    best = order[candidates.index(scored.best(candidates, folds))]
    gain = scored.gain(candidates, folds) if len(folds) > 1 else None
    taken = best != own and gain is not None and gain.is_gain and gain.second - gain.first > LEAST_GAIN
    return Trial(name=name, own=own, best=best, gain=gain, taken=taken)
