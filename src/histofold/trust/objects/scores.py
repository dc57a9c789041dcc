"""Scores of held-out images of objects: of each image, of each fold, of all pooled, as plain tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from histofold.core.metrics.glas import glas_object_scores
from histofold.core.metrics.instances import aji, panoptic_quality
from histofold.core.metrics.ranked import ApRule, PooledHits, RankedHits, ranked_hits
from histofold.core.objects.detections import Detections
from histofold.schema.objects import ObjectConfig
from histofold.trust.intervals import score_bounds
from histofold.trust.objects.choices import ObjectChoice, Scorer
from histofold.trust.objects.found import FoundImage
from histofold.trust.objects.intervals import ap_interval

FURTHER_IOUS = {"ap50": 0.5, "ap75": 0.75}
IMAGE_METRICS = ("aji", "pq", "dq", "sq", "object_f1", "object_dice")
"""Of the objects that show, without their scores."""
OOF_COLUMNS = ("id", "fold", "source", "ap", *FURTHER_IOUS, *IMAGE_METRICS, "predicted", "true")
"""Of oof.csv: the average precisions of an image alone are blank where it has no true object; the last two count
objects."""


def shown_objects(image: FoundImage, detections: Detections, rule: ApRule, least_score: float) -> Detections:
    """The detections that are an image's objects where scores do not count, best first.

    Those that count neither way, since they hit nothing and lie mostly where none was sure, are left out.
    """
    ranked = ranked_hits(rule, detections, image.truth, image.unsure).above(least_score)
    return detections.select(ranked.places[ranked.counted])


def all_shown(scorer: Scorer, nested: Mapping[int, ObjectChoice]) -> list[Detections]:
    """The objects that show in each image, with the choice of the other folds."""
    return [
        shown_objects(image, scorer.cut(place, choice.config), scorer.rule, choice.shown_score)
        for place, image in enumerate(scorer.images)
        for choice in [nested[image.fold]]
    ]


def image_table(scorer: Scorer, nested: Mapping[int, ObjectChoice], shown: Sequence[Detections]) -> pd.DataFrame:
    """oof.csv: every image with the choice of the other folds, and with what shows in it."""
    rows = []
    for place, image in enumerate(scorer.images):
        config = nested[image.fold].config
        detections = scorer.cut(place, config)
        aps = {"ap": scorer.pool([place], config).ap()}
        for name, iou in FURTHER_IOUS.items():
            rule = replace(scorer.rule, iou=iou)
            aps[name] = PooledHits([ranked_hits(rule, detections, image.truth, image.unsure)], rule).ap()
        counts = {"predicted": len(shown[place]), "true": len(image.truth)}
        about = {"id": image.sample.id, "fold": image.fold, "source": image.sample.source}
        rows.append(about | aps | mask_metrics(shown[place], image) | counts)
    return pd.DataFrame(rows, columns=list(OOF_COLUMNS))


def mask_metrics(shown: Detections, image: FoundImage) -> dict[str, float]:
    """`IMAGE_METRICS` of the objects that show in an image."""
    f1, dice, _ = glas_object_scores(shown.objects, image.truth)
    values = (aji(shown.objects, image.truth), *panoptic_quality(shown.objects, image.truth), f1, dice)
    return dict(zip(IMAGE_METRICS, values, strict=True))


def pooled_summary(
    scorer: Scorer, chosen: Mapping[int, ObjectConfig], own: ObjectConfig, shipped: ObjectConfig
) -> dict[str, Any]:
    """The figures of all images pooled, as plain data.

    Args:
        scorer: Of the images.
        chosen: For each fold what the others chose.
        own: The run's own settings.
        shipped: What all folds choose together.
    """
    groups = [image.group for image in scorer.images]
    pool = PooledHits(scorer.hits_of(chosen), scorer.rule)
    interval, further = ap_interval(pool, groups), {}
    others = {name: replace(scorer.rule, iou=iou) for name, iou in FURTHER_IOUS.items() if iou != scorer.rule.iou}
    for name, rule in others.items():
        further[name.upper()] = PooledHits(Scorer(scorer.images, rule).hits_of(chosen), rule).ap()
    if (limit := scorer.rule.max_detections) is not None:
        unlimited = PooledHits(scorer.hits_of(chosen), replace(scorer.rule, max_detections=None))
        further[f"without the limit of {limit} detections"] = unlimited.ap()
    return {
        "score": pool.ap(),
        "interval": score_bounds(interval),
        "images": len(groups),
        "groups": len(set(groups)),
        "score_of_own_settings": PooledHits(scorer.hits_of(dict.fromkeys(chosen, own)), scorer.rule).ap(),
        "score_chosen_on_all_optimistic": PooledHits(scorer.hits_of(dict.fromkeys(chosen, shipped)), scorer.rule).ap(),
        "perfect": perfect_score(scorer.images, scorer.rule),
        "further": further,
    }


def perfect_score(images: Sequence[FoundImage], rule: ApRule) -> float:
    """What the truth itself scores: less than 1 where images hold more objects than the rule counts."""
    answers = []
    for image in images:
        count = len(image.truth)
        yes_N = np.ones(count, bool)
        answers.append(RankedHits(np.ones(count), yes_N, yes_N, np.arange(count), count))
    return PooledHits(answers, rule).ap()


def mean_metrics(oof: pd.DataFrame) -> dict[str, Any]:
    """Means over images of what scores do not count for, and all objects."""
    means = {name: float(oof[name].mean()) for name in IMAGE_METRICS}
    return means | {name: int(oof[name].sum()) for name in ("predicted", "true")}
