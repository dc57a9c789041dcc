"""What an evaluation says of its figures, and what stands beside the headline."""

import numpy as np
import pandas as pd
import pytest

from histofold.report import masks as report
from histofold.report.masks import ranked_slides
from histofold.trust.masks import MaskEvaluation, fold_words, threshold_words
from small_masks import made_masks

FOLD = {"dice": 0.81, "dice_at_half": 0.8, "last_dice": 0.80004, "last_step": 9, "best_step": 9}
SUMMARY = {
    "metric": "Dice",
    "dice": 0.241,
    "dice_at_half": 0.2391,
    "dice_of_everything": 0.237,
    "dice_of_nothing": 0.05,
    "dice_thresholds_on_all_optimistic": 0.25,
    "interval": [0.2, 0.3],
    "groups": 4,
    "images": 20,
    "missing_folds": [],
    "folds": {"0": FOLD, "1": FOLD | {"best_step": 6, "best_dice_optimistic": 0.9}},
}


def evaluation_of(**changes):
    parts = {"run": None, "folds": (), "truth": None, "samples": {}, "groups": {}, "oof": pd.DataFrame(), "notes": ()}
    parts |= {"audit": None, "table": pd.DataFrame(), "slides": {}, "cuts": np.zeros(0)}
    return MaskEvaluation(**(parts | {"thresholds": {"default": 0.45}, "summary": SUMMARY} | changes))


def test_the_headline_stands_beside_a_mask_of_everything_and_its_thresholds():
    *_, thresholds, headline = evaluation_of().lines()
    assert headline == (
        "out-of-fold Dice 0.2410 (95% 0.2000 to 0.3000 over 4 groups); a mask of everything scores 0.2370, "
        "an empty one 0.0500"
    )
    assert thresholds.endswith("all of them choose 0.45; at 0.5 the Dice is 0.2391")
    assert "threshold 0.5" in threshold_words(SUMMARY | {"folds": {"0": FOLD}}, {"default": 0.5})


def test_a_fold_agrees_with_its_training_or_says_why_not():
    assert fold_words("3", FOLD) == "fold 3: Dice 0.8100; 0.8000 at threshold 0.5, as in training"
    assert "0.7900 in training: settings of prediction" in fold_words("3", FOLD | {"last_dice": 0.79})
    assert fold_words("3", FOLD | {"last_dice": 0, "last_step": 0}).endswith("nothing was trained")


def test_a_score_of_prompts_of_the_truth_is_called_an_upper_bound():
    told = evaluation_of(summary=SUMMARY | {"prompts": "truth_boxes"}).lines()[-1]
    assert "prompted by the truth, an upper bound" in told
    assert evaluation_of(summary=SUMMARY | {"prompts": "grid"}).lines()[-1] == evaluation_of().lines()[-1]


def test_a_best_validation_is_called_optimistic_only_where_it_is_not_the_last():
    first, second = report._explanations(evaluation_of())[-2:]
    assert "optimistic" not in first
    assert second.endswith("would be optimistic: 0.9000 at step 6.")


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (1, ["best"]),
        (2, ["best", "worst"]),
        (4, ["best", "upper quarter", "median", "worst"]),
        (20, ["best", "upper quarter", "median", "lower quarter", "worst"]),
    ],
)
def test_slides_from_the_best_to_the_worst_are_shown(count, names, monkeypatch, tmp_path):
    evaluation = made_masks(monkeypatch, tmp_path, [f"s{number}" for number in range(count)], folds=min(2, count))
    ranked = ranked_slides(evaluation)
    assert [name for name, _ in ranked] == names
    scores = [shown.score for _, shown in ranked]
    assert scores == sorted(scores, reverse=True)
    assert (scores[0], scores[-1]) == (evaluation.oof["dice"].max(), evaluation.oof["dice"].min())
    cuts = dict(zip(evaluation.oof["id"], evaluation.cuts.tolist(), strict=True))
    for _, shown in ranked:
        assert shown.classes[0].words == f"Dice {shown.score:.3f} at {cuts[shown.sample.id]:g}"
