"""Weights of single objects as a Python object."""

import json

import numpy as np
import pytest

import histofold
from histofold.core.faults import InputError
from histofold.predict.submission.shards import predict_folder
from histofold.predict.tuner import propose_batch
from histofold.report.results.files import ResultFiles
from histofold.schema.manifest import load_manifest
from histofold.schema.objects import ObjectConfig
from object_weights import DENSE, DETECTOR, object_package, tissue, vasculature_test

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[DENSE, DETECTOR], ids=["dense", "detector"])
def weights(request, tmp_path_factory):
    return object_package(tmp_path_factory.mktemp("weights") / "w", "vasculature_2023", request.param)


def test_it_answers_as_the_command_does(weights, tmp_path):
    root = vasculature_test(tmp_path / "data", {"a": (90, 121)})
    kinds = {"geojson": tmp_path / "geojson"}
    predict_folder(weights, root, tmp_path / "s.csv", results=ResultFiles(kinds))
    features = json.loads((kinds["geojson"] / "a.geojson").read_text())["features"]
    model = histofold.load(weights)
    image = root / "test" / "a.tif"
    detections = model.objects(image, 0.5)
    assert len(detections) == len(features) > 1
    scores = [feature["properties"]["measurements"]["score"] for feature in features]
    np.testing.assert_allclose(detections.scores, scores, atol=1e-6)
    assert json.loads(json.dumps(model.polygons(image, 0.5)))["features"] == features
    mask_HW = model.predict(tissue((90, 121), 0), 0.5)
    assert mask_HW.shape == (90, 121)
    assert mask_HW.sum() <= detections.objects.areas.sum()
    np.testing.assert_array_equal(mask_HW, np.any([runs.to_mask() for runs in detections.objects], axis=0))


def test_probabilities_are_those_of_dense_networks(weights):
    model = histofold.load(weights)
    if load_manifest(weights).members[0].architecture == "unet":
        assert model.probabilities(tissue((70, 66), 1), 0.5).shape == (3, 70, 66)
    else:
        with pytest.raises(ValueError, match="take objects"):
            model.probabilities(tissue((70, 66), 1), 0.5)


def test_weights_of_masks_have_no_objects(small_package):
    with pytest.raises(ValueError, match="find masks"):
        histofold.load(small_package).objects(tissue((64, 64), 0), 1.6)


def test_a_batch_is_proposed(weights, monkeypatch):
    monkeypatch.setattr("histofold.predict.tuner.LARGEST_BATCH", 2)
    assert propose_batch(weights, load_manifest(weights)).batch in (1, 2)


def test_boxes_of_networks_that_have_none_are_refused(tmp_path):
    weights = object_package(tmp_path / "w", "vasculature_2023", DETECTOR, objects=ObjectConfig(fusion="boxes"))
    path = weights / "manifest.json"
    path.write_text(path.read_text().replace('"maskrcnn"', '"mask2former"'))
    with pytest.raises(InputError, match=r"small_fold0.*has no masks in boxes.*masks or nms"):
        histofold.load(weights)
