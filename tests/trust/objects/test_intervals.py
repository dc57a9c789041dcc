"""Intervals of average precision: those of a mean where it is one, and nothing where groups say nothing."""

import math

import numpy as np

from histofold.core.metrics.ranked import ApRule, PooledHits, RankedHits
from histofold.trust.intervals import grouped_interval
from histofold.trust.objects.intervals import ap_interval, gain_interval, jackknife_interval

RULE = ApRule(host="openimages", iou=0.6)


def image(rng, quality, count=20):
    """An image in which so large a share of the objects is found, and as many false alarms of lower scores."""
    hits = np.concatenate([rng.random(count) < quality, np.zeros(count, bool)])
    scores = np.concatenate([rng.uniform(0.4, 1, count), rng.uniform(0, 0.6, count)])
    order = np.argsort(-scores)
    return RankedHits(scores[order], hits[order], np.ones(len(order), bool), order, count)


def test_of_a_mean_it_is_the_grouped_interval():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, groups = rng.random(30), rng.integers(0, 7, 30).astype(str).tolist()
        mean = lambda weights_N, scores=scores: float(np.average(scores, weights=weights_N))  # noqa: E731
        np.testing.assert_allclose(jackknife_interval(mean, groups), grouped_interval(scores, groups), atol=1e-9)


def test_the_truth_of_many_images_lies_within_about_as_often_as_promised():
    rng = np.random.default_rng(1)

    def drawn(groups):  # images of one group are of one quality
        qualities = np.repeat(rng.uniform(0.4, 0.9, groups), 3)
        pool = PooledHits([image(rng, quality) for quality in qualities], RULE)
        return pool, [str(number // 3) for number in range(len(qualities))]

    truth = drawn(800)[0].ap()
    intervals = [ap_interval(*drawn(8)) for _ in range(150)]
    assert 0.88 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.99


def test_one_group_says_nothing_and_equal_sets_gain_nothing():
    rng = np.random.default_rng(2)
    images = [image(rng, 0.7) for _ in range(4)]
    pool = PooledHits(images, RULE)
    assert ap_interval(pool, ["a"] * 4) == gain_interval(pool, pool, ["a"] * 4) == (-math.inf, math.inf)
    assert gain_interval(pool, pool, list("aabb")) == (0, 0)
    empty = RankedHits(np.zeros(0), np.zeros(0, bool), np.zeros(0, bool), np.zeros(0, int), 0)
    assert ap_interval(PooledHits([images[0], empty], RULE), ["a", "b"]) == (-math.inf, math.inf)
