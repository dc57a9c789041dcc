"""What an evaluation says of its figures, and what stands beside the headline."""

from types import SimpleNamespace

import pandas as pd
import pytest

from histofold.report import masks as report
from histofold.report.masks import ranked_overlays
from histofold.trust.masks import MaskEvaluation, fold_words, threshold_words

FOLD = {"dice": 0.81, "dice_at_half": 0.8, "last_dice": 0.80004, "last_step": 9, "best_step": 9}
SUMMARY = {
    "metric": "Dice",
    "dice": 0.241,
    "dice_at_half": 0.2391,
    "dice_of_everything": 0.237,
    "dice_thresholds_on_all_optimistic": 0.25,
    "interval": [0.2, 0.3],
    "groups": 4,
    "images": 20,
    "missing_folds": [],
    "folds": {"0": FOLD, "1": FOLD | {"best_step": 6, "best_dice_optimistic": 0.9}},
}


def evaluation_of(**changes):
    parts = {"run": None, "folds": (), "truth": None, "samples": {}, "groups": {}, "oof": pd.DataFrame(), "notes": ()}
    return MaskEvaluation(**(parts | {"thresholds": {"default": 0.45}, "summary": SUMMARY} | changes))


def test_the_headline_stands_beside_a_mask_of_everything_and_its_thresholds():
    *_, thresholds, headline = evaluation_of().lines()
    assert headline == (
        "out-of-fold Dice 0.2410 (95% 0.2000 to 0.3000 over 4 groups); a mask of everything scores 0.2370"
    )
    assert thresholds.endswith("all of them choose 0.45; at 0.5 the Dice is 0.2391")
    assert "threshold 0.5" in threshold_words(SUMMARY | {"folds": {"0": FOLD}}, {"default": 0.5})


def test_a_fold_agrees_with_its_training_or_says_why_not():
    assert fold_words("3", FOLD) == "fold 3: Dice 0.8100; 0.8000 at threshold 0.5, as in training"
    assert "0.7900 in training: settings of prediction" in fold_words("3", FOLD | {"last_dice": 0.79})


def test_a_best_validation_is_called_optimistic_only_where_it_is_not_the_last():
    first, second = report._explanations(SUMMARY)[-2:]
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
def test_slides_from_the_best_to_the_worst_are_shown(count, names, monkeypatch):
    monkeypatch.setattr(report, "predict_masks", lambda *_: [None])
    monkeypatch.setattr(report, "class_overlays", lambda sample, truth, prediction: [sample.image_path])
    oof = pd.DataFrame({"id": [f"s{n}" for n in range(count)], "dice": [n / count for n in range(count)], "fold": 0})
    samples = {key: SimpleNamespace(id=key, organ="lung", source="", image_path=key) for key in oof["id"]}
    fold = SimpleNamespace(fold=0, manifest=SimpleNamespace(classes=("mask",)), ensemble=list)
    truth = SimpleNamespace(never_empty=False, target=lambda sample: None)
    pictures = ranked_overlays(evaluation_of(oof=oof, samples=samples, folds=[fold], truth=truth))
    titles = [title for title, _ in pictures]
    assert [title.split(":")[0] for title in titles] == names
    assert titles[0] == f"best: s{count - 1}, Dice {(count - 1) / count:.3f} at 0.45"
    assert len({picture for _, picture in pictures}) == len(names)
