"""Two runs of objects are compared by all their detections pooled, each with the settings that it is scored with."""

import json
from types import SimpleNamespace

import pytest

from histofold.core.faults import InputError
from histofold.report.comparison import compare_runs
from histofold.schema.objects import ObjectConfig
from histofold.trust.objects import comparison
from histofold.trust.objects.comparison import object_difference
from small_objects import found_image, made_evaluation


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A run that finds objects too small, and another that finds them as they are; gives evaluation and folder."""
    images = [found_image(number, shrunk=2, stray=0) for number in range(8)]
    evaluation = made_evaluation(monkeypatch, tmp_path, images)
    other = tmp_path / "other"
    other.mkdir()
    folds = {
        number: SimpleNamespace(fold=number, manifest=SimpleNamespace(objects=ObjectConfig())) for number in (0, 1)
    }
    better = {
        image.sample.id: (folds[image.fold], found_image(number, stray=0).raw) for number, image in enumerate(images)
    }
    summary = {"folds": {"0": {"chosen": {}}, "1": {"chosen": {"min_area_px": 5000}}}}
    (other / "summary.json").write_text(json.dumps(summary))
    monkeypatch.setattr(comparison, "finished_folds", lambda run: list(folds.values()))
    monkeypatch.setattr(comparison, "kept_detections", lambda run, folds: better)
    return evaluation, other, better


def test_the_other_is_scored_with_its_own_choices(runs):
    evaluation, other, _ = runs
    difference = object_difference(evaluation, other)
    assert (difference.first, difference.images) == (evaluation.score, 8)
    assert difference.second == pytest.approx(0.5), "of fold 1 everything is too small"
    (other / "summary.json").write_text(json.dumps({"folds": {"0": {"chosen": {}}, "1": {"chosen": {}}}}))
    difference = object_difference(evaluation, other)
    assert difference.second == 1
    (line,) = compare_runs(evaluation, [other])
    assert line.startswith(f"{evaluation.run.name} to other: AP {evaluation.score:.4f} to 1.0000, ")


def test_other_images_are_refused(runs):
    evaluation, other, better = runs
    better.pop("i3")
    with pytest.raises(InputError, match="finds of 7 images, 7 of them among the 8"):
        object_difference(evaluation, other)
