"""Pixels that do not count, where slides are scored."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from histofold.core.rle.runs import runs_from_mask
from histofold.schema.sample import Sample
from histofold.train import loop
from histofold.trust import oof

SAMPLE = Sample(id="a", image_path=Path("a.png"))


@pytest.fixture
def truth():
    """Four columns of truth beside two ignored ones."""
    target_HW, ignored_HW = np.zeros((5, 9), bool), np.zeros((5, 9), bool)
    target_HW[:, :4] = ignored_HW[:, 4:6] = True
    target, ignored = runs_from_mask(target_HW), runs_from_mask(ignored_HW)
    return SimpleNamespace(never_empty=False, target=lambda sample: target, ignored=lambda sample: ignored)


def predict_columns(stop):
    predicted_HW = np.zeros((5, 9), bool)
    predicted_HW[:, :stop] = True
    return lambda stages, sample, cuts, never_empty: [runs_from_mask(predicted_HW) for _ in cuts]


def test_out_of_fold_dice_passes_over_ignored_pixels(truth, monkeypatch):
    monkeypatch.setattr(oof, "predict_masks", predict_columns(6))
    assert set(oof.score_slide([], truth, SAMPLE)[0]) == {1.0}
    monkeypatch.setattr(oof, "predict_masks", predict_columns(8))
    assert set(oof.score_slide([], truth, SAMPLE)[0]) == {2 * 4 / (4 + 6)}


def test_validation_passes_over_them_too(truth, monkeypatch):
    monkeypatch.setattr(loop, "predict_masks", predict_columns(6))
    monkeypatch.setattr(loop, "stages_of", lambda model, manifest: [])
    model = SimpleNamespace(training=False, eval=lambda: None, train=lambda mode: None)
    setup = SimpleNamespace(manifest=None, competition=truth)
    assert loop.validate_slides(model, setup, [SAMPLE]) == {"a": 1.0}


def test_a_mask_of_everything_covers_what_counts(truth):
    assert oof.everything_dice(truth, SAMPLE) == pytest.approx(2 * 20 / (20 + 7 * 5))
    truth.target = lambda sample: (runs_from_mask(np.ones((5, 9), bool)), runs_from_mask(np.zeros((5, 9), bool)))
    truth.ignored = lambda sample: None
    assert oof.everything_dice(truth, SAMPLE) == 0.5, "the mean of a class that is everywhere and one that is not there"
