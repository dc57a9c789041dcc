"""Two runs of objects on the same images: the gain of one average precision over the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from histofold.core.faults import Fault, InputError
from histofold.core.metrics.ranked import PooledHits, ranked_hits
from histofold.predict.objects.cut import cut_detections
from histofold.schema.objects import ObjectConfig
from histofold.schema.parse import read_json
from histofold.trust.intervals import Difference
from histofold.trust.objects.evaluate import ObjectEvaluation
from histofold.trust.objects.found import kept_detections
from histofold.trust.objects.intervals import gain_interval
from histofold.trust.oof import finished_folds


def object_difference(evaluation: ObjectEvaluation, other: Path) -> Difference:
    """How much better another run finds the objects of the same images, all of them pooled.

    Args:
        evaluation: Of the first run.
        other: runs/E of another experiment on the same folds, evaluated as it is now.

    Raises:
        InputError: If it was not, or scores other images.
    """
    remedy = f"run `histofold evaluate {other}` again, and both runs on the same folds"
    chosen = {key: values["chosen"] for key, values in read_json(other / "summary.json", remedy)["folds"].items()}
    kept = kept_detections(other, finished_folds(other))
    ids = {image.sample.id for image in evaluation.images}
    if kept.keys() != ids:
        rule = f"it keeps finds of {len(kept)} images, {len(kept.keys() & ids)} of them among the {len(ids)} to compare"
        raise InputError([Fault("oof", str(other), rule, remedy)])
    hits = []
    for image in evaluation.images:
        fold, raw = kept[image.sample.id]
        settings: dict[str, Any] = chosen[str(fold.fold)]
        found = cut_detections(raw, replace(fold.manifest.objects or ObjectConfig(), **settings))
        hits.append(ranked_hits(evaluation.rule, found, image.truth, image.unsure))
    first, second = (PooledHits(each, evaluation.rule) for each in (evaluation.hits, hits))
    return Difference(
        first=first.ap(),
        second=second.ap(),
        interval=gain_interval(first, second, [image.group for image in evaluation.images]),
        images=len(hits),
        metric=evaluation.metric,
    )
