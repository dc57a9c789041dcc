"""Pixels that do not count, where slides are scored."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from histofold.core.rle.runs import runs_from_mask
from histofold.predict.image import ImagePrediction
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample
from histofold.train import loop
from histofold.trust import oof
from histofold.trust.cleaning import Cleaning, all_cleanings

SAMPLE = Sample(id="a", image_path=Path("a.png"))


@pytest.fixture
def truth():
    """Four columns of truth beside two ignored ones."""
    target_HW, ignored_HW = np.zeros((5, 9), bool), np.zeros((5, 9), bool)
    target_HW[:, :4] = ignored_HW[:, 4:6] = True
    target, ignored = runs_from_mask(target_HW), runs_from_mask(ignored_HW)
    return SimpleNamespace(never_empty=False, target=lambda sample: target, ignored=lambda sample: ignored)


def columns(stop):
    predicted_HW = np.zeros((5, 9), bool)
    predicted_HW[:, :stop] = True
    return runs_from_mask(predicted_HW)


def out_of_fold_dice(stop, truth, monkeypatch):
    """The distinct scores of a slide where so many columns are predicted at every threshold."""
    found = columns(stop)
    monkeypatch.setattr(oof, "open_sample", lambda sample: nullcontext())
    monkeypatch.setattr(
        oof,
        "predict_image",
        lambda stages, slide, size, cuts, *_: ImagePrediction((5, 9), dict.fromkeys(cuts, found), found, None),
    )
    cleanings = all_cleanings(Cleaning(seed_threshold=0.0, max_hole_um2=0.0, min_area_um2=0.0))
    dice, slide = oof.score_slide([], truth, SAMPLE, cleanings)
    assert slide.counted_px == 45 - 10
    assert set(slide.scores[0]) == set(dice.ravel().tolist())
    return set(dice.ravel().tolist())


def test_out_of_fold_dice_passes_over_ignored_pixels(truth, monkeypatch):
    assert out_of_fold_dice(6, truth, monkeypatch) == {1.0}
    assert out_of_fold_dice(8, truth, monkeypatch) == {2 * 4 / (4 + 6)}


def test_validation_passes_over_them_too(truth, monkeypatch):
    monkeypatch.setattr(loop, "predict_masks", lambda stages, sample, cuts, never_empty: [columns(6) for _ in cuts])
    monkeypatch.setattr(loop, "stages_of", lambda model, manifest: [])
    manifest = SimpleNamespace(preprocessing=Preprocessing(target_pixel_size_um=1.0))
    setup = SimpleNamespace(manifest=manifest, competition=truth)
    assert loop.validate_slides(torch.nn.Identity(), setup, [SAMPLE]) == {"a": 1.0}


def test_a_mask_of_everything_covers_what_counts(truth):
    assert oof.everything_dice(truth, SAMPLE) == pytest.approx(2 * 20 / (20 + 7 * 5))
    assert oof.nothing_dice(truth, SAMPLE) == 0.0
    truth.target = lambda sample: (runs_from_mask(np.ones((5, 9), bool)), runs_from_mask(np.zeros((5, 9), bool)))
    truth.ignored = lambda sample: None
    assert oof.everything_dice(truth, SAMPLE) == 0.5, "the mean of a class that is everywhere and one that is not there"
    assert oof.nothing_dice(truth, SAMPLE) == 0.5
