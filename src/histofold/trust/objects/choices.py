"""How objects are cut and grown, chosen on other folds than those that are scored with the choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from histofold.core.metrics.ranked import ApRule, PooledHits, RankedHits, ranked_hits
from histofold.core.objects.detections import Detections
from histofold.predict.objects.cut import cut_detections
from histofold.schema.choices import CHOSEN_SETTINGS
from histofold.schema.objects import ObjectConfig
from histofold.trust.objects.found import FoundImage
from histofold.trust.objects.intervals import gain_interval

LEAST_GAIN = 0.001
"""Average precision that a setting must gain, beyond chance, to be taken instead of the run's own."""
CANDIDATES: dict[str, tuple[float, ...]] = {
    "grow_px": (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0),
    "min_area_px": (0, 10, 20, 40, 80, 160, 320),
    "min_score": (0.005, 0.01, 0.02, 0.05),
}
"""What is tried of each of `CHOSEN_SETTINGS`; a higher score to begin at only ever loses average precision."""
SHOWN_SCORES = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Scores that masks of objects, which have no scores, may begin at."""


@dataclass(frozen=True, kw_only=True)
class ObjectChoice:
    """What was chosen on some images."""

    config: ObjectConfig
    """How detections are cut and grown."""
    shown_score: float
    """Detections of at least this score are the objects of an image where scores do not count: in masks, counts, and
    metrics of masks. It gives the best F1 by the host's rule of a hit."""


class Scorer:
    """Scores images with settings; what was once cut and matched is kept.

    Args:
        images: All held-out images.
        rule: The host's.
    """

    def __init__(self, images: Sequence[FoundImage], rule: ApRule) -> None:
        self.images, self.rule = images, rule
        self._hits: dict[tuple[int, ObjectConfig], RankedHits] = {}

    def cut(self, place: int, config: ObjectConfig) -> Detections:
        """An image's detections as they are with settings."""
        return cut_detections(self.images[place].raw, config)

    def hits(self, place: int, config: ObjectConfig) -> RankedHits:
        """Its hits; cuts of the score share one matching, since what ranks below changes no hit above."""
        uncut = replace(config, min_score=min(config.min_score, *CANDIDATES["min_score"]))
        if (place, uncut) not in self._hits:
            image = self.images[place]
            self._hits[place, uncut] = ranked_hits(self.rule, self.cut(place, uncut), image.truth, image.unsure)
        return self._hits[place, uncut].above(config.min_score)

    def pool(self, places: Iterable[int], config: ObjectConfig) -> PooledHits:
        """Some images as one ranking."""
        return PooledHits([self.hits(place, config) for place in places], self.rule)

    def hits_of(self, configs: Mapping[int, ObjectConfig]) -> list[RankedHits]:
        """The hits of all images, each with the settings of its fold."""
        return [self.hits(place, configs[image.fold]) for place, image in enumerate(self.images)]

    def choose(self, places: Sequence[int], config: ObjectConfig) -> ObjectChoice:
        """What some images choose, beginning with the run's own settings.

        One setting after the other the candidate of the best average precision is taken, but only where it gains more
        than `LEAST_GAIN` and the 95% interval of the gain by groups lies above zero: else the run's own stays, since
        the best of several on a few images is mostly luck.
        """
        groups = [self.images[place].group for place in places]
        for name in CHOSEN_SETTINGS:
            now = self.pool(places, config)
            pools = {value: self.pool(places, _with(config, name, value)) for value in CANDIDATES[name]}
            best = _best_value({value: pool.ap() for value, pool in pools.items()}, getattr(config, name))
            gained = pools[best].ap() - now.ap() > LEAST_GAIN
            if gained and gain_interval(now, pools[best], groups)[0] > 0:
                config = _with(config, name, best)
        return ObjectChoice(config=config, shown_score=self._shown_score(places, config))

    def _shown_score(self, places: Sequence[int], config: ObjectConfig) -> float:
        """The score of the best F1, of equal ones that nearest to 0.5."""
        everything = replace(self.rule, max_detections=None)
        f1_T = PooledHits([self.hits(place, config) for place in places], everything).f1(SHOWN_SCORES)
        best = [score for score, f1 in zip(SHOWN_SCORES, f1_T, strict=True) if f1 >= f1_T.max() - 1e-9]
        return min(best, key=lambda score: (round(abs(score - 0.5), 6), score))


def _with(config: ObjectConfig, name: str, value: float) -> ObjectConfig:
    changed: dict[str, Any] = {name: value}
    return replace(config, **changed)


def _best_value(aps: Mapping[float, float], own: float) -> float:
    """The candidate of the best average precision, of equal ones that nearest to the run's own."""
    return max(aps, key=lambda value: (round(float(np.nan_to_num(aps[value])), 9), -abs(value - own)))


def nested_choices(scorer: Scorer, config: ObjectConfig) -> tuple[dict[int, ObjectChoice], ObjectChoice]:
    """For each fold what the other folds chose, and what all of them choose, which ships.

    With a single fold there is nothing to choose on: the run's own settings stay, and objects show from a score of 0.5.

    Args:
        scorer: Of all held-out images.
        config: The run's own settings.
    """
    places = range(len(scorer.images))
    folds = sorted({image.fold for image in scorer.images})
    if len(folds) < 2:
        own = ObjectChoice(config=config, shown_score=0.5)
        return dict.fromkeys(folds, own), own
    nested = {
        fold: scorer.choose([place for place in places if scorer.images[place].fold != fold], config) for fold in folds
    }
    return nested, scorer.choose(list(places), config)
