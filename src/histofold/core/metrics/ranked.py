"""Average precision of any selection of images whose detections were matched once: for bootstraps and for choices.

Which detections are hits is decided image by image; only their ranking is common to all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from histofold.core.metrics.detections import coco_hits, mostly_ignored, openimages_hits
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects


@dataclass(frozen=True, kw_only=True)
class ApRule:
    """By which rule average precision is counted."""

    host: Literal["openimages", "coco"]
    """Whose rule: that of `openimages_ap` or of `coco_ap`."""
    iou: float
    """Least IoU of a hit."""
    max_detections: int | None = None
    """Detections that count in each image, the best by score; None: all."""


@dataclass(frozen=True, eq=False)
class RankedHits:
    """The detections of one image by descending score."""

    scores: np.ndarray
    """float64 (N,)."""
    hits: np.ndarray
    """Which are hits, bool (N,)."""
    counted: np.ndarray
    """Which count at all, bool (N,): what is no hit and lies mostly where people were unsure counts neither way."""
    places: np.ndarray
    """Their places among the detections that were given, int64 (N,)."""
    truths: int
    """True objects of the image."""

    def above(self, least: float) -> RankedHits:
        """Those of at least this score: what ranks below them changed no hit of theirs."""
        kept = slice(int(np.count_nonzero(self.scores >= least)))
        return RankedHits(self.scores[kept], self.hits[kept], self.counted[kept], self.places[kept], self.truths)


def ranked_hits(rule: ApRule, detections: Detections, truth: Objects, unsure: Objects | None = None) -> RankedHits:
    """Which detections of an image are hits by a rule; all of them, whatever its limit.

    Args:
        rule: The rule.
        detections: Of the image.
        truth: Its true objects.
        unsure: Objects that people were unsure of; None: there are none.
    """
    order = np.argsort(-detections.scores, kind="stable")
    found, scores_N = detections.objects.select(order), detections.scores[order]
    hits_N = (openimages_hits if rule.host == "openimages" else coco_hits)(found, scores_N, truth, rule.iou)
    return RankedHits(scores_N, hits_N, hits_N | ~mostly_ignored(found, unsure), order, len(truth))


class PooledHits:
    """The detections of some images in one ranking: equal scores image by image, as they came."""

    def __init__(self, images: Sequence[RankedHits], rule: ApRule) -> None:
        """Pool images, of each as many detections as the rule counts."""
        self._rule = rule
        kept = [np.flatnonzero(image.counted[: rule.max_detections]) for image in images]
        scores = np.concatenate([np.zeros(0), *(each.scores[few] for each, few in zip(images, kept, strict=True))])
        hits = np.concatenate([np.zeros(0, bool), *(each.hits[few] for each, few in zip(images, kept, strict=True))])
        places = np.repeat(np.arange(len(images)), [len(few) for few in kept])
        order = np.argsort(-scores, kind="stable")
        self.scores, self.hits, self._places = scores[order], hits[order], places[order]
        self._truths = np.array([image.truths for image in images], np.int64)

    def ap(self, weights_N: np.ndarray | None = None) -> float:
        """Average precision of the images, each taken so many times.

        Args:
            weights_N: Whole numbers, one an image, 0 to leave it out; None: each once.

        Returns:
            0 to 1; NaN where no image that is taken holds a truth.
        """
        found, all_found, truths = self._counts(weights_N)
        if truths == 0:
            return float("nan")
        precision = found / np.maximum(all_found, 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        if self._rule.host == "openimages":
            return float((envelope * np.diff(found, prepend=0)).sum() / truths)
        at = np.searchsorted(found / truths, np.linspace(0, 1, 101))  # recalls at which COCO reads precision
        return float(np.append(envelope, 0.0)[at].mean())

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Recall and precision after each detection, (N,) both; no points where there is no truth."""
        found, all_found, truths = self._counts(None)
        if truths == 0:
            return np.zeros(0), np.zeros(0)
        return found / truths, found / np.maximum(all_found, 1)

    def f1(self, least_scores: Sequence[float]) -> np.ndarray:
        """F1 of the detections of at least each score, (T,); 1 where there is neither a truth nor a detection."""
        found, _, truths = self._counts(None)
        counts = np.searchsorted(-self.scores, -np.asarray(least_scores, np.float64), side="right")
        hits = np.append(0, found)[counts]
        return np.asarray(np.where(counts + truths > 0, 2 * hits / np.maximum(counts + truths, 1), 1.0))

    def _counts(self, weights_N: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, int]:
        """Hits and detections up to each place of the ranking, int64 (N,) both, and the truths."""
        if weights_N is None:
            return np.cumsum(self.hits), np.arange(1, len(self.hits) + 1), int(self._truths.sum())
        weights = np.asarray(weights_N, np.int64)
        taken = weights[self._places]
        return np.cumsum(taken * self.hits), np.cumsum(taken), int(weights @ self._truths)
