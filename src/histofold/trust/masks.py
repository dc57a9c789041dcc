"""Masks out-of-fold: thresholds chosen nested over folds, Dice, and their words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import pandas as pd

from histofold.schema.choices import CLEANING_NAME
from histofold.schema.parse import write_json
from histofold.trust.blank_tiles import refuse_costly_skipping
from histofold.trust.choices import ScoredCandidates, Trial
from histofold.trust.cleaning import Cleaning, choose_cleaning
from histofold.trust.evaluation import Evaluation, FinishedRun, training_words
from histofold.trust.intervals import grouped_interval, score_bounds
from histofold.trust.oof import FoldRun, FoldScores, score_folds
from histofold.trust.scored import ScoredSlide
from histofold.trust.shift import HIDDEN_STAINS, ShiftUse, mean_scores, shift_lines, shift_summary
from histofold.trust.thresholds import THRESHOLD_GRID, apply_thresholds, slide_cuts

OOF_COLUMNS = ("id", "fold", "organ", "source", "dice")
"""Of oof.csv; where there are several classes a column `dice_CLASS` follows for each."""


@dataclass(frozen=True, kw_only=True)
class MaskEvaluation(Evaluation):
    """What an evaluation of masks found."""

    table: pd.DataFrame
    """The slides at every threshold under the run's own settings, as `FoldScores.table` gives it, in oof's order."""
    slides: Mapping[str, ScoredSlide]
    """What is kept of each slide under the run's own settings, by id."""
    cuts: np.ndarray
    """The threshold of each slide, which the other folds chose: float (N,), of several classes (N, K)."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Its classes."""
        return self.folds[0].manifest.classes

    @cached_property
    def counts(self) -> pd.DataFrame:
        """Pixels and objects of each slide and class at the threshold that it is scored with.

        Columns id, organ, source, group, class, size_px (longer side), pixels, truth_px, predicted_px, hit_px, and
        where pieces are objects those of `ScoredClass.objects`.
        """
        rows = []
        for about, cuts in zip(self.table.to_dict("records"), self.cuts.reshape(len(self.table), -1), strict=True):
            slide = self.slides[about["id"]]
            own = {name: about[name] for name in ("id", "organ", "source", "group")}
            own |= {"size_px": max(slide.shape_hw), "pixels": slide.counted_px}
            for name, each, cut in zip(self.class_names, slide.classes, cuts.tolist(), strict=True):
                place = THRESHOLD_GRID.index(cut)
                pixels = {"predicted_px": each.predicted_px[place], "hit_px": each.hit_px[place]}
                objects = each.objects[place] if each.objects else {}
                rows.append({**own, "class": name, "truth_px": each.truth_px, **pixels, **objects})
        return pd.DataFrame(rows)

    @property
    def score(self) -> float:
        """The mean Dice of all held-out slides."""
        return float(self.summary["dice"])

    def fold_lines(self) -> list[str]:
        """The Dice of each fold."""
        return [fold_words(fold, values) for fold, values in self.summary["folds"].items()]

    def choice_words(self) -> str:
        """The thresholds."""
        return threshold_words(self.summary, self.thresholds)

    def further_lines(self) -> list[str]:
        """What came of trying other settings of cleaning; the Dice of each class, of several, and of shifted slides."""
        classes = [class_words(self.summary)] if "classes" in self.summary else []
        shifted = shift_lines(self.summary["shift"]) if "shift" in self.summary else []
        return [*cleaning_words(self.summary), *classes, *shifted]

    def peer_words(self) -> str:
        """The Dice of a mask of everything and of an empty one."""
        everything, nothing = (self.summary[f"dice_of_{name}"] for name in ("everything", "nothing"))
        return f"a mask of everything scores {everything:.4f}, an empty one {nothing:.4f}"


def evaluate_masks(found: FinishedRun, shift: ShiftUse = "none") -> MaskEvaluation:
    """Score a run of masks and write oof.csv, thresholds.json, cleaning.json and summary.json.

    Args:
        found: The run.
        shift: Whether its slides are also scored shifted, and whether thresholds and cleaning are chosen on that.
    """
    run, folds = found.run, found.folds
    refuse_costly_skipping(folds[0].manifest, found.truth, list(found.samples.values()))
    scores = score_folds(run, folds, found.sources)
    stains = HIDDEN_STAINS if shift != "none" else ()
    shifted = {stain: score_folds(run, folds, found.sources, stain) for stain in stains}
    chosen_on = mean_scores(list(shifted.values())) if shift == "thresholds" else scores
    own, several, scored = Cleaning.of(folds[0].manifest), scores.classes, chosen_on.scored()

    @cache
    def choose(others: frozenset[int]) -> tuple[Cleaning, list[Trial]]:
        return choose_cleaning(scored, own, others)

    def nested_oof(of: FoldScores[Cleaning]) -> pd.DataFrame:
        return _oof_table(of.facts, scored.nested_scores(lambda others: choose(others)[0], of.tables()), several)

    choosers = scored.folds if len(scored.folds) > 1 else frozenset()  # one fold has no other to choose on
    shipped, trials = choose(choosers)
    thresholds = scored.thresholds(shipped, choosers)
    oof, tables = nested_oof(scores), scores.tables()
    optimistic = apply_thresholds(tables[shipped], thresholds, several)
    summary = mask_summary(tables[own], oof, optimistic, folds, several)
    summary["cleaning"] = {
        "own": asdict(own),
        "chosen": shipped.differing(own),
        "dice_of_own": float(scored.nested_scores(lambda others: own, tables).mean()),
        "trials": [trial.plain() for trial in trials],
    }
    if shifted:
        by_stain = {stain: nested_oof(of) for stain, of in shifted.items()}
        summary["shift"] = shift_summary(by_stain, scores.facts["group"].tolist(), shift)
    write_json(run / CLEANING_NAME, summary["cleaning"]["chosen"])
    changed: dict[str, Any] = summary["cleaning"]["chosen"]
    as_chosen = [replace(fold, manifest=replace(fold.manifest, **changed)) for fold in folds]
    cuts = _nested_cuts(scores.facts, scored, lambda others: choose(others)[0], several)
    shown = {"table": tables[own], "slides": scores.slides, "cuts": cuts, "folds": as_chosen}
    return MaskEvaluation(**found.write(oof, thresholds, summary) | shown)


