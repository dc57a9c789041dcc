"""What folds find is kept: read back as it was, and predicted anew only where weights, settings or contents changed."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample
from histofold.trust.objects import found as module
from histofold.trust.objects.found import find_held_out, kept_detections
from histofold.trust.oof import FoldRun
from object_scenes import random_masks

SHAPE = (17, 29)


@pytest.fixture
def folds(tmp_path):
    made = []
    for number in (0, 1):
        folder = tmp_path / f"fold{number}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes([number]))
        held_out = {f"i{2 * number + place}": 0.5 for place in (0, 1)}
        inputs = {f"pixels {key}": key for key in held_out}
        record = SimpleNamespace(inputs=inputs, dice_by_id=held_out, architecture="unet")
        manifest = Manifest(competition="vasculature_2023", preprocessing=Preprocessing())
        made.append(FoldRun(number, folder, manifest, record))
    return made


@pytest.fixture
def predicted(monkeypatch):
    """The ids that are predicted, as they come; each gives random objects of its own."""
    ids = []

    class Truth:
        def __init__(self, sources):
            pass

        def objects(self, sample):
            return Objects.from_masks([np.ones(SHAPE)])

        def unsure(self, sample):
            return Objects.from_masks([], SHAPE)

    def detect(ensemble, sample, run):
        ids.append(sample.id)
        rng = np.random.default_rng(int(sample.id[1:]))
        objects = Objects.from_masks(random_masks(rng, SHAPE), SHAPE)
        return Detections(objects, rng.random(len(objects)))

    table = pd.DataFrame({"id": ["i0", "i1", "i2", "i3"], "fold": [0, 0, 1, 1], "group": list("aabb")})
    samples = {key: Sample(id=key, image_path="none") for key in table["id"]}
    monkeypatch.setattr(module, "joined_folds", lambda sources: table)
    monkeypatch.setattr(module, "joined_groups", lambda sources: dict(zip(table["id"], table["group"], strict=True)))
    monkeypatch.setattr(module, "joined_samples", lambda sources: samples)
    monkeypatch.setattr(module, "JoinedTruth", Truth)
    monkeypatch.setattr(module, "_detected", detect)
    monkeypatch.setattr(FoldRun, "ensemble", lambda fold: ["a network"])
    return ids


def test_what_was_found_is_read_back_as_it_was(tmp_path, folds, predicted):
    first, again = (find_held_out(tmp_path, folds, []) for _ in range(2))
    assert predicted == ["i0", "i1", "i2", "i3"], "the second time nothing is predicted"
    assert [(image.fold, image.group) for image in again] == [(0, "a"), (0, "a"), (1, "b"), (1, "b")]
    for one, other in zip(first, again, strict=True):
        assert one.raw.scores.tolist() == other.raw.scores.tolist()
        assert [runs.to_mask().tolist() for runs in one.raw.objects] == [
            runs.to_mask().tolist() for runs in other.raw.objects
        ]


def test_an_interrupted_evaluation_goes_on_after_the_last_whole_line(tmp_path, folds, predicted):
    find_held_out(tmp_path, folds, [])
    journal = tmp_path / module.JOURNAL_NAME
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:20])
    predicted.clear()
    find_held_out(tmp_path, folds, [])
    assert predicted == ["i2", "i3"]


def test_other_weights_or_contents_are_predicted_anew(tmp_path, folds, predicted):
    find_held_out(tmp_path, folds, [])
    predicted.clear()
    (folds[0].folder / "model.safetensors").write_bytes(b"others")
    folds[1].record.inputs["pixels i3"] = "changed"
    find_held_out(tmp_path, folds, [])
    assert predicted == ["i0", "i1", "i3"]


def test_what_was_kept_of_other_weights_is_not_of_the_run_as_it_is(tmp_path, folds, predicted):
    found = {image.sample.id: image.raw for image in find_held_out(tmp_path, folds, [])}
    kept = kept_detections(tmp_path, folds)
    assert {key: fold.fold for key, (fold, _) in kept.items()} == {"i0": 0, "i1": 0, "i2": 1, "i3": 1}
    assert all(raw.scores.tolist() == found[key].scores.tolist() for key, (_, raw) in kept.items())
    (folds[0].folder / "model.safetensors").write_bytes(b"others")
    assert kept_detections(tmp_path, folds).keys() == {"i2", "i3"}
