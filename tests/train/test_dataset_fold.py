"""What a fold gives to the loader: its organs and their weights, glass that is ignored, CutMix among its own tiles."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from histofold.competitions.registry import get_competition
from histofold.core.faults import InputError
from histofold.data.build import build_dataset
from histofold.data.changes import changed_inputs
from histofold.data.tiles.masks import IGNORED_BIT
from histofold.schema.dataset import DataConfig
from histofold.schema.experiment import AugmentConfig, Experiment, LossConfig, TrainConfig
from histofold.schema.parse import load_toml
from histofold.train.dataset import training_tiles
from histofold.train.fold import prepare_fold
from histofold.train.sampler import training_order
from small_datasets import BASE, draw, make_folder

OFF = AugmentConfig(flip=0, rotate90=0, affine=0, sharpness=0, colour=0, hed=0)
ORGANS = {f"s{number}": ("lung", "kidney")[number % 2] for number in range(9)} | {"s9": ""}
HELD_OUT_OF_0 = ("s0", "s1", "s4", "s5", "s8")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Ten slides of two organs, one of none, in two folds; the top third of each is glass under a label."""
    folder = tmp_path_factory.mktemp("organs")
    pictures = {}
    for number, name in enumerate(ORGANS):
        image, mask = draw(number)
        image[:18], mask[:18] = 240, True
        pictures[name] = image, mask
    root = make_folder(folder / "raw", pictures)
    table = pd.read_csv(root / "images.csv")
    table.assign(organ=table["id"].map(ORGANS)).to_csv(root / "images.csv", index=False)
    experiment = replace(BASE, data=DataConfig(dataset=str(folder / "dataset")), augment=OFF)
    folds = pd.DataFrame({"id": list(ORGANS), "fold": [int(name not in HELD_OUT_OF_0) for name in ORGANS]})
    folds.assign(group=folds["id"], stratum="").to_csv(folder / "folds.csv", index=False)
    build_dataset(root, get_competition("folder"), experiment, folder / "dataset", folder / "folds.csv", 1)
    return experiment


def setup_of(experiment, tmp_path, fold=0, limit=None, **sections):
    return prepare_fold(replace(experiment, **sections), "e", tmp_path / "runs", fold, limit)


def test_every_example_tells_its_organ(made, tmp_path):
    setup = setup_of(made, tmp_path)
    assert setup.organs == ("kidney", "lung")
    tiles = training_tiles(setup, keep=False)
    for place, slide in enumerate(setup.index["id"]):
        found = int(tiles[place, 0, 0]["organ"])
        assert (*setup.organs, "")[found] == ORGANS[slide]


def test_organs_weigh_in_the_loss_by_their_place(made, tmp_path):
    setup = setup_of(made, tmp_path, loss=LossConfig(organ_weights={"lung": 0.25}))
    weights = setup.example_weights()
    assert weights[torch.tensor([0, 1, -1])].tolist() == [1.0, 0.25, 1.0]
    assert weights.dtype == torch.float32
    assert setup_of(made, tmp_path).example_weights().tolist() == [1.0, 1.0, 1.0]


def test_weights_and_shares_of_unknown_organs_are_refused_with_the_known_ones(made, tmp_path):
    with pytest.raises(InputError, match=r"loss\.organ_weights\.lungs") as caught:
        setup_of(made, tmp_path, loss=LossConfig(organ_weights={"lungs": 0.5, "kidney": 2.0}))
    assert [fault.remedy for fault in caught.value.faults] == ["organs of the tiles: kidney, lung"]
    with pytest.raises(InputError, match=r"train\.organs\.Lung"):
        setup_of(made, tmp_path, train=TrainConfig(organs={"Lung": 0.5}))


def test_shares_of_organs_are_those_of_the_draws(made, tmp_path):
    setup = setup_of(made, tmp_path, train=TrainConfig(organs={"kidney": 0.75}))
    order = training_order(setup, 0)
    for epoch in range(8):
        drawn = setup.index["organ"].iloc[order.epoch_order(epoch)]
        assert abs((drawn == "kidney").sum() - 0.75 * len(setup.index)) < 1


def test_an_overfitting_check_takes_the_organs_that_it_has(made, tmp_path):
    sections = {
        "train": TrainConfig(organs={"kidney": 0.5, "lung": 0.5}),
        "loss": LossConfig(organ_weights={"lung": 2}),
    }
    setup = setup_of(made, tmp_path, limit=1, **sections)
    (organ,) = setup.organs
    assert len(setup.example_weights()) == 2
    assert set(training_order(setup, 0).epoch_order(0)) == set(range(len(setup.index)))
    assert organ in ("kidney", "lung")


