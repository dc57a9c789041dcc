"""Outlines to a file and back, and the means of probabilities over components, against decoded masks."""

import cv2
import geojson
import numpy as np
import pytest
import shapely

from hard_masks import hard_masks
from histofold.competitions.truth.outlines.files import draw_outlines, read_outline_file
from histofold.core.metrics import dice
from histofold.core.rle.rings import trace_components
from histofold.core.rle.runs import runs_from_mask
from histofold.report.results import outlines
from histofold.report.results.outlines import ColumnSums, write_outlines


def masks_with_holes(count):
    """Blobs with holes in turn with the hardest small masks, H != W."""
    rng = np.random.default_rng(3)
    for hard_HW in hard_masks(count // 2, seed=5):
        yield hard_HW
        height, width = (int(side) for side in rng.choice(np.arange(30, 90), 2, replace=False))
        noise_HW = cv2.GaussianBlur(rng.random((height, width)), (0, 0), 3)
        blobs_HW = noise_HW > np.quantile(noise_HW, 0.4)
        blobs_HW[height // 3 : height // 2, width // 3 : width // 2] ^= rng.random() < 0.7
        yield blobs_HW


def test_a_mask_is_the_same_after_geojson(tmp_path):
    path, holes = tmp_path / "a.geojson", 0
    for mask_HW in masks_with_holes(200):
        write_outlines(path, runs_from_mask(mask_HW), ["gland"], None)
        found = geojson.loads(path.read_text())
        assert found.is_valid
        polygons = [shapely.geometry.shape(each["geometry"]) for each in found["features"]]
        holes += sum(len(polygon.interiors) for polygon in polygons)
        assert all(polygon.is_valid for polygon in polygons)
        assert shapely.unary_union(polygons).area == mask_HW.sum()
        back_HW = draw_outlines(read_outline_file(path)[0], mask_HW.shape).to_mask()
        np.testing.assert_array_equal(back_HW, mask_HW)
        assert dice(back_HW, mask_HW) == 1
    assert holes > 200


def test_what_is_not_known_is_left_out(tmp_path):
    masks = runs_from_mask(np.ones((3, 4))), runs_from_mask(np.zeros((3, 4)))
    write_outlines(tmp_path / "a.geojson", masks, ["a", "b"], None)
    (feature,) = geojson.loads((tmp_path / "a.geojson").read_text())["features"]
    assert feature["properties"]["measurements"] == {"area_px": 12}
    assert feature["properties"]["classification"] == {"name": "a", "color": [255, 205, 0]}


@pytest.mark.parametrize("band", [1, 7, 100])
def test_means_of_components_are_those_of_their_pixels(band, monkeypatch):
    monkeypatch.setattr(outlines, "_SLAB_PX", 100)
    rng = np.random.default_rng(band)
    for mask_HW in hard_masks(32, seed=band):
        probs_HW = np.where(mask_HW, rng.uniform(0.5, 1, mask_HW.shape), rng.uniform(0, 0.49, mask_HW.shape))
        probs_HW = probs_HW.astype(np.float32)
        sums = ColumnSums(mask_HW.shape, 0.5)
        for top in range(0, len(probs_HW), band):
            sums.add(probs_HW[top : top + band])
        for each in trace_components(runs_from_mask(mask_HW)):
            assert sums.mean(each) == pytest.approx(probs_HW[each.pieces.to_mask()].mean(), abs=1e-6)


def test_means_of_filled_holes_count_the_holes_and_a_mask_that_was_never_there_has_none():
    probs_HW = np.full((6, 5), 0.9, np.float32)
    probs_HW[2:4, 2] = 0.1
    sums = ColumnSums(probs_HW.shape, 0.5)
    sums.add(probs_HW)
    (filled,) = trace_components(runs_from_mask(np.ones((6, 5))))
    assert sums.mean(filled) == pytest.approx(probs_HW.mean())
    assert None in [sums.mean(each) for each in trace_components(runs_from_mask(np.eye(6, 5)))]


def test_rows_that_never_came_end_the_mask():
    probs_HW = np.full((4, 5), 0.75, np.float32)
    sums = ColumnSums((9, 5), 0.5)
    sums.add(probs_HW)
    mask_HW = np.zeros((9, 5), bool)
    mask_HW[:4] = True
    assert [sums.mean(each) for each in trace_components(runs_from_mask(mask_HW))] == pytest.approx([0.75])
