"""Prompts in the frame of the whole image land where they are meant, whatever the tiles and the scale."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from histofold.core.objects.instances import Objects
from histofold.core.objects.overlaps import pairwise_iou
from histofold.core.tiles import TileGrid
from histofold.imaging.slide import Slide
from histofold.library import ArrayReader
from histofold.models.sam.network import Sam
from histofold.predict.image import predict_probabilities
from histofold.predict.objects.image import predict_detections
from histofold.predict.prompts import PromptedSlides, segment_prompts, tile_prompts, truth_prompts
from histofold.schema.manifest import Manifest
from histofold.schema.objects import ObjectConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sam import SamConfig
from small_sam import GRID, RuledNet, dot_answer, label_answer
from small_stages import stages_of_models

MANIFEST = Manifest(
    competition="folder",
    preprocessing=Preprocessing(normalise="none", target_pixel_size_um=1.0),
    tile=64,
    halo=16,
    views=("identity",),
    classes=("thing",),
    batch=2,
)
SHAPE = (150, 110)
POINTS = np.array([[12.0, 20.0], [75.0, 55.0], [140.0, 100.0], [33.0, 90.0], [80.0, 12.0], [112.5, 61.5]])
"""Beside borders, in corners and in the middle, none near another."""


def prompted(answer, tile=64, halo=16, size_um=1.0, side=192):
    """Stages of a network that answers by a rule; `size_um` is the pixel size that it sees, `side` of its square."""
    seen = dataclasses.replace(MANIFEST.preprocessing, target_pixel_size_um=size_um)
    manifest = dataclasses.replace(MANIFEST, preprocessing=seen, tile=tile, halo=halo)
    sam = Sam(RuledNet(answer, side), SamConfig(**GRID), finds_objects=False)
    return stages_of_models([sam.eval()], manifest)


def blank_slide(shape_hw=SHAPE):
    return Slide(Path("array"), ArrayReader(np.zeros((*shape_hw, 3), np.uint8)))


def middles(found):
    """The middle of each object, sorted."""
    means = [np.argwhere(runs.to_mask()).mean(axis=0) + 0.5 for runs in found.objects]
    return np.array(sorted(means, key=lambda point: (round(point[0]), point[1])))


def sorted_points(points):
    return np.array(sorted(points.tolist(), key=lambda point: (round(point[0]), point[1])))


@pytest.mark.parametrize(("tile", "halo"), [(64, 16), (64, 24), (96, 16), (192, 0)])
@pytest.mark.parametrize("size_um", [1.0, 0.8])
def test_a_point_is_answered_where_it_lies(tile, halo, size_um):
    found = segment_prompts(prompted(dot_answer, tile, halo, size_um), blank_slide(), 1.0, POINTS)
    assert len(found) == len(POINTS)
    assert np.abs(middles(found) - sorted_points(POINTS)).max() < 2
    assert found.scores == pytest.approx(0.8)


@pytest.mark.parametrize(("tile", "halo"), [(64, 16), (96, 16), (192, 0)])
def test_a_box_is_answered_where_it_lies_whole_though_tiles_cut_it(tile, halo):
    boxes = np.array([[4.0, 8.0, 28.0, 40.0], [40.0, 20.0, 116.0, 84.0], [120.0, 60.0, 150.0, 110.0]])
    found = segment_prompts(prompted(dot_answer, tile, halo), blank_slide(), 1.0, boxes)
    assert len(found) == len(boxes)
    wanted = np.zeros((3, *SHAPE), bool)
    for mask_HW, (y0, x0, y1, x1) in zip(wanted, boxes.astype(int), strict=True):
        mask_HW[y0:y1, x0:x1] = True
    overlaps = pairwise_iou(Objects.from_masks(wanted), found.objects)
    assert overlaps.max(axis=1).min() > 0.9


def test_every_point_is_asked_once_in_the_tile_that_answers_for_it():
    grid = TileGrid(SHAPE, 64, halo=16, multiple=32)
    asked = []
    for tile in grid:
        own = tile_prompts(POINTS, tile)
        assert ((own >= 0) & (own <= grid.tile_hw)).all()
        asked += (own + [read.start - inner.start for read, inner in zip(tile.read, tile.inner, strict=True)]).tolist()
    assert sorted_points(np.array(asked)) == pytest.approx(sorted_points(POINTS))


def test_a_map_of_prompted_slides_is_that_of_each_slide():
    stages = prompted(dot_answer)
    in_turn = PromptedSlides([POINTS[:2], POINTS[2:]])
    first, second = (predict_probabilities(stages, blank_slide(), 1.0, in_turn.forward)[0] > 0.5 for _ in range(2))
    assert first[12, 20]
    assert not first[140, 100]
    assert second[140, 100]
    assert not second[12, 20]


@pytest.mark.parametrize("kind", ["truth_boxes", "truth_points"])
def test_prompts_of_the_truth_find_the_truth(kind):
    labels_HW = np.zeros(SHAPE, np.uint8)
    labels_HW[3:15, 5:22] = 1
    labels_HW[60:90, 40:44] = 2  # a hook, whose middle is outside
    labels_HW[60:64, 40:90] = 2
    labels_HW[149, 109] = 3
    objects = Objects.from_labels(labels_HW)
    prompts = truth_prompts(objects, kind)
    assert prompts.shape == (3, 4 if kind == "truth_boxes" else 2)
    if kind == "truth_points":
        assert [labels_HW[int(y), int(x)] for y, x in prompts] == [1, 2, 3]
    else:
        assert prompts.tolist() == objects.boxes.tolist()
    assert truth_prompts(Objects.from_labels(np.zeros((5, 9), int)), kind).shape == (0, prompts.shape[1])


def test_a_grid_finds_each_planted_disc_once_though_tiles_cut_it():
    labels_HW = np.zeros((180, 130), np.uint8)
    places = np.mgrid[0:180, 0:130]
    for label, middle in enumerate([(20, 20), (60, 64), (100, 30), (140, 100), (32, 100), (96, 96), (165, 40)], 1):
        labels_HW[((places - np.reshape(middle, (2, 1, 1))) ** 2).sum(axis=0) < 11**2] = label
    image_HWC = np.zeros((*labels_HW.shape, 3), np.uint8)
    image_HWC[:, :, 0] = 5 * labels_HW
    stages = [
        dataclasses.replace(stage, manifest=dataclasses.replace(stage.manifest, objects=ObjectConfig()))
        for stage in prompted(label_answer, side=64)
    ]
    stages[0].networks[0].models[0].finds_objects = True
    found = predict_detections(stages, Slide(Path("array"), ArrayReader(image_HWC)), 1.0)
    truth = Objects.from_labels(labels_HW)
    assert len(found) == len(truth)
    assert pairwise_iou(truth, found.objects).max(axis=1).min() > 0.8


@pytest.mark.parametrize("prompts", [np.zeros(4), np.zeros((2, 3)), np.array([[np.nan, 1.0]])])
def test_prompts_that_are_none_are_refused(prompts):
    with pytest.raises(ValueError, match="give points"):
        segment_prompts(prompted(dot_answer), blank_slide(), 1.0, prompts)
