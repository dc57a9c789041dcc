"""An evaluation of objects: its figures are the host's, its files are what others read, its words name the metric."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from histofold.core.metrics import aji, openimages_ap, panoptic_quality
from histofold.core.metrics.ranked import ApRule
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.predict.objects.cut import cut_detections
from histofold.schema.choices import CHOSEN_SETTINGS, read_choices
from histofold.schema.manifest import read_thresholds
from histofold.schema.objects import ObjectConfig
from histofold.trust.objects.scores import OOF_COLUMNS
from small_objects import SHAPE_HW, found_image, made_evaluation


def scored(evaluation):
    """Detections as they are scored, truths and unsure objects."""
    images = evaluation.images
    found = [cut_detections(image.raw, evaluation.nested[image.fold].config) for image in images]
    return found, [image.truth for image in images], [image.unsure for image in images]


def test_the_score_is_the_hosts_of_all_images_pooled(tmp_path, monkeypatch):
    images = [found_image(number, shrunk=number % 3, unsure=1, stray=5) for number in range(6)]
    evaluation = made_evaluation(monkeypatch, tmp_path, images)
    found, truths, unsure = scored(evaluation)
    assert evaluation.score == pytest.approx(openimages_ap(found, truths, 0.6, ignored=unsure))
    assert evaluation.summary["further"]["AP75"] == pytest.approx(openimages_ap(found, truths, 0.75, ignored=unsure))
    alone = openimages_ap(found[:1], truths[:1], 0.6, ignored=unsure[:1])
    assert evaluation.oof["ap"][0] == pytest.approx(alone)
    for place in range(6):
        shown, row = evaluation.shown[place].objects, evaluation.oof.iloc[place]
        assert row["aji"] == pytest.approx(aji(shown, truths[place]))
        assert row["pq"] == pytest.approx(panoptic_quality(shown, truths[place])[0])
        assert (row["predicted"], row["true"]) == (len(shown), len(truths[place]))
        least = evaluation.nested[row["fold"]].shown_score
        assert (evaluation.shown[place].scores >= least).all()
        assert len(shown) < (found[place].scores >= least).sum(), "what lies where people were unsure is no object"


def test_its_files_are_what_others_read(tmp_path, monkeypatch):
    images = [found_image(number, shrunk=3) for number in range(8)]
    evaluation = made_evaluation(monkeypatch, tmp_path, images, own=ObjectConfig(min_score=0.04))
    assert read_choices(tmp_path / "objects.json", CHOSEN_SETTINGS) == evaluation.summary["chosen"]
    assert evaluation.summary["chosen"]["grow_px"] >= 2
    assert read_thresholds(tmp_path / "thresholds.json") == evaluation.thresholds
    assert 0 < evaluation.thresholds["default"] <= 0.04
    table = pd.read_csv(tmp_path / "oof.csv")
    assert tuple(table.columns) == OOF_COLUMNS
    assert table["id"].tolist() == [image.sample.id for image in images]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["metric"] == "AP"
    assert summary["images"] == summary["groups"] == 8
    low, high = summary["interval"]
    assert low < summary["score"] < high
    assert summary["score_of_own_settings"] < summary["score"] <= summary["score_chosen_on_all_optimistic"] + 0.05


def test_its_words_begin_with_the_folds_and_end_with_the_host(tmp_path, monkeypatch):
    rule = ApRule(host="coco", iou=0.5, max_detections=4)
    images = [found_image(number) for number in range(4)]
    evaluation = made_evaluation(monkeypatch, tmp_path, images, rule=rule, metric="AP50")
    first, second, choice, further, scores, errors, means, headline = evaluation.lines()
    assert first.startswith("fold 0: AP50 ")
    assert second.startswith("fold 1: AP50 ")
    assert "0.5000 in training: settings of prediction" in first
    assert "objects show from a score of" in choice
    assert "without the limit of 4 detections" in further
    assert scores.startswith("scores as chances of a hit: off by 0.")
    assert errors.startswith("errors: ")
    assert "objects where 32 are true" in means
    assert headline.startswith(f"out-of-fold AP50 {evaluation.score:.4f} (95% ")
    assert headline.endswith("a perfect answer scores 0.5050"), "4 of 8 objects: recalls 0 to 0.5 of 101"
    assert evaluation.score_words() == f"out-of-fold AP50 {evaluation.score:.4f}"


def test_an_image_without_objects_or_finds_has_no_score_of_its_own(tmp_path, monkeypatch):
    images = [found_image(number) for number in range(4)]
    nothing = Objects.from_masks([], SHAPE_HW)
    images[0] = replace(images[0], truth=nothing)
    images[1] = replace(images[1], raw=Detections(nothing, np.zeros(0)))
    evaluation = made_evaluation(monkeypatch, tmp_path, images)
    assert math.isnan(evaluation.oof["ap"][0])
    assert evaluation.oof["ap"][1] == 0
    assert (tmp_path / "oof.csv").read_text().splitlines()[1].startswith("i0,0,dataset_1,,,,")
    assert 0 < evaluation.score < 1


def test_one_fold_of_one_group_says_so(tmp_path, monkeypatch):
    images = [found_image(number, folds=1, group="g") for number in range(2)]
    evaluation = made_evaluation(monkeypatch, tmp_path, images)
    assert evaluation.summary["interval"] is None
    assert "no interval: one group" in evaluation.lines()[-1]
    assert evaluation.choice_words().startswith("settings of the run: one fold alone")
    assert read_choices(tmp_path / "objects.json", CHOSEN_SETTINGS) == {}
