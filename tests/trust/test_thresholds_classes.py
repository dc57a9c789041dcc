"""Thresholds of several classes: each class its own, chosen on other folds than the one that is scored."""

import pandas as pd

from histofold.trust.thresholds import apply_thresholds, choose_thresholds, score_column

GRID = (0.3, 0.5, 0.7)
NAMES = ("gland", "lumen")


def made_table(rows):
    """Rows of (fold, scores of gland, scores of lumen) at the three thresholds."""
    tables = []
    for fold, gland, lumen in rows:
        row = {"fold": fold, "organ": "kidney", "source": "HPA"}
        row |= {t: (a + b) / 2 for t, a, b in zip(GRID, gland, lumen, strict=True)}
        for name, scores in zip(NAMES, (gland, lumen), strict=True):
            row |= {score_column(name, t): score for t, score in zip(GRID, scores, strict=True)}
        tables.append(row)
    return pd.DataFrame(tables)


def test_each_class_gets_its_own_threshold_with_enough_images():
    rows = [(0, (0.9, 0.5, 0.1), (0.1, 0.5, 0.9))] * 8
    assert choose_thresholds(made_table(rows), GRID, NAMES) == {"default": 0.5, "class:gland": 0.3, "class:lumen": 0.7}
    assert choose_thresholds(made_table(rows[:7]), GRID, NAMES) == {"default": 0.5}


def test_a_class_without_its_own_threshold_takes_what_an_image_would():
    table = made_table([(0, (1, 2, 3), (4, 5, 6))])
    thresholds = {"default": 0.3, "kidney": 0.5, "class:lumen": 0.7}
    assert apply_thresholds(table, thresholds, NAMES).tolist() == [[2, 6]]
    assert apply_thresholds(table, {"default": 0.3}, NAMES).tolist() == [[1, 4]]
    assert apply_thresholds(table, {"default": 0.3}).tolist() == [2.5]
