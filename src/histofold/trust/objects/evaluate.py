"""A run of objects is scored: average precision of all held-out images pooled, choices nested over folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from histofold.core.metrics.errors import ERROR_KINDS, ObjectErrors, object_errors
from histofold.core.metrics.ranked import ApRule, RankedHits
from histofold.core.objects.detections import Detections
from histofold.schema.choices import CHOICES_NAME, CHOSEN_SETTINGS
from histofold.schema.objects import ObjectConfig
from histofold.schema.parse import write_json
from histofold.trust.evaluation import Evaluation, FinishedRun, training_words
from histofold.trust.objects.calibration import calibration_summary
from histofold.trust.objects.choices import ObjectChoice, Scorer, nested_choices
from histofold.trust.objects.found import FoundImage, find_held_out
from histofold.trust.objects.scores import all_shown, image_table, mean_metrics, pooled_summary
from histofold.trust.oof import FoldRun

_LEAST_THRESHOLD = 1e-6  # a threshold lies above 0


@dataclass(frozen=True, kw_only=True)
class ObjectEvaluation(Evaluation):
    """What an evaluation of objects found."""

    rule: ApRule
    """By which the host counts."""
    images: Sequence[FoundImage]
    """The held-out images with all that was found in them."""
    hits: Sequence[RankedHits]
    """Their detections as they are scored, in the same order."""
    shown: Sequence[Detections]
    """The objects that show in each."""
    errors: Sequence[ObjectErrors]
    """What is wrong with these."""
    nested: Mapping[int, ObjectChoice]
    """What each fold is scored with."""

    @property
    def score(self) -> float:
        """The host's metric of all held-out images pooled."""
        return float(self.summary["score"])

    def fold_lines(self) -> list[str]:
        """The score of each fold."""
        return [object_fold_words(self.metric, fold, values) for fold, values in self.summary["folds"].items()]

    def choice_words(self) -> str:
        """The settings that were chosen."""
        return object_choice_words(self.summary)

    def further_lines(self) -> list[str]:
        """Other metrics of all images pooled, and means over images."""
        return object_further_words(self.summary)

    def peer_words(self) -> str:
        """What the truth itself would score."""
        return f"a perfect answer scores {self.summary['perfect']:.4f}"


def object_fold_words(metric: str, fold: str, values: Mapping[str, Any]) -> str:
    """The score of a fold in words: with choices of the other folds, with the run's own, and how training saw it."""
    own = values["score_of_own_settings"]
    training = training_words(own, values["last_score"], values["last_step"], "objects")
    return f"fold {fold}: {metric} {values['score']:.4f}; {own:.4f} with the run's own settings, {training}"


def object_choice_words(summary: Mapping[str, Any]) -> str:
    """What the score was made with, in words."""
    shown = f"objects show from a score of {summary['shown_score']:g}"
    if len(summary["folds"]) < 2:
        return f"settings of the run: one fold alone has no other to choose others on; {shown}"
    chosen = ", ".join(f"{name} {value:g}" for name, value in summary["chosen"].items())
    all_of_them = f"choose {chosen}" if chosen else "keep the run's own"
    own = f"with the run's own the {summary['metric']} is {summary['score_of_own_settings']:.4f}"
    return f"settings: each fold with those that the others chose; all of them {all_of_them}; {own}; {shown}"


def object_further_words(summary: Mapping[str, Any]) -> list[str]:
    """Other metrics in words, a line each: those that pool all images, and means over images."""
    pooled = ", ".join(f"{name} {value:.4f}" for name, value in summary["further"].items())
    means = summary["images_mean"]
    parts = f"DQ {means['dq']:.4f}, SQ {means['sq']:.4f}"
    objects = f"object F1 {means['object_f1']:.4f}, object Dice {means['object_dice']:.4f}"
    counts = f"{means['predicted']:,} objects where {means['true']:,} are true"
    errors = ", ".join(f"{count:,} {kind}" for name, count in summary["errors"].items() for kind in [ERROR_KINDS[name]])
    off = f"off by {summary['calibration']['error']:.3f} in the mean"
    if len(summary["folds"]) > 1:
        off += f", by {summary['calibration']['error_scaled']:.3f} as the other folds scale them"
    return [
        f"further: {pooled}",
        f"scores as chances of a hit: {off}",
        f"errors: {errors}",
        f"means of images: AJI {means['aji']:.4f}, PQ {means['pq']:.4f} ({parts}), {objects}; {counts}",
    ]


def evaluate_objects(found: FinishedRun) -> ObjectEvaluation:
    """Score a run of objects and write oof.csv, thresholds.json, objects.json and summary.json."""
    run, competition = found.run, found.object_competition
    own = found.folds[0].manifest.objects or ObjectConfig()
    scorer = Scorer(find_held_out(run, found.folds, found.sources), competition.ap_rule)
    nested, shipped = nested_choices(scorer, own)
    chosen = {fold: choice.config for fold, choice in nested.items()}
    shown = all_shown(scorer, nested)
    errors = [object_errors(found.objects, image.truth) for found, image in zip(shown, scorer.images, strict=True)]
    oof = image_table(scorer, nested, shown)
    summary = {
        "metric": competition.metric,
        **pooled_summary(scorer, chosen, own, shipped.config),
        "chosen": chosen_values(own, shipped.config),
        "shown_score": shipped.shown_score,
        "calibration": calibration_summary(scorer.hits_of(chosen), [image.fold for image in scorer.images]),
        "images_mean": mean_metrics(oof),
        "errors": {name: sum(each.counts[name] for each in errors) for name in ERROR_KINDS},
        "folds": {str(fold.fold): _fold_summary(scorer, fold, nested, own) for fold in found.folds},
    }
    thresholds = {"default": max(shipped.config.min_score, _LEAST_THRESHOLD)}
    write_json(run / CHOICES_NAME, summary["chosen"])
    return ObjectEvaluation(
        **found.write(oof, thresholds, summary),
        rule=scorer.rule,
        images=scorer.images,
        hits=scorer.hits_of(chosen),
        shown=shown,
        errors=errors,
        nested=nested,
    )


def _fold_summary(
    scorer: Scorer, fold: FoldRun, nested: Mapping[int, ObjectChoice], own: ObjectConfig
) -> dict[str, Any]:
    """The figures of a fold as plain data."""
    places = [place for place, image in enumerate(scorer.images) if image.fold == fold.fold]
    return {
        "score": scorer.pool(places, nested[fold.fold].config).ap(),
        "score_of_own_settings": scorer.pool(places, own).ap(),
        "chosen": chosen_values(own, nested[fold.fold].config),
        "shown_score": nested[fold.fold].shown_score,
        "last_step": fold.record.steps,
        "best_step": fold.record.best_step,
        "best_score_optimistic": fold.record.best_dice_optimistic,
        "last_score": fold.record.dice,
    }


def chosen_values(own: ObjectConfig, chosen: ObjectConfig) -> dict[str, float]:
    """The settings that were chosen instead of the run's own."""
    return {name: getattr(chosen, name) for name in CHOSEN_SETTINGS if getattr(chosen, name) != getattr(own, name)}
