"""From raw detections to those that are submitted: a function of its settings, which may be chosen out-of-fold."""

from __future__ import annotations

from histofold.core.objects.detections import Detections
from histofold.core.objects.morphology import drop_small, grow_objects, largest_components
from histofold.schema.objects import ObjectConfig


def cut_detections(raw: Detections, config: ObjectConfig) -> Detections:
    """The detections of an image, the best first.

    In this order: those of a low score go; each grows or shrinks; its largest component stays; small ones go; the best
    are kept.

    Args:
        raw: What `raw_detections` gives; it is not changed.
        config: `min_score`, `grow_px`, `min_area_px` and `max_objects`.
    """
    kept = raw.select(raw.scores >= config.min_score)
    objects = grow_objects(kept.objects, config.grow_px) if config.grow_px else kept.objects
    kept = drop_small(Detections(largest_components(objects), kept.scores), max(1, config.min_area_px))
    return kept.best(config.max_objects)