def _nested_cuts(
    facts: pd.DataFrame,
    scored: ScoredCandidates[Cleaning],
    choose: Callable[[frozenset[int]], Cleaning],
    several: Sequence[str],
) -> np.ndarray:
    """The threshold of each slide, float (N,) or of several classes (N, K), as `nested_scores` cuts it."""
    cuts = np.empty((len(facts), len(several)) if several else len(facts))
    for fold in scored.folds:
        others, inside = scored.folds - {fold}, (facts["fold"] == fold).to_numpy()
        cuts[inside] = slide_cuts(facts[inside], scored.thresholds(choose(others), others), several)
    return cuts


def fold_words(fold: str, values: Mapping[str, Any], in_volumes: bool = False) -> str:
    """The Dice of a fold in words: at thresholds of the other folds, at 0.5, and how training saw it.

    Args:
        fold: Its number.
        values: Of the summary.
        in_volumes: Whether prediction sees whole volumes, where training saw slices alone.
    """
    half, trained, steps = values["dice_at_half"], values["last_dice"], values["last_step"]
    if in_volumes and steps:
        training = f"{trained:.4f} in training, which sees slices along one axis"
    else:
        training = training_words(half, trained, steps, "masks")
    return f"fold {fold}: Dice {values['dice']:.4f}; {half:.4f} at threshold 0.5, {training}"


def threshold_words(summary: Mapping[str, Any], thresholds: Mapping[str, float]) -> str:
    """What the out-of-fold Dice was cut at, in words."""
    if len(summary["folds"]) < 2:
        return "threshold 0.5: one fold alone has no other to choose it on"
    own = " and others by organ or class" if len(thresholds) > 1 else ""
    on = " on their shifted slides" if summary.get("shift", {}).get("thresholds") == "shifted" else ""
    chosen = f"each fold at those that the others chose{on}; all of them choose {thresholds['default']:g}{own}"
    return f"thresholds: {chosen}; at 0.5 the Dice is {summary['dice_at_half']:.4f}"


def cleaning_words(summary: Mapping[str, Any]) -> list[str]:
    """What came of trying other settings of cleaning, a line each, and what choosing them does to the score."""
    cleaning = summary.get("cleaning", {})
    lines = [trial["words"] for trial in cleaning.get("trials", ())]
    if lines:
        own = f"with the run's own the Dice is {cleaning['dice_of_own']:.4f}"
        lines.append(f"cleaning: each fold with what the others chose; {own}")
    return lines


def class_words(summary: Mapping[str, Any]) -> str:
    """The Dice of each class in words."""
    return "Dice by class: " + ", ".join(f"{name} {dice:.4f}" for name, dice in summary["classes"].items())


def _oof_table(table: pd.DataFrame, nested: np.ndarray, several: Sequence[str]) -> pd.DataFrame:
    """oof.csv, from the scores of each slide, (N,), or of several classes (N, K)."""
    own = {f"dice_{name}": nested[:, number] for number, name in enumerate(several)}
    dice = nested.mean(axis=1) if several else nested
    return table[["id", "fold", "organ", "source"]].assign(dice=dice, **own)[[*OOF_COLUMNS, *own]]


def mask_summary(
    table: pd.DataFrame,
    oof: pd.DataFrame,
    optimistic: np.ndarray,
    folds: Sequence[FoldRun],
    several: Sequence[str],
) -> dict[str, Any]:
    """The figures of a run as plain data.

    Args:
        table: Scores of each slide at each threshold with the run's own settings.
        oof: oof.csv.
        optimistic: Scores of each slide with what was chosen on all of them.
        folds: The folds.
        several: Names of the classes where there are several.
    """
    scores, groups = oof["dice"].to_numpy(), int(table["group"].nunique())
    by_class = {name: float(oof[f"dice_{name}"].mean()) for name in several}
    return {
        "metric": "Dice",
        "dice": float(scores.mean()),
        "interval": score_bounds(grouped_interval(scores, table["group"].tolist())),
        "images": len(table),
        "groups": groups,
        "dice_at_half": float(table[0.5].mean()),
        "dice_of_everything": float(table["everything"].mean()),
        "dice_of_nothing": float(table["nothing"].mean()),
        "dice_thresholds_on_all_optimistic": float(optimistic.mean()),
        "folds": {
            str(fold.fold): {
                "dice": float(scores[(table["fold"] == fold.fold).to_numpy()].mean()),
                "dice_at_half": float(table.loc[table["fold"] == fold.fold, 0.5].mean()),
                "last_step": fold.record.steps,
                "best_step": fold.record.best_step,
                "best_dice_optimistic": fold.record.best_dice_optimistic,
                "last_dice": fold.record.dice,
            }
            for fold in folds
        },
        **({"classes": by_class} if several else {}),
    }
