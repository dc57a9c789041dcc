"""What a fold of objects is trained with: channels, refusals, sources, two stages, grown labels, empty images."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from histofold.core.faults import InputError
from histofold.core.objects.morphology import grow_objects
from histofold.data.store import load_dataset, tile_differences
from histofold.data.tiles.files import read_tile
from histofold.data.tiles.labels import separate_objects
from histofold.report.pictures.views import draw_view_sheet
from histofold.schema.dataset import DataConfig
from histofold.schema.experiment import Experiment
from histofold.schema.parse import load_toml, to_toml
from histofold.train.checkpoint import training_settings
from histofold.train.dataset import training_tiles
from histofold.train.fold import check_classes, prepare_fold
from histofold.train.loop import train_fold
from histofold.train.objects.validation import validate_objects
from histofold.train.run import start_run
from histofold.train.sampler import training_order
from small_cells import DENSE, DETECTOR, EXPERIMENT, Cells, built_cells, cells_experiment, cells_setup, use_cells
from small_datasets import BASE, build, draw, make_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def known_cells():
    with pytest.MonkeyPatch.context() as patch:
        use_cells(patch)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return built_cells(tmp_path_factory.mktemp("cells"))


@pytest.mark.parametrize("written", [1, 3])
def test_a_dense_network_has_three_channels_whether_they_are_written_or_not(dataset, tmp_path, written):
    setup = cells_setup(dataset, tmp_path, replace(DENSE, classes=written))
    check_classes(setup)
    assert setup.manifest.classes == ("cell", "boundary", "distance")
    assert setup.experiment.model.classes == 3
    (tmp_path / "again.toml").write_text(to_toml(setup.experiment))
    again = prepare_fold(load_toml(Experiment, tmp_path / "again.toml"), "cells", tmp_path, 0, None)
    assert again.digest == setup.digest


def test_prediction_settings_of_objects_decide_no_weights(dataset, tmp_path):
    experiment = cells_experiment(dataset)
    other = replace(experiment, objects=replace(experiment.objects, marker=0.7))
    assert training_settings(other) == training_settings(experiment)
    setup = cells_setup(dataset, tmp_path, objects={"marker": 0.7})
    assert setup.digest == cells_setup(dataset, tmp_path).digest
    assert setup.manifest.objects.marker == 0.7


@pytest.mark.parametrize(
    ("model", "sections", "words"),
    [
        (DETECTOR, {"loss": {"pixel_size": 0.1, "organ_weights": {"kidney": 2.0}}}, "loss.pixel_size.*no heads"),
        (DENSE, {"loss": {"detector": {"mask": 2.0}}}, "loss.detector.*no detector"),
        (
            replace(DENSE, activation="softmax"),
            {"loss": {"bce": 0.0, "ce": 1.0}},
            "model.activation.*do not exclude each other",
        ),
        (replace(DENSE, classes=2), {}, "model.classes"),
        (DENSE, {"train": {"sources": {"c": 0.5}}}, "train.sources.c.*sources of the tiles: a, b"),
    ],
)
def test_what_does_not_go_with_objects_is_refused_in_words(dataset, tmp_path, model, sections, words):
    with pytest.raises(InputError, match=f"(?s){words}"):
        cells_setup(dataset, tmp_path, model, **sections)


def test_a_detector_is_refused_on_masks_and_alone_takes_single_images(tmp_path):
    masks = build(make_folder(tmp_path / "raw", {f"p{n}": draw(n) for n in range(4)}), tmp_path / "masks")
    experiment = replace(BASE, data=DataConfig(dataset=str(masks)), model=DETECTOR)
    with pytest.raises(InputError, match=r"maskrcnn finds single objects.*hold masks"):
        prepare_fold(experiment, "e", tmp_path, 0, None)
    assert replace(experiment, train=replace(BASE.train, batch=1)).train.batch == 1
    with pytest.raises(ValueError, match=r"train.batch=1 must be at least 2"):
        replace(BASE, train=replace(BASE.train, batch=1))


@pytest.mark.parametrize("model", [DENSE, DETECTOR], ids=["dense", "detector"])
def test_views_show_each_object_by_itself(dataset, tmp_path, model):
    setup = cells_setup(dataset, tmp_path, model)
    tiles = training_tiles(setup, keep=False)
    sheet_HWC = draw_view_sheet(tiles, [0, 1], setup.manifest.preprocessing, draws=1, cell=64)
    assert sheet_HWC.shape[1] > 2 * 64
    example = tiles[0, 0, 0]
    assert ("labels" in example) == (model is DETECTOR)


def test_two_stages_draw_from_a_source_each_and_the_second_starts_from_the_first(dataset, tmp_path):
    first = cells_setup(dataset, tmp_path, name="first", train={"sources": {"b": 1.0}, "steps": 2})
    train_fold(first, resume=False)
    wanted = {"train": {"sources": {"a": 1.0}}, "name": "second"}
    second = cells_setup(dataset, tmp_path, replace(DENSE, init=str(tmp_path / "first")), **wanted)
    run = start_run(second, resume=False)
    kept = load_file(first.folder / "model.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in run.network.model.state_dict().items())
    for setup, source in ((first, "b"), (second, "a")):
        drawn = {tile for tile, _, _ in islice(iter(training_order(setup, 0)), 20)}
        assert set(setup.index["source"].iloc[sorted(drawn)]) == {source}
    leaky = cells_experiment(dataset, replace(DENSE, init=f"file:{first.folder / 'model.safetensors'}"))
    with pytest.raises(InputError, match=r"fold 1 is scored on.*it leaks"):
        prepare_fold(leaky, "second", tmp_path, 1, None)


def test_labels_of_a_source_grow_while_tiles_are_cut(dataset, tmp_path):
    experiment = replace(EXPERIMENT, data=DataConfig(grow_sources={"b": 2.0}))
    grown = built_cells(tmp_path, experiment)
    info, index, _ = load_dataset(grown)
    assert info.grow_sources == {"b": 2.0}
    competition = Cells()
    samples = {sample.id: sample for sample in competition.samples(tmp_path / "raw", "train")}
    for row in index.to_dict("records"):
        objects = competition.objects(samples[row["id"]])
        wanted = objects if row["source"] == "a" else grow_objects(objects, 2.0)
        union_HW = np.any([each.to_mask() for each in wanted], axis=0)
        np.testing.assert_array_equal(read_tile(grown, row["tile_id"])[1] > 0, union_HW)
    (fault,) = tile_differences(cells_experiment(grown), grown)
    assert "data.grow_sources" in str(fault)
    assert tile_differences(replace(experiment, data=replace(experiment.data, dataset=str(grown))), grown) == []
    with pytest.raises(InputError, match=r"data.grow_sources.c.*sources of the images: a, b"):
        built_cells(tmp_path / "other", replace(EXPERIMENT, data=DataConfig(grow_sources={"c": 2.0})))


def test_a_validation_without_any_object_counts_as_0(tmp_path, caplog):
    dataset = built_cells(tmp_path, empty=("a-0", "b-1"))
    setup = cells_setup(dataset, tmp_path)
    model = start_run(setup, resume=False).network.model
    of_all = {sample.id: sample for sample in (*setup.training, *setup.validation)}
    score, by_id = validate_objects(model, setup, [of_all["a-0"], of_all["a-1"]])
    assert set(by_id) == {"a-0", "a-1"}
    assert 0 <= score <= 1
    assert validate_objects(model, setup, [of_all["a-0"]]) == (0.0, {"a-0": by_id["a-0"]})
    assert "AP50 counts as 0" in caplog.text


def test_an_overfitting_check_finds_the_objects_of_its_slide(dataset, tmp_path):
    """A dense network of a few weights learns one image by heart, and its watershed tells touching cells apart."""
    setup = cells_setup(
        dataset,
        tmp_path,
        limit=1,
        train={"steps": 60, "validate_every": 60},
        optim={"lr": 1e-2, "schedule": "constant"},
    )
    assert [sample.id for sample in setup.validation] == [sample.id for sample in setup.training]
    tile_HW = read_tile(dataset, setup.index["tile_id"].iloc[0])[1]
    assert (separate_objects(tile_HW) != (tile_HW > 0)).any()
    assert train_fold(setup, resume=False) > 0.6
