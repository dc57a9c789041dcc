"""A slide's objects from dense networks, through the engine of masks: tiles, views, scales."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from histofold.core.objects.frames import framed_detections
from histofold.core.objects.instances import Objects
from histofold.core.objects.overlaps import pairwise_iou
from histofold.imaging.slide import Slide
from histofold.imaging.surroundings import with_surroundings
from histofold.library import ArrayReader
from histofold.predict.objects.cut import cut_detections
from histofold.predict.objects.image import predict_detections, predict_objects, raw_detections
from histofold.schema.manifest import Manifest
from histofold.schema.objects import DENSE_MAPS, ObjectConfig
from histofold.schema.preprocessing import Preprocessing
from predict.objects.test_dense import scene
from small_stages import stage_of

MANIFEST = Manifest(
    competition="vrdl_nuclei",
    preprocessing=Preprocessing(normalise="none", target_pixel_size_um=1.0),
    classes=("nucleus", *DENSE_MAPS),
    objects=ObjectConfig(marker=0.3),
    tile=64,
    halo=16,
)


def painted(maps_KHW):
    """A slide whose colours are the maps, and the stage that reads them off."""
    image_HWC = np.rint(np.moveaxis(maps_KHW, 0, -1) * 255).astype(np.uint8)
    stage = stage_of(lambda tiles_NHWC: np.moveaxis(tiles_NHWC, -1, 1).astype(np.float32) / 255, MANIFEST)
    return Slide(Path("array"), ArrayReader(image_HWC)), stage


@pytest.mark.parametrize(("pixel_size_um", "at_least"), [(1.0, 0.9), (2.0, 0.75)])
def test_tiles_give_the_objects_of_the_slide(pixel_size_um, at_least):
    labels_HW, maps_KHW = scene((150, 211), 40, 0)
    slide, stage = painted(maps_KHW)
    detections = raw_detections([stage], slide, pixel_size_um)
    truth = Objects.from_labels(labels_HW)
    iou_NM = pairwise_iou(detections.objects, truth)
    assert len(detections) == len(truth)
    assert iou_NM.max(0).min() >= at_least
    assert detections.scores.min() > 0.5


def test_what_is_submitted_is_cut_by_the_manifest():
    _, maps_KHW = scene((90, 120), 30, 1)
    slide, stage = painted(maps_KHW)
    config = ObjectConfig(marker=0.3, min_area_px=100, max_objects=5)
    stage = dataclasses.replace(stage, manifest=dataclasses.replace(MANIFEST, objects=config))
    detections = predict_detections([stage], slide, 1.0)
    expected = cut_detections(raw_detections([stage], slide, 1.0), config)
    assert 0 < len(detections) <= 5
    np.testing.assert_array_equal(detections.scores, expected.scores)
    np.testing.assert_array_equal(detections.objects.starts, expected.objects.starts)
    assert (np.diff(detections.scores) <= 0).all()


def test_a_sink_sees_all_maps():
    _, maps_KHW = scene((70, 66), 10, 2)
    slide, stage = painted(maps_KHW)
    seen_KHW = np.zeros_like(maps_KHW, dtype=np.float32)

    class Sink:
        def add(self, y, probs_KHW):
            seen_KHW[:, y : y + probs_KHW.shape[1]] = probs_KHW

    predict_objects([stage], slide, 1.0, sink=Sink())
    np.testing.assert_allclose(seen_KHW, maps_KHW, atol=1 / 255)


def test_what_is_found_beyond_a_tile_is_cut_off_at_its_sides():
    _, maps_KHW = scene((120, 140), 30, 2)
    slide, stage = painted(maps_KHW)
    spec = dataclasses.replace(MANIFEST.preprocessing, context_px=24)
    wide = dataclasses.replace(stage, manifest=dataclasses.replace(MANIFEST, preprocessing=spec))
    bands = []

    class Sink:
        def add(self, y, probs_KHW):
            bands.append((y, probs_KHW))

    own = predict_objects([wide], slide, 1.0, sink=Sink())
    assert own.raw.objects.shape_hw == (120, 140)
    assert own.rows_done == 120
    assert sorted(y for y, _ in bands) == [y for y, _ in bands]
    seen_KHW = np.concatenate([band_KHW for _, band_KHW in bands], axis=1)
    np.testing.assert_allclose(seen_KHW, np.rint(maps_KHW * 255) / 255, atol=1e-3)
    around = raw_detections([stage], with_surroundings(slide, 24), 1.0)
    expected = framed_detections(around, (24, 24), (120, 140))
    np.testing.assert_array_equal(own.raw.objects.starts, expected.objects.starts)
    assert len(own.raw) < len(around)
