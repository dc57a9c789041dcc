import numpy as np
import pandas as pd
import pytest

from histofold.trust.thresholds import apply_thresholds, choose_threshold, choose_thresholds, nested_scores

GRID = (0.3, 0.5, 0.7)


def made_table(rows):
    """Rows of (fold, organ, source, score at 0.3, at 0.5, at 0.7)."""
    return pd.DataFrame(rows, columns=["fold", "organ", "source", *GRID])


def test_the_best_mean_wins_and_ties_go_to_the_middle():
    assert choose_threshold(np.array([[0.1, 0.2, 0.9]]), GRID) == 0.7
    assert choose_threshold(np.array([[0.8, 0.8, 0.8]]), GRID) == 0.5
    assert choose_threshold(np.array([[0.8, 0.7, 0.8]]), GRID) == 0.3


def test_luck_does_not_move_the_threshold_and_a_clear_gain_does():
    lucky = np.array([[0.9, 0.5, 0.5], [0.5, 0.6, 0.5], [0.5, 0.6, 0.5], [0.6, 0.6, 0.5]])
    assert lucky.mean(axis=0).argmax() == 0
    assert choose_threshold(lucky, GRID) == 0.5
    clear = np.array([[0.7, 0.5, 0.4], [0.71, 0.5, 0.4], [0.69, 0.51, 0.4], [0.7, 0.49, 0.4]])
    assert choose_threshold(clear, GRID) == 0.3


def test_organs_get_a_threshold_of_their_own_only_with_enough_images():
    rows = [(0, "kidney", "HPA", 0.9, 0.1, 0.1)] * 8 + [(0, "lung", "HPA", 0.1, 0.1, 0.9)] * 7
    chosen = choose_thresholds(made_table(rows), GRID)
    assert chosen == {"default": 0.3, "kidney": 0.3, "kidney/HPA": 0.3}


def test_unknown_organs_and_sources_use_what_is_there():
    table = made_table([(0, "kidney", "HPA", 1, 2, 3), (0, "kidney", "X", 1, 2, 3), (0, "heart", "X", 1, 2, 3)])
    scores = apply_thresholds(table, {"default": 0.3, "kidney": 0.5, "kidney/HPA": 0.7})
    assert scores.tolist() == [3, 2, 1]


def test_nested_scores_never_use_their_own_fold():
    """Fold 0 is best at 0.3 and fold 1 at 0.7: nested, each is scored at the other's choice."""
    table = made_table([(0, "a", "", 0.9, 0.5, 0.1)] * 3 + [(1, "a", "", 0.2, 0.5, 0.8)] * 3)
    scores, shipped = nested_scores(table, GRID)
    assert scores.tolist() == pytest.approx([0.1] * 3 + [0.2] * 3)
    assert scores.mean() < apply_thresholds(table, shipped).mean()


def test_a_single_fold_is_scored_at_a_half():
    scores, shipped = nested_scores(made_table([(0, "a", "", 0.9, 0.5, 0.1)]), GRID)
    assert scores.tolist() == [0.5]
    assert shipped == {"default": 0.5}


def test_images_of_one_group_count_once():
    rng = np.random.default_rng(0)
    grid = (0.4, 0.5, 0.6)
    scores = np.column_stack([rng.normal(0.7, 0.002, 12), rng.normal(0.68, 0.002, 12), rng.normal(0.6, 0.002, 12)])
    assert choose_threshold(scores, grid) == 0.4, "twelve independent images are sure"
    # The gain is that of one group alone; its images, taken as independent, would be as sure.
    scores[4:, 0] = scores[4:, 1] - 0.0005
    groups = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    assert choose_threshold(scores, grid) == 0.4
    assert choose_threshold(scores, grid, groups) == 0.5
    assert choose_threshold(scores, grid, [str(place) for place in range(12)]) == choose_threshold(scores, grid)
    assert choose_threshold(scores, grid, ["a"] * 12) == 0.4, "one group says nothing of its own spread"
