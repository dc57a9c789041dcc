"""Submissions of objects: rows of both competitions, shards, results beside them, and what a short clock leaves."""

import base64
import csv
import dataclasses
import json
import zlib

import cv2
import numpy as np
import pytest

from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.competitions.vasculature_2023 import Vasculature2023
from histofold.core.objects.coco import runs_from_counts
from histofold.core.rle.runs import parse_rle
from histofold.predict.objects.rows import ObjectRows
from histofold.predict.submission.merge import merge_shards
from histofold.predict.submission.runner import run_submission
from histofold.predict.submission.shards import FolderRun, predict_folder, predict_shard
from histofold.report.results.files import ResultFiles
from histofold.schema.manifest import load_manifest
from object_weights import DENSE, DETECTOR, object_package, vasculature_test
from slow_network import skipping_clock

pytestmark = pytest.mark.slow

SHAPES = {"b": (90, 121), "a": (64, 64), "gone": None, "c": (33, 70)}


@pytest.fixture(scope="module", params=[DENSE, DETECTOR], ids=["dense", "detector"])
def weights(request, tmp_path_factory):
    return object_package(tmp_path_factory.mktemp("weights") / "w", "vasculature_2023", request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return vasculature_test(tmp_path_factory.mktemp("data") / "hidden", SHAPES)


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def decoded(prediction, shape_hw):
    """Scores and masks of a row's last cell."""
    words = prediction.split(" ") if prediction else []
    items = list(zip(words[::3], words[1::3], words[2::3], strict=True))
    assert all(label == "0" for label, _, _ in items)
    texts = [zlib.decompress(base64.b64decode(text)).decode() for _, _, text in items]
    return [float(score) for _, score, _ in items], [runs_from_counts(text, shape_hw).to_mask() for text in texts]


def test_rows_are_what_the_host_takes(weights, folder, tmp_path):
    summary = predict_folder(weights, folder, tmp_path / "s.csv")
    assert (summary.done, set(summary.failed)) == (3, {"gone"})
    header, *rows = rows_of(tmp_path / "s.csv")
    assert header == ["id", "height", "width", "prediction_string"]
    assert [row[0] for row in rows] == list(SHAPES)
    found = 0
    for key, height, width, prediction in rows:
        assert (int(height), int(width)) == (SHAPES[key] or (512, 512))
        scores, masks = decoded(prediction, (int(height), int(width)))
        assert scores == sorted(scores, reverse=True)
        assert all(mask_HW.any() for mask_HW in masks)
        found += len(scores)
    assert found > 5, "an untrained network still marks something"


def test_shards_merge_to_one_run(weights, folder, tmp_path):
    predict_folder(weights, folder, tmp_path / "whole.csv")
    parts = [tmp_path / f"s{shard}.csv" for shard in range(2)]
    for shard, path in enumerate(parts):
        predict_shard(FolderRun(weights, folder, path), (2, shard))
    merge_shards(parts, tmp_path / "merged.csv")
    assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    _, is_new = predict_shard(FolderRun(weights, folder, parts[0]), (2, 0))
    assert not is_new


def test_what_is_written_besides(weights, folder, tmp_path):
    kinds = {kind: tmp_path / kind for kind in ("masks", "geojson", "overlays")}
    predict_folder(weights, folder, tmp_path / "s.csv", results=ResultFiles(kinds))
    assert sorted(path.name for path in kinds["masks"].iterdir()) == ["a.png", "b.png", "c.png"]
    for key, height, width, prediction in rows_of(tmp_path / "s.csv")[1:]:
        if key == "gone":
            continue
        scores, masks = decoded(prediction, (int(height), int(width)))
        labels_HW = cv2.imread(str(kinds["masks"] / f"{key}.png"), cv2.IMREAD_UNCHANGED)
        assert labels_HW.dtype == np.uint16
        expected_HW = np.zeros(SHAPES[key], np.uint16)
        for place in reversed(range(len(masks))):
            expected_HW[masks[place]] = place + 1
        np.testing.assert_array_equal(labels_HW, expected_HW)
        features = json.loads((kinds["geojson"] / f"{key}.geojson").read_text())["features"]
        assert [feature["properties"]["measurements"]["score"] for feature in features] == scores
        areas = [feature["properties"]["measurements"]["area_px"] for feature in features]
        assert areas == [int(mask_HW.sum()) for mask_HW in masks]
        assert {feature["properties"]["classification"]["name"] for feature in features} == {"blood_vessel"}
        assert cv2.imread(str(kinds["overlays"] / f"{key}.png")).shape[:2] == SHAPES[key]


def test_an_adapter_of_masks_is_given_the_union(weights, folder, tmp_path):
    samples = [dataclasses.replace(each, organ="kidney") for each in Vasculature2023().samples(folder, "test")]
    packages = [(weights, load_manifest(weights))]
    run_submission(Hubmap2022(), samples, packages, tmp_path / "s.csv", make_rows=ObjectRows)
    predict_folder(weights, folder, tmp_path / "objects.csv")
    unions = dict(rows_of(tmp_path / "s.csv")[1:])
    for key, _, _, prediction in rows_of(tmp_path / "objects.csv")[1:]:
        shape_hw = SHAPES[key]
        if shape_hw is not None:
            _, masks = decoded(prediction, shape_hw)
            union_HW = np.any([np.zeros(shape_hw, bool), *masks], axis=0)
            np.testing.assert_array_equal(parse_rle(unions[key], shape_hw).to_mask(), union_HW)
    assert unions["gone"] == "1 1"


def test_too_little_time_leaves_legal_rows(weights, folder, tmp_path):
    with skipping_clock() as nap:

        class Slow(ObjectRows):
            def predict(self, stages, slide, sample, pacer):
                nap(30)
                return super().predict(stages, slide, sample, pacer)

        packages = [(weights, load_manifest(weights))]
        samples = Vasculature2023().samples(folder, "test")
        summary = run_submission(Vasculature2023(), samples, packages, tmp_path / "s.csv", 80, make_rows=Slow)
    outcomes = [image.outcome for image in summary.images]
    assert outcomes.count("fallback") >= 2
    rows = rows_of(tmp_path / "s.csv")
    assert [row[0] for row in rows[1:]] == list(SHAPES)
    assert all(len(row) == 4 for row in rows)


@pytest.mark.parametrize("hungry", [1, 3])
def test_memory_that_does_not_suffice_costs_batches_and_then_tiles(weights, folder, tmp_path, monkeypatch, hungry):
    tried = []

    class Hungry(ObjectRows):
        def predict(self, stages, slide, sample, pacer):
            tried.append((stages[0].manifest.batch, stages[0].manifest.tile))
            if len(tried) <= hungry:
                raise MemoryError("too large")
            return super().predict(stages, slide, sample, pacer)

    monkeypatch.setattr("histofold.predict.submission.predictor.SMALLEST_TILE", 32)
    packages = [(weights, load_manifest(weights))]
    samples = Vasculature2023().samples(folder, "test")[:1]
    summary = run_submission(Vasculature2023(), samples, packages, tmp_path / "s.csv", make_rows=Hungry)
    if hungry == 1:
        assert (summary.done, tried) == (1, [(3, 64), (1, 64)])
    else:
        assert (summary.done, tried) == (0, [(3, 64), (1, 64), (1, 32)])
        assert "out of memory" in summary.failed["b"]