def test_glass_is_ignored_where_that_is_asked_for(made, tmp_path):
    plain = training_tiles(setup_of(made, tmp_path), keep=False)
    tiles = training_tiles(setup_of(made, tmp_path, loss=LossConfig(ignore="blank")), keep=False)
    for place in range(len(tiles)):
        mask, every = tiles[place, 0, 0]["mask"].numpy(), plain[place, 0, 0]["mask"].numpy()
        np.testing.assert_array_equal(mask % IGNORED_BIT, every)
        is_ignored = mask >= IGNORED_BIT
        assert is_ignored[10:20].all()  # six rows of reflection, then eighteen of glass
        assert not is_ignored[28:55].any()
        assert every[10:20].all()


def test_cutmix_takes_pieces_of_the_training_fold_alone(made, tmp_path, caplog):
    for fold in (0, 1):
        setup = setup_of(made, tmp_path, fold, augment=replace(OFF, cutmix=1.0))
        tiles, bare = training_tiles(setup, keep=False), training_tiles(setup_of(made, tmp_path, fold), keep=False)
        pictures = [bare.read(place)[0] for place in range(len(bare))]
        held_out = {sample.id for sample in setup.validation}
        cut = 0
        for place, slide in enumerate(setup.index["id"]):
            image = tiles[place, 0, place]["image"].numpy()
            is_other = (image != pictures[place]).any(axis=2)
            if not is_other.any():
                continue
            cut += 1
            sources = [n for n, other in enumerate(pictures) if (image == other).all(axis=2)[is_other].all()]
            names = {setup.index["id"].iloc[n] for n in sources}
            assert names
            assert not names & (held_out | {slide})
            assert {ORGANS[name] for name in names} == {ORGANS[slide]}
        assert cut >= 2
    assert "no CutMix for 1 tiles, whose organ has no other slide" in caplog.text


def test_a_crop_that_no_tile_holds_is_refused(made, tmp_path):
    assert setup_of(made, tmp_path, augment=replace(OFF, crop=64)).index["size"].eq(64).all()
    with pytest.raises(InputError, match=r"augment.crop: .*index.csv: crop=96 is larger than the tiles, of 64 pixels"):
        setup_of(made, tmp_path, augment=replace(OFF, crop=96))


def test_the_content_of_an_own_pipeline_makes_another_run(made, tmp_path):
    path = tmp_path / "own.yaml"
    text = "transform: {__class_fullname__: Compose, transforms: [{__class_fullname__: InvertImg, p: 1.0}]}"
    path.write_text(text)
    own = replace(OFF, pipeline=str(path))
    first, without = setup_of(made, tmp_path, augment=own), setup_of(made, tmp_path)
    assert first.digest != without.digest
    shown = [training_tiles(setup, keep=False)[0, 0, 0]["image"] for setup in (first, without)]
    assert torch.equal(shown[0], 255 - shown[1])
    path.rename(tmp_path / "moved.yaml")
    moved = setup_of(made, tmp_path, augment=replace(OFF, pipeline=str(tmp_path / "moved.yaml")))
    assert moved.digest == first.digest
    path.write_text(text.replace("1.0", "0.5"))
    changed = setup_of(made, tmp_path, augment=own)
    assert changed.digest != first.digest
    assert changed_inputs(first.inputs, changed.inputs) == ["other steps: of augment.pipeline"]


def test_images_that_are_seen_whole_are_drawn_equally_and_hardly_seen_from_afar(made, tmp_path):
    """One bin of a single tile among full ones would else be drawn three times as often."""
    strong = AugmentConfig(preset="strong")
    setup = setup_of(made, tmp_path, augment=strong, train=TrainConfig(balanced=True))
    assert made.preprocessing.scale_mode == "whole"
    assert setup.experiment.augment.resolved().pixel_size_ratio == 1.4
    assert setup.experiment.as_trained() == setup.experiment
    bins = ["none", *["large"] * (len(setup.index) - 1)]
    order = training_order(replace(setup, index=setup.index.assign(bin=bins)), 0)
    for epoch in range(3):
        assert sorted(order.epoch_order(epoch)) == list(range(len(bins)))
    with pytest.raises(ValueError, match="where images are seen whole"):
        replace(made, augment=AugmentConfig(pixel_size_ratio=1.5))


def test_the_recipe_of_2022_trains_for_slides_of_other_laboratories():
    experiment = load_toml(Experiment, Path(__file__).parents[2] / "experiments" / "hubmap_strong.toml").as_trained()
    augment = experiment.augment.resolved()
    shifts = ("detail", "pixel_size", "thickness", "stain_transfer", "grey", "cutmix")
    assert all(getattr(augment, name) >= 0.2 for name in shifts)
    assert (augment.detail_ratio, augment.pixel_size_ratio) == (7.0, 1.4)
    assert not experiment.train.balanced
    tiles = Experiment(augment=AugmentConfig(preset="strong"))
    assert tiles.as_trained() == tiles
    assert tiles.augment.resolved().pixel_size_ratio == 2.0
