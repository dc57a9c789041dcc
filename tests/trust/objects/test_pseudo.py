"""Predicted objects as labels: those that the evaluation shows, by the network of the fold that trains on them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from histofold.competitions.folder import Folder
from histofold.core.faults import InputError
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import parse_rle
from histofold.data.pseudo import load_pseudo_record, pseudo_folder
from histofold.data.store import load_dataset
from histofold.data.tiles.files import read_tile
from histofold.data.tiles.labels import target_labels
from histofold.schema.dataset import DataConfig, SourceConfig
from histofold.train.fold import prepare_fold
from histofold.train.loop import train_fold
from histofold.trust.evaluate import evaluate_run
from histofold.trust.pseudo_labels import build_pseudo_dataset
from small_cells import SIDE, Cells, built_cells, cells_experiment, cells_folder, use_cells
from small_datasets import build, draw, make_folder

pytestmark = pytest.mark.slow
UNLABELLED = ("u-0", "u-1")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two folds that have learned something, evaluated, and what it says of two other images."""
    folder = tmp_path_factory.mktemp("pseudo")
    with pytest.MonkeyPatch.context() as patch:
        use_cells(patch)
        dataset = built_cells(folder)
        wanted = {"train": {"steps": 40, "validate_every": 40}, "optim": {"lr": 1e-2, "schedule": "constant"}}
        experiment = cells_experiment(dataset, **wanted)
        for fold in (0, 1):
            train_fold(prepare_fold(experiment, "E", folder / "runs", fold, None), resume=False)
        evaluate_run(folder / "runs" / "E")
        unlabelled = cells_folder(folder / "unlabelled", names=UNLABELLED, seed=50)
        shutil.rmtree(unlabelled / "labels")
        build_pseudo_dataset(unlabelled, Cells(), [folder / "runs" / "E"], folder / "labelled", 1)
        yield folder, experiment


def test_tiles_hold_the_objects_that_show(made):
    folder, _ = made
    info, index, _ = load_dataset(folder / "labelled")
    assert (info.task, info.classes) == ("instances", ("cell",))
    record = load_pseudo_record(folder / "labelled")
    summary = json.loads((folder / "runs" / "E" / "summary.json").read_text())
    assert record.thresholds == {"default": summary["shown_score"]}
    lines = [json.loads(line) for line in (folder / "labelled" / "pseudo_labels.jsonl").read_text().splitlines()]
    found = {(line["fold"], line["id"]): [parse_rle(text, (SIDE, SIDE)) for text in line["rle"]] for line in lines}
    assert set(found) == {(fold, name) for fold in (0, 1) for name in UNLABELLED}
    assert sum(map(len, found.values())) > 4
    for row in index.to_dict("records"):
        objects = Objects.from_runs(found[int(row["label_fold"]), row["id"]], (SIDE, SIDE))
        stored_HW = read_tile(pseudo_folder(folder / "labelled", int(row["label_fold"])), row["tile_id"])[1]
        whole = slice(0, SIDE)
        np.testing.assert_array_equal(stored_HW, target_labels(objects, (SIDE, SIDE), whole, whole))


def test_they_are_trained_on_beside_those_of_people_and_not_mixed_with_masks(made, tmp_path):
    folder, experiment = made
    labelled = SourceConfig(dataset=str(folder / "labelled"))
    joined = replace(experiment, data=replace(experiment.data, sources=(labelled,)))
    setup = prepare_fold(joined, "joined", tmp_path, 0, None)
    assert {"u-0", "u-1"} == {name.rpartition("/")[2] for name in setup.index["id"] if "/" in name}
    assert setup.metric == "AP50"
    masks = build(
        make_folder(tmp_path / "raw", {f"p{n}": draw(n) for n in range(4)}),
        tmp_path / "masks",
        replace(experiment, model=replace(experiment.model, classes=1), data=DataConfig()),
    )
    mixed = replace(experiment, data=replace(experiment.data, sources=(SourceConfig(dataset=str(masks)),)))
    with pytest.raises(InputError, match=r"one of masks and that of the main dataset one of instances"):
        prepare_fold(mixed, "mixed", tmp_path, 0, None)
    scored = replace(labelled, role="folds")
    with pytest.raises(InputError, match=r"objects are scored over all images of a competition at once"):
        prepare_fold(replace(joined, data=replace(joined.data, sources=(scored,))), "scored", tmp_path, 0, None)


def test_a_run_of_masks_labels_no_objects(made, tmp_path):
    folder, _ = made
    with pytest.raises(InputError, match=r"it predicts objects, and folder is of masks"):
        build_pseudo_dataset(tmp_path, Folder(), [folder / "runs" / "E"], tmp_path / "out", 1)
