"""Detectors on whole slides: tiles, views, members and zooms give the objects of the image, each once."""

import dataclasses
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from histofold.core.objects.instances import Objects
from histofold.core.objects.overlaps import pairwise_iou
from histofold.imaging.slide import Slide
from histofold.library import ArrayReader
from histofold.predict.objects.image import predict_objects, raw_detections
from histofold.predict.objects.run import run_batch
from histofold.predict.stages import OutOfTimeError
from histofold.schema.manifest import Manifest
from histofold.schema.objects import ObjectConfig
from histofold.schema.prediction import VIEW_NAMES
from histofold.schema.preprocessing import Preprocessing
from small_detectors import LEVELS, BlobDetector, BoxDetector, ExactDetector
from small_stages import stages_of_models

MANIFEST = Manifest(
    competition="vrdl_nuclei",
    preprocessing=Preprocessing(normalise="none", target_pixel_size_um=1.0),
    tile=64,
    halo=16,
    views=("identity",),
    classes=("nucleus",),
    objects=ObjectConfig(),
    batch=3,
)


def scene(shape_hw, count=30, seed=0):
    """Ellipses that do not touch, some cut by the border, as labels (H, W)."""
    rng = np.random.default_rng(seed)
    labels_HW = np.zeros(shape_hw, np.uint8)
    for label in range(1, count + 1):
        drawn_HW = np.zeros(shape_hw, np.uint8)
        middle = int(rng.integers(0, shape_hw[1])), int(rng.integers(0, shape_hw[0]))
        axes = int(rng.integers(2, 12)), int(rng.integers(2, 12))
        cv2.ellipse(drawn_HW, middle, axes, float(rng.integers(0, 180)), 0, 360, 1, -1)
        if not labels_HW[cv2.dilate(drawn_HW, np.ones((3, 3))) > 0].any():
            labels_HW[drawn_HW > 0] = label
    return labels_HW


def slide_of(labels_HW):
    image_HWC = np.zeros((*labels_HW.shape, 3), np.uint8)
    image_HWC[:, :, 0] = LEVELS * labels_HW
    return Slide(Path("array"), ArrayReader(image_HWC))


def assert_are(detections, labels_HW, at_least=1.0):
    """The detections are the labels, each once."""
    truth = Objects.from_labels(labels_HW)
    assert len(detections) == len(truth)
    iou_NM = pairwise_iou(detections.objects, truth)
    np.testing.assert_array_equal(np.sort(iou_NM.argmax(1)), np.arange(len(truth)))
    assert iou_NM.max(1).min() >= at_least


@pytest.mark.parametrize("shape_hw", [(150, 211), (64, 64), (40, 90), (33, 21), (1, 130)])
@pytest.mark.parametrize("views", [("identity",), VIEW_NAMES])
def test_tiles_and_views_give_the_objects_of_the_image(shape_hw, views):
    labels_HW = scene(shape_hw)
    labels_HW[0, 0], labels_HW[-1, -1] = 31, 32
    stages = stages_of_models([ExactDetector()], dataclasses.replace(MANIFEST, views=views))
    detections = raw_detections(stages, slide_of(labels_HW), 1.0)
    assert_are(detections, labels_HW)
    expected = sorted(1 - 0.01 * label for label in np.unique(labels_HW)[1:])
    np.testing.assert_allclose(np.sort(detections.scores), expected, rtol=1e-6)


@pytest.mark.parametrize("fusion", ["nms", "boxes", "masks"])
def test_members_are_fused(fusion):
    labels_HW = scene((150, 211))
    manifest = dataclasses.replace(MANIFEST, objects=ObjectConfig(fusion=fusion))
    stages = stages_of_models([BoxDetector(), BoxDetector(0.5)], manifest)
    detections = raw_detections(stages, slide_of(labels_HW), 1.0)
    assert len(detections) == len(np.unique(labels_HW)) - 1
    best = 0.5 * (1 + 0.5) if fusion != "nms" else 1.0
    np.testing.assert_allclose(detections.scores.max(), best * (1 - 0.01 * np.unique(labels_HW)[1]), rtol=1e-6)


def test_zooms_meet_at_the_slides_size():
    labels_HW = scene((150, 211), 12)
    views = ("identity", "hflip@2", "rot90@2", "vflip@0.5")
    stages = stages_of_models([BlobDetector()], dataclasses.replace(MANIFEST, views=views))
    assert len(stages) == 3
    slide = slide_of(np.where(labels_HW > 0, 255 // LEVELS, 0))
    for chosen in ([stages[0]], [stages[1]], stages):
        assert_are(raw_detections(chosen, slide, 1.0), labels_HW, 0.85)


def test_an_empty_image_has_no_objects():
    stages = stages_of_models([ExactDetector(), ExactDetector(0.5)], MANIFEST)
    assert len(raw_detections(stages, slide_of(np.zeros((100, 90), np.uint8)), 1.0)) == 0


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_time_that_runs_out_leaves_the_tiles_that_were_done(batches):
    labels_HW = scene((150, 211))
    stages = stages_of_models([ExactDetector()], MANIFEST)
    left = [batches]

    def run(*arguments):
        if left[0] == 0:
            raise OutOfTimeError
        left[0] -= 1
        return run_batch(*arguments)

    if batches == 0:
        with pytest.raises(OutOfTimeError):
            predict_objects(stages, slide_of(labels_HW), 1.0, run)
        return
    found = predict_objects(stages, slide_of(labels_HW), 1.0, run)
    assert found.rows_done < 150
    whole = predict_objects(stages, slide_of(labels_HW), 1.0, partial(run_batch))
    assert 0 < len(found.raw) < len(whole.raw)
    assert whole.rows_done == 150
