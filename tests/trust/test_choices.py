"""Thresholds and settings that other folds chose: each image is scored by none of its own fold's."""

import pandas as pd
import pytest

from histofold.trust.choices import ScoredCandidates
from histofold.trust.thresholds import apply_thresholds, score_column

GRID = (0.3, 0.5, 0.7)
NAMES = ("gland", "lumen")


def made(rows, *names):
    """Rows of (fold, scores at the three thresholds, of several classes of each) under a single setting."""
    tables = []
    for fold, *of_classes in rows:
        row = {"fold": fold, "organ": "", "source": "", "group": "g"}
        row |= {t: sum(scores) / len(scores) for t, scores in zip(GRID, zip(*of_classes, strict=True), strict=True)}
        for name, scores in zip(names, of_classes, strict=bool(names)):
            row |= {score_column(name, t): score for t, score in zip(GRID, scores, strict=True)}
        tables.append(row)
    return ScoredCandidates({"own": pd.DataFrame(tables)}, GRID, names), pd.DataFrame(tables)


def test_each_fold_is_scored_at_the_threshold_of_the_others():
    """Fold 0 is best at 0.3 and fold 1 at 0.7: nested, each is scored at the other's choice."""
    scored, table = made([(0, (0.9, 0.5, 0.1))] * 3 + [(1, (0.2, 0.5, 0.8))] * 3)
    scores = scored.nested_scores(lambda folds: "own")
    assert scores.tolist() == pytest.approx([0.1] * 3 + [0.2] * 3)
    assert scores.mean() < apply_thresholds(table, scored.thresholds("own", scored.folds)).mean()


def test_a_single_fold_is_scored_at_a_half():
    scored, _ = made([(0, (0.9, 0.5, 0.1))])
    assert scored.nested_scores(lambda folds: "own").tolist() == [0.5]
    assert scored.thresholds("own", frozenset()) == {"default": 0.5}
    scored, _ = made([(0, (0.9, 0.5, 0.1), (0.2, 0.4, 0.6))], *NAMES)
    assert scored.nested_scores(lambda folds: "own").tolist() == [[0.5, 0.4]]


def test_classes_are_scored_at_thresholds_of_their_own():
    rows = [(0, (0.9, 0.5, 0.1), (0.5, 0.5, 0.5))] * 8 + [(1, (0.2, 0.5, 0.8), (0.5, 0.5, 0.5))] * 8
    scored, _ = made(rows, *NAMES)
    scores = scored.nested_scores(lambda folds: "own")
    assert scores.shape == (16, 2)
    assert scores[:, 0].tolist() == pytest.approx([0.1] * 8 + [0.2] * 8)
    assert scores[:, 1].tolist() == pytest.approx([0.5] * 16)
    assert set(scored.thresholds("own", scored.folds)) == {"default", "class:gland", "class:lumen"}
