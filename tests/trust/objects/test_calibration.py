"""Scores as chances of a hit: lines are found again, rank nothing anew, and help where two networks are ranked."""

import numpy as np
import pytest

from histofold.core.metrics.calibration import calibration_error, scaled_score
from histofold.core.metrics.ranked import ApRule, PooledHits, RankedHits, ranked_hits
from histofold.core.objects.detections import Detections
from histofold.core.objects.fusion import fuse_masks
from histofold.core.objects.instances import Objects
from histofold.trust.objects.calibration import calibration_summary, fit_score_line
from small_objects import SHAPE_HW, disc

RULE = ApRule(host="openimages", iou=0.5)


def drawn_hits(seed, line=(1.0, 0.0), count=400):
    """Detections that hit as often as their scores say, whose scores a line then moves."""
    rng = np.random.default_rng(seed)
    chances = rng.uniform(0.02, 0.98, count)
    hits = rng.random(count) < chances
    scores = np.array([scaled_score(chance, line) for chance in chances])
    order = np.argsort(-scores, kind="stable")
    return RankedHits(scores[order], hits[order], np.ones(count, bool), order, count)


@pytest.mark.parametrize("line", [(1.0, 0.0), (0.5, 1.0), (2.0, -1.5)])
def test_the_line_that_moved_the_scores_is_found_and_undone(line):
    images = [drawn_hits(seed, line) for seed in range(10)]
    slope, offset = fit_score_line(images)
    assert slope * line[0] == pytest.approx(1, abs=0.1)
    assert slope * line[1] + offset == pytest.approx(0, abs=0.15)
    summary = calibration_summary(images, [seed % 2 for seed in range(10)])
    assert summary["score_line"] == [slope, offset]
    assert summary["error_scaled"] < 0.03
    assert summary["error"] == pytest.approx(summary["error_scaled"], abs=0.01) or summary["error"] > 0.1


def test_the_error_is_the_definition():
    rng = np.random.default_rng(1)
    scores, hits = rng.random(500), rng.random(500) < 0.3
    gaps = []
    for low in np.arange(10) / 10:
        inside = (scores >= low) & (scores < low + 0.1)
        gaps.append(inside.sum() * abs(scores[inside].mean() - hits[inside].mean()))
    assert calibration_error(scores, hits) == pytest.approx(sum(gaps) / 500)
    assert calibration_error(np.ones(3), np.ones(3, bool)) == 0
    assert calibration_error(np.zeros(0), np.zeros(0, bool)) == 0


def test_a_line_keeps_scores_in_their_order_and_between_0_and_1():
    scores = [0.0, 1e-9, 0.2, 0.5, 0.500001, 1.0]
    for line in ((0.3, 4.0), (7.0, -9.0), (90.0, 0.0)):
        scaled = [scaled_score(score, line) for score in scores]
        assert scaled == sorted(scaled)
        assert scaled[0] >= 0
        assert scaled[-1] <= 1
    assert scaled_score(0.3, (1, 0)) == pytest.approx(0.3)


@pytest.mark.parametrize("hits", [np.ones(4, bool), np.zeros(4, bool), np.zeros(0, bool)])
def test_where_all_or_nothing_hits_scores_stay(hits):
    image = RankedHits(np.linspace(0.9, 0.1, len(hits)), hits, np.ones(len(hits), bool), np.arange(len(hits)), 4)
    assert fit_score_line([image]) == (1.0, 0.0)


def test_where_worse_scores_hit_more_often_all_become_the_share_of_hits_in_their_old_order():
    scores = np.array([0.99999, 0.9999, 0.999, 0.3, 0.2, 0.1])
    image = RankedHits(scores, np.array([0, 0, 0, 1, 1, 0], bool), np.ones(6, bool), np.arange(6), 6)
    line = fit_score_line([image])
    scaled = [scaled_score(score, line) for score in scores]
    assert line[0] > 0
    assert scaled == pytest.approx([1 / 3] * 6, abs=0.03)


def scene(seed):
    """True objects, the places that two networks name, and their scores: loud and ignorant ones, shy and right ones."""
    rng = np.random.default_rng(seed)
    centres = [(16 + 32 * (cell // 4), 16 + 32 * (cell % 4)) for cell in range(12)]
    real = rng.random(12) < 0.5
    truth = Objects.from_masks([disc(c, 8) for c, is_real in zip(centres, real, strict=True) if is_real], SHAPE_HW)
    keen = np.where(real, rng.uniform(0.4, 1, 12), rng.uniform(0, 0.6, 12))
    scores = [rng.random(12), np.array([scaled_score(each, (1 / 3, -2.0)) for each in keen])]
    return truth, Objects.from_masks([disc(c, 8) for c in centres], SHAPE_HW), scores


def test_two_networks_of_other_scores_rank_better_where_each_is_scaled():
    others = [scene(seed) for seed in range(100, 120)]
    lines = [
        fit_score_line([ranked_hits(RULE, Detections(finds, scores[k]), truth) for truth, finds, scores in others])
        for k in (0, 1)
    ]
    aps = []
    for truth, finds, scores in map(scene, range(20)):
        scaled = [np.array([scaled_score(each, line) for each in s]) for s, line in zip(scores, lines, strict=True)]
        both = [Detections(*fuse_masks([(finds, each) for each in given], [1, 1], 0.5)) for given in (scores, scaled)]
        aps.append([PooledHits([ranked_hits(RULE, found, truth)], RULE).ap() for found in both])
    before, after = np.mean(aps, axis=0)
    assert after > before + 0.1
