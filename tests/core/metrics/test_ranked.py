"""Average precision of images matched once: the hosts' own, of any selection of images."""

from dataclasses import replace

import numpy as np
import pytest

from histofold.core.metrics import coco_ap, openimages_ap
from histofold.core.metrics.ranked import ApRule, PooledHits, ranked_hits
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from object_scenes import moved, random_labels

RULES = (
    ApRule(host="openimages", iou=0.6),
    ApRule(host="coco", iou=0.5, max_detections=3),
)
HOSTS = {
    "openimages": lambda rule, *scene, ignored: openimages_ap(*scene, rule.iou, ignored=ignored),
    "coco": lambda rule, *scene, ignored: coco_ap(*scene, rule.iou, rule.max_detections, ignored=ignored),
}


def scene(rng, shape_hw=(17, 23)):
    """Detections of an image, some of equal scores, its truth, and what people were unsure of."""
    labels_HW = random_labels(rng, shape_hw)
    found = Objects.from_labels(moved(rng, labels_HW))
    everything = Objects.from_labels(labels_HW)
    unsure_M = rng.random(len(everything)) < 0.2
    return Detections(found, rng.integers(1, 6, len(found)) / 10), *map(everything.select, (~unsure_M, unsure_M))


def pooled(rule, scenes):
    return PooledHits([ranked_hits(rule, *each) for each in scenes], rule)


def host_ap(rule, scenes):
    found, truths, unsure = zip(*scenes, strict=True)
    return HOSTS[rule.host](rule, found, truths, ignored=unsure)


@pytest.mark.parametrize("rule", RULES)
def test_the_pool_is_the_hosts_own_metric(rule):
    rng = np.random.default_rng(0)
    for _ in range(60):
        scenes = [scene(rng) for _ in range(rng.integers(1, 6))]
        np.testing.assert_allclose(pooled(rule, scenes).ap(), host_ap(rule, scenes), atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_an_image_taken_twice_or_not_at_all_is_as_if_the_host_got_it_so(rule):
    rng = np.random.default_rng(3)
    for _ in range(60):
        scenes = [scene(rng) for _ in range(rng.integers(1, 6))]
        scenes = [(replace(found, scores=rng.random(len(found))), *rest) for found, *rest in scenes]
        weights_N = rng.integers(0, 3, len(scenes))
        taken = [each for each, count in zip(scenes, weights_N, strict=True) for _ in range(count)]
        expected = host_ap(rule, taken) if taken else np.nan
        np.testing.assert_allclose(pooled(rule, scenes).ap(weights_N), expected, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_a_cut_of_the_score_needs_no_new_matching(rule):
    rng = np.random.default_rng(1)
    for _ in range(40):
        found, truth, _ = scene(rng)
        for least in (0.0, 0.3, 0.9):
            cut = ranked_hits(rule, found.select(found.scores >= least), truth)
            again = ranked_hits(rule, found, truth).above(least)
            np.testing.assert_array_equal(cut.hits, again.hits)
            np.testing.assert_array_equal(cut.scores, again.scores)
            np.testing.assert_array_equal(found.scores[again.places], again.scores)


def test_f1_and_the_curve_count_what_is_found_above_each_score():
    rng = np.random.default_rng(2)
    rule = replace(RULES[1], max_detections=None)
    scenes = [scene(rng) for _ in range(6)]
    pool = pooled(rule, scenes)
    truths = sum(len(truth) for _, truth, _ in scenes)
    grid = [0.0, 0.1, 0.25, 0.5, 0.6]
    for least, f1 in zip(grid, pool.f1(grid), strict=True):
        kept = [ranked_hits(rule, *each).above(least) for each in scenes]
        hits, count = sum(int(each.hits.sum()) for each in kept), sum(int(each.counted.sum()) for each in kept)
        assert f1 == pytest.approx(2 * hits / (count + truths))
    recall, precision = pool.curve()
    assert recall[-1] == pytest.approx(pool.hits.sum() / truths)
    assert precision[-1] == pytest.approx(pool.hits.mean())
    assert (np.diff(recall) >= 0).all()


def test_without_truth_or_detection_nothing_is_invented():
    nothing = Detections(Objects.from_masks([], (5, 7)), np.zeros(0))
    full = Objects.from_masks([np.ones((5, 7))])
    for rule in RULES:
        assert np.isnan(pooled(rule, [(nothing, nothing.objects)]).ap())
        assert pooled(rule, [(nothing, full)]).ap() == 0
        assert pooled(rule, [(Detections(full, [0.5]), full)]).ap() == pytest.approx(1)
        assert pooled(rule, [(nothing, nothing.objects)]).f1([0.5]) == [1]
        assert len(pooled(rule, [(nothing, nothing.objects)]).curve()[0]) == 0


def test_what_lies_where_none_was_sure_counts_neither_way():
    rule = RULES[0]
    labels_HW = np.zeros((6, 9), int)
    labels_HW[:, :3], labels_HW[:, 3:6], labels_HW[:, 6:] = 1, 2, 3
    parts = Objects.from_labels(labels_HW)
    found = Detections(parts, [0.9, 0.8, 0.7])
    truth, unsure = parts.select(np.array([1])), parts.select(np.array([0, 1]))
    ranked = ranked_hits(rule, found, truth, unsure)
    assert ranked.counted.tolist() == [False, True, True], "the second lies in an unsure object, and is a hit"
    assert ranked.hits.tolist() == [False, True, False]
    assert PooledHits([ranked], rule).ap() == openimages_ap([found], [truth], rule.iou, ignored=[unsure]) == 1
