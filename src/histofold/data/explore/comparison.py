"""A slide compared with the others of its organ: how far its facts lie from theirs, how well its labels fit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from histofold.data.explore.label_fit import likeness
from histofold.data.explore.slides import SlideFacts

MIN_COMPARED = 5
"""An organ of fewer slides has nothing that is usual."""
GOOD_QUANTILE = 0.75
"""Labels of this quantile of an organ, by how well they fit, are good ones."""
MIN_LIKENESS = 0.3
"""Good labels of an organ that are less like each other than this say nothing of the others."""

RANKED = {
    "mask_fraction": "labelled share",
    "colour_contrast": "colour inside against outside",
    "focus": "sharpness",
    "blank_fraction": "blank share",
    "object_area_px": "median area of its objects in px",
}
"""Facts by which slides are ranked, with their names in words."""


def relative_likeness(facts: Sequence[SlideFacts]) -> dict[str, float]:
    """`likeness` by id over that of good labels (the upper quartile) of the organ.

    Slides without a fit, of too few to compare, or of an organ whose good labels are hardly alike, are left out.
    """
    by_organ = defaultdict(list)
    for fact in facts:
        if fact.fit is not None:
            by_organ[fact.sample.organ].append(fact)
    relative: dict[str, float] = {}
    for members in by_organ.values():
        if len(members) < MIN_COMPARED:
            continue
        found = likeness([fact.fit for fact in members if fact.fit is not None])
        usual = float(np.quantile(found, GOOD_QUANTILE))
        if usual >= MIN_LIKENESS:
            pairs = zip(members, found, strict=True)
            relative |= {fact.sample.id: float(value) / usual for fact, value in pairs}
    return relative


def usual_r2(facts: Sequence[SlideFacts]) -> dict[str, float]:
    """R2 of a good fit: the upper quartile of each organ with enough slides, and under "" that of all together.

    Not the median, which half a folder of mistakes would drag down.
    """
    by_organ = defaultdict(list)
    for fact in facts:
        if fact.fit is not None:
            by_organ[fact.sample.organ].append(fact.fit.r2)
    good = {organ: values for organ, values in by_organ.items() if len(values) >= MIN_COMPARED}
    everything = [value for values in by_organ.values() for value in values]
    if len(everything) >= MIN_COMPARED:
        good.setdefault("", everything)
    return {organ: float(np.quantile(values, GOOD_QUANTILE)) for organ, values in good.items()}


def rank_slides(
    facts: Sequence[SlideFacts], names: Sequence[str] = tuple(RANKED)
) -> list[tuple[SlideFacts, str, float]]:
    """Slides by how far they lie from their organ's median in any fact of `RANKED`, the furthest first.

    The distance is in robust standard deviations (1.4826 times the median absolute deviation, at least a twentieth of
    the median), on a logarithmic scale for the size of objects.

    Args:
        facts: Of each slide.
        names: The facts that count.

    Returns:
        (facts, name of the fact, distance), one a slide of an organ with enough slides.
    """
    worst: dict[str, tuple[SlideFacts, str, float]] = {}
    by_organ = defaultdict(list)
    for fact in facts:
        by_organ[fact.sample.organ].append(fact)
    for members in by_organ.values():
        for name in names:
            values = np.array([getattr(fact, name) for fact in members], float)
            known = values[np.isfinite(values)]
            if len(known) < MIN_COMPARED:
                continue
            if name == "object_area_px":
                values, known = np.log(values), np.log(known)
            middle = float(np.median(known))
            spread = max(1.4826 * float(np.median(np.abs(known - middle))), abs(middle) / 20, 0.01)
            for fact, value in zip(members, values, strict=True):
                distance = abs(float(value) - middle) / spread
                if distance > worst.get(fact.sample.id, (fact, "", -1.0))[2]:
                    worst[fact.sample.id] = fact, name, distance
    return sorted(worst.values(), key=lambda item: -item[2])
