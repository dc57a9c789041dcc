"""Colours of a fold: what is fitted on which tiles, and that training and prediction see the same pixels."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from blobs_folder import make_blobs_folder
from histofold.competitions.registry import get_competition
from histofold.core.faults import InputError
from histofold.data.build import build_dataset
from histofold.data.tiles.files import tile_paths
from histofold.imaging.slide import open_slide
from histofold.imaging.stain import mean_reference, network_view, tissue_pixels
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import AugmentConfig, Experiment, TrainConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.train.dataset import training_tiles
from histofold.train.fold import prepare_fold

SIDE = 96


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A dataset of eight small images in two folds, and an experiment that normalises them."""
    folder = tmp_path_factory.mktemp("colours")
    root = folder / "raw"
    make_blobs_folder(root, 8)
    competition = get_competition("folder")
    with open_slide(competition.samples(root, "train")[0].image_path) as slide:
        reference = mean_reference({"blob00": tissue_pixels(slide.read_all())})
    preprocessing = Preprocessing(scale_mode="whole", whole_size=SIDE, stain="reinhard", stain_reference=reference)
    experiment = Experiment(
        data=DataConfig(dataset=str(folder / "dataset")),
        preprocessing=preprocessing,
        tiles=TilesConfig(folds=2),
        augment=AugmentConfig(stain_template=1.0, stain_transfer=0.5),
        train=TrainConfig(batch=2, workers=0),
    )
    build_dataset(root, competition, experiment, folder / "dataset", None, workers=1)
    return experiment


@pytest.mark.slow
def test_training_tiles_are_what_prediction_reads(experiment, tmp_path):
    setup = prepare_fold(experiment, "e", tmp_path / "runs", 0, None)
    tiles = training_tiles(setup)
    samples = {sample.id: sample for sample in setup.training}
    assert set(samples) == set(setup.index["id"])
    for place, (slide_id, size) in enumerate(zip(setup.index["id"], setup.index["size"], strict=True)):
        with open_slide(samples[slide_id].image_path) as slide:
            view = network_view(slide, setup.manifest.preprocessing, samples[slide_id].pixel_size_um)
            image_HWC = view.read(slice(None), slice(None))
        (top, bottom), (left, right) = (((size - n) // 2, size - n - (size - n) // 2) for n in image_HWC.shape[:2])
        padded_HWC = np.pad(image_HWC, ((top, bottom), (left, right), (0, 0)), mode="reflect")
        assert (tiles.read(place)[0] == padded_HWC).all()


def test_templates_come_from_the_training_fold_alone_and_stay_with_the_run(experiment, tmp_path):
    setup = prepare_fold(experiment, "e", tmp_path / "runs", 0, None)
    before = training_tiles(setup)[0, 1, 2]
    kept = (setup.folder / "colours.json").read_text()
    assert json.loads(kept)["digest"] == setup.digest
    index = set(setup.index["tile_id"])
    everything = {path.stem for path in (setup.dataset / "images").iterdir()}
    held_out = everything - index
    assert held_out
    for tile_id in held_out:
        cv2.imwrite(str(tile_paths(setup.dataset, tile_id)[0]), np.zeros((SIDE, SIDE, 3), np.uint8))
    (setup.folder / "colours.json").unlink()
    again = training_tiles(setup)[0, 1, 2]
    assert (setup.folder / "colours.json").read_text() == kept
    assert all(torch.equal(before[name], again[name]) for name in before)


def test_only_one_process_keeps_the_templates(experiment, tmp_path):
    setup = prepare_fold(experiment, "e", tmp_path / "runs", 0, None)
    training_tiles(setup, keep=False)
    assert not (setup.folder / "colours.json").exists()
    augment = replace(experiment.augment, stain_template=0.0)
    training_tiles(replace(setup, experiment=replace(experiment, augment=augment)))
    assert not (setup.folder / "colours.json").exists()


def test_tiles_whose_slide_is_gone_are_not_trained_on_in_other_colours(experiment, tmp_path):
    setup = prepare_fold(experiment, "e", tmp_path / "runs", 0, None)
    less = replace(setup, training=setup.training[1:])
    with pytest.raises(InputError, match=f"{setup.training[0].id}.*cannot be normalised"):
        training_tiles(less, keep=False)
