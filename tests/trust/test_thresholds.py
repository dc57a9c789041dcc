import numpy as np
import pandas as pd

from histofold.trust.oof import THRESHOLD_GRID
from histofold.trust.thresholds import (
    apply_thresholds,
    best_threshold,
    choose_thresholds,
    smoothed_curve,
)

GRID = (0.3, 0.5, 0.7)


def made_table(rows):
    """Rows of (fold, organ, source, score at 0.3, at 0.5, at 0.7)."""
    return pd.DataFrame(rows, columns=["fold", "organ", "source", *GRID])


def test_the_best_mean_wins_and_ties_go_to_the_middle():
    assert best_threshold(np.array([0.1, 0.2, 0.9]), GRID) == 0.7
    assert best_threshold(np.array([0.8, 0.8, 0.8]), GRID) == 0.5
    assert best_threshold(np.array([0.8, 0.7, 0.8]), GRID) == 0.3


def test_parabolas_over_logits_pass_a_smoothing_unchanged():
    grid = np.array(THRESHOLD_GRID)
    logits = np.log(grid / (1 - grid))
    curve = 0.8 - 0.03 * (logits + 0.7) ** 2
    np.testing.assert_allclose(smoothed_curve(curve, grid), curve, atol=1e-12)


def test_a_lucky_spike_moves_the_threshold_less_than_its_neighbourhood():
    grid = np.array(THRESHOLD_GRID)
    curve = 0.8 - 0.05 * np.log(grid / (1 - grid)) ** 2
    curve[1] = 0.81  # at 0.1, far from everything that is good
    assert curve.argmax() == 1
    assert best_threshold(curve, grid) == 0.5


def test_few_images_of_an_organ_are_drawn_towards_all():
    def rows(organ, count, best):
        return [(0, organ, "", *(0.8 - 0.1 * abs(t - best) for t in GRID))] * count

    few = choose_thresholds(made_table(rows("kidney", 100, 0.3) + rows("lung", 8, 0.7)), GRID)
    assert few == {"default": 0.3, "kidney": 0.3, "kidney/": 0.3, "lung": 0.7, "lung/": 0.7}
    noisy = rows("lung", 8, 0.7)[:2] + rows("lung", 6, 0.5)
    assert choose_thresholds(made_table(rows("kidney", 100, 0.3) + noisy), GRID)["lung"] == 0.5


def test_organs_get_a_threshold_of_their_own_only_with_enough_images():
    rows = [(0, "kidney", "HPA", 0.9, 0.1, 0.1)] * 8 + [(0, "lung", "HPA", 0.1, 0.1, 0.9)] * 7
    chosen = choose_thresholds(made_table(rows), GRID)
    assert chosen == {"default": 0.3, "kidney": 0.3, "kidney/HPA": 0.3}


def test_unknown_organs_and_sources_use_what_is_there():
    table = made_table([(0, "kidney", "HPA", 1, 2, 3), (0, "kidney", "X", 1, 2, 3), (0, "heart", "X", 1, 2, 3)])
    scores = apply_thresholds(table, {"default": 0.3, "kidney": 0.5, "kidney/HPA": 0.7})
    assert scores.tolist() == [3, 2, 1]
