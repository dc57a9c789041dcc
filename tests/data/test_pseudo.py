"""Predicted labels: one set a fold, made only by networks that have not seen what the fold is scored on."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from histofold.commands.main import main
from histofold.core.faults import InputError
from histofold.core.rle.runs import parse_rle, runs_from_mask
from histofold.data.leaks import PSEUDO, image_stamp
from histofold.data.pseudo import (
    LabelConfig,
    LabelMaker,
    MaskLabel,
    PseudoRecord,
    cut_pseudo_tiles,
    label_faults,
    load_pseudo_record,
    pseudo_folder,
    share_files,
)
from histofold.data.tiles.files import read_tile
from histofold.data.tiles.masks import IGNORED_BIT, SOFT_LEVELS
from histofold.imaging.slide import open_slide
from histofold.models.build import build_model
from histofold.predict.image import predict_masks, predict_probabilities
from histofold.schema.dataset import DataConfig, SourceConfig, TilesConfig
from histofold.schema.manifest import file_sha256
from histofold.schema.parse import to_toml
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample
from histofold.train.dataset import training_tiles
from histofold.train.fold import prepare_fold
from histofold.trust.evaluate import evaluate_run
from histofold.trust.oof import finished_folds
from small_datasets import BASE, build, draw, make_folder, small_record

pytestmark = pytest.mark.slow

UNLABELLED = ("u0", "u1", "u2")


def write_run(run, dataset, trained_by_fold, seed=10):
    """A run of untrained networks, one a fold, whose records say what they were trained on."""
    experiment = replace(BASE, data=DataConfig(dataset=str(dataset)))
    arguments = experiment.model.arguments()
    folds = pd.read_csv(dataset / "folds.csv", dtype={"id": str})
    for fold, trained in trained_by_fold.items():
        folder = run / f"fold{fold}"
        folder.mkdir(parents=True)
        torch.manual_seed(seed + fold)
        save_file(build_model("unet", arguments).state_dict(), folder / "model.safetensors")
        (folder / "experiment.toml").write_text(to_toml(experiment))
        small_record(
            folder,
            fold,
            dice_by_id=dict.fromkeys(folds.loc[folds["fold"] == fold, "id"], 0.5),
            trained_on=trained,
            manifest=experiment.manifest(experiment.preprocessing, "folder", ("ftu",)),
            arguments=arguments,
        )
    (run / "thresholds.json").write_text(json.dumps({"default": 0.5}))
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A labelled dataset, a run of it, and three other images with the labels of both its folds."""
    folder = tmp_path_factory.mktemp("pseudo")
    build(make_folder(folder / "raw", {f"m{seed}": draw(seed) for seed in range(4)}), folder / "main")
    unlabelled = make_folder(folder / "unlabelled", {name: draw(50 + i) for i, name in enumerate(UNLABELLED)})
    for path in (unlabelled / "masks").iterdir():
        path.unlink()
    (unlabelled / "masks").rmdir()
    folds = pd.read_csv(folder / "main" / "folds.csv", dtype={"id": str})
    stamps = {key: image_stamp(folder / "raw" / "images" / f"{key}.png") for key in folds["id"]}
    kept = {fold: {k: stamps[k] for k in folds.loc[folds["fold"] != fold, "id"]} for fold in (0, 1)}
    write_run(folder / "runs" / "E", folder / "main", kept)
    label(folder, "E", "labelled")
    return folder


def label(folder, run, out, *options, second=()):
    runs = [str(folder / "runs" / name) for name in (run, *second)]
    arguments = ["build", "--data", str(folder / "unlabelled"), "--pseudo-labels", *runs, *options]
    assert main([*arguments, "--out", str(folder / out), "--workers", "1"]) == 0


def experiment_of(folder, dataset, **settings):
    sources = (SourceConfig(dataset=str(folder / dataset), **settings),)
    return replace(BASE, data=DataConfig(dataset=str(folder / "main"), sources=sources))


def test_every_tile_holds_what_the_network_of_its_fold_predicts(made):
    index = pd.read_csv(made / "labelled" / "index.csv")
    assert set(index["label_origin"]) == {PSEUDO}
    assert set(index["fold"]) == {-1}, "predicted labels are never scored against"
    journal = [json.loads(line) for line in (made / "labelled" / "pseudo_labels.jsonl").read_text().splitlines()]
    assert sorted((entry["id"], entry["fold"]) for entry in journal) == [(u, k) for u in UNLABELLED for k in (0, 1)]
    differing = 0
    for fold in finished_folds(made / "runs" / "E"):
        rows = index[index["label_fold"] == fold.fold]
        assert set(rows["id"]) == set(UNLABELLED)
        for row in rows.to_dict("records"):
            sample = Sample(id=row["id"], image_path=made / "unlabelled" / "images" / f"{row['id']}.png")
            (runs,) = predict_masks(fold.ensemble(), sample, [0.5], never_empty=False)
            kept = next(e for e in journal if (e["id"], e["fold"]) == (row["id"], fold.fold))
            np.testing.assert_array_equal(parse_rle(kept["rle"], runs.shape_hw).to_mask(), runs.to_mask())
            _, mask_HW = read_tile(pseudo_folder(made / "labelled", fold.fold), row["tile_id"])
            np.testing.assert_array_equal(mask_HW[6:58] > 0, runs.to_mask())
        differing += rows["mask_fraction"].tolist() != index.loc[index["label_fold"] == 0, "mask_fraction"].tolist()
    assert differing == 1, "the two networks must differ, else the test shows nothing"


def test_training_of_a_fold_reads_the_labels_of_that_fold_alone(made):
    record = load_pseudo_record(made / "labelled")
    for fold in (0, 1):
        setup = prepare_fold(experiment_of(made, "labelled"), "run", made / "runs", fold, None)
        rows = setup.index[setup.index["dataset"] == "labelled"]
        assert set(rows["id"]) == {f"labelled/{name}" for name in UNLABELLED}
        assert set(rows["label_fold"].astype(int)) == {fold}
        assert set(rows["folder"]) == {str(made / "labelled" / f"fold{fold}")}
        maker = record.makers[str(fold)]
        assert maker.weights_sha256 == file_sha256(made / "runs" / "E" / f"fold{fold}" / "model.safetensors")
        validation = {image_stamp(sample.image_path) for sample in setup.validation}
        assert not validation & set(maker.trained_on.values())
        assert not validation & set(setup.trained_on.values())
        assert set(maker.trained_on.values()) <= set(setup.trained_on.values()), "what the maker saw, is seen"


def test_soft_labels_of_two_runs_hold_the_mean_probability_and_pass_over_what_is_unsure(made):
    stamps = json.loads((made / "runs" / "E" / "fold0" / "run.json").read_text())["trained_on"]
    others = {0: dict(list(stamps.items())[:1]), 1: load_pseudo_record(made / "labelled").makers["1"].trained_on}
    write_run(made / "runs" / "F", made / "main", others, seed=20)
    probs = {}
    for fold, other in zip(finished_folds(made / "runs" / "E"), finished_folds(made / "runs" / "F"), strict=True):
        for name in UNLABELLED:
            with open_slide(made / "unlabelled" / "images" / f"{name}.png") as slide:
                both = [predict_probabilities(each.ensemble(), slide, None)[0] for each in (fold, other)]
            probs[fold.fold, name] = np.mean(both, axis=0)
    low, high = np.quantile(np.stack(list(probs.values())), [0.4, 0.6])
    label(made, "E", "soft", "--soft-labels", "--unsure", f"{low}", f"{high}", second=["F"])
    record = load_pseudo_record(made / "soft")
    assert record.labels == LabelConfig(soft=True, unsure=(low, high))
    assert len(record.makers["0"].weights_sha256.split()) == 2
    assert record.makers["0"].trained_on == stamps, "what either saw"
    index = pd.read_csv(made / "soft" / "index.csv")
    for row in index.to_dict("records"):
        folder = pseudo_folder(made / "soft", row["label_fold"])
        probs_HW = probs[row["label_fold"], row["id"]]
        unsure_HW = read_tile(folder, row["tile_id"])[1][6:58] == IGNORED_BIT
        assert (unsure_HW != ((probs_HW >= low) & (probs_HW < high))).mean() < 1e-3
        assert 0.05 < unsure_HW.mean() < 0.6
        cuts = [read_tile(folder, row["tile_id"], level=level)[1][6:58] == 1 for level in range(1, 256)]
        assert abs(np.mean(cuts, axis=0) - probs_HW)[~unsure_HW].max() <= 1 / 30 + 1e-3, "as often mask as probable"
    tiles = training_tiles(prepare_fold(experiment_of(made, "soft"), "run", made / "runs", 0, None), keep=False)
    place = next(
        place for place in range(len(tiles)) if tiles.read(place, 1)[1].sum() != tiles.read(place, 255)[1].sum()
    )
    first, again, other = (tiles[place, epoch, 0]["mask"] for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("soft", [False, True])
def test_of_an_image_that_is_half_sure_the_unsure_tiles_are_left_out(tmp_path, caplog, soft):
    """Its left half is certain, mask or none; its right half stands at 7/15, on which no tile may be learnt."""
    image_HWC, mask_HW = draw(3, (64, 128))
    cv2.imwrite(str(tmp_path / "u.png"), image_HWC)
    sample = Sample(id="u", image_path=tmp_path / "u.png", pixel_size_um=0.5)
    probs_HW = np.where(np.arange(128) < 64, mask_HW.astype(float), 7 / 15)
    levels = tuple(runs_from_mask(probs_HW >= (step + 0.5) / SOFT_LEVELS) for step in range(SOFT_LEVELS))
    label = MaskLabel(runs_from_mask(probs_HW > 0.4), levels, None)
    tiles = TilesConfig(size=32, stride=32, min_tissue=0.0)
    experiment = replace(BASE, preprocessing=Preprocessing(target_pixel_size_um=0.5), tiles=tiles)

    def cut(bound, name):
        wanted = LabelConfig(soft=soft, min_certainty=bound)
        out = tmp_path / name
        return out, cut_pseudo_tiles([sample], {0: {"u": label}, 1: {"u": label}}, experiment, out, 1, wanted)

    caplog.set_level("INFO")
    out, some = cut(0.5, "some")
    assert sorted(some.index["x"]) == [0, 0, 0, 0, 32, 32, 32, 32], "two rows of both folds"
    assert some.unsure == 8
    assert caplog.messages == [
        f"labels for fold {fold}: 4 tiles left out, of a mean certainty below 0.5; 4 kept" for fold in (0, 1)
    ]
    every, all_of_it = cut(0.0, "every")
    assert len(all_of_it.index) == 16
    assert all_of_it.unsure == 0
    kept = all_of_it.index[all_of_it.index["x"] < 64].reset_index(drop=True)
    pd.testing.assert_frame_equal(some.index, kept)
    for kind in ("images", "masks"):
        sure, whole = (
            {path.name: path.read_bytes() for path in (root / "fold0" / kind).iterdir()} for root in (out, every)
        )
        assert len(sure) == 4
        assert sure.items() <= whole.items()
    assert cut(1 / 15, "just")[1].unsure == 0, "a tile at the bound is kept"
    assert cut(1 / 15 + 1e-6, "over")[1].unsure == 8
    label = replace(label, levels=tuple(runs_from_mask(np.full((64, 128), step < 7)) for step in range(SOFT_LEVELS)))
    with pytest.raises(InputError, match=r"of its 8 tiles none has .* give a lower --min-certainty"):
        cut(0.5, "nothing")


def test_a_bound_on_certainty_leaves_out_what_the_networks_are_unsure_of(made, capsys):
    certainty = {}
    for fold in finished_folds(made / "runs" / "E"):
        for name in UNLABELLED:
            with open_slide(made / "unlabelled" / "images" / f"{name}.png") as slide:
                probs_HW = predict_probabilities(fold.ensemble(), slide, None)[0]
            steps_HW = sum((probs_HW >= (step + 0.5) / SOFT_LEVELS).astype(int) for step in range(SOFT_LEVELS))
            certainty[fold.fold, name] = np.abs(2 * steps_HW / SOFT_LEVELS - 1).mean()
    # Between the two most certain images of the less certain fold, so that each fold keeps some.
    bound = min(float(np.mean(sorted(certainty[k, name] for name in UNLABELLED)[-2:])) for k in (0, 1))
    label(made, "E", "sure", "--min-certainty", f"{bound}")
    wanted = sorted(key for key, value in certainty.items() if value >= bound)
    assert 0 < len(wanted) < 6
    index = pd.read_csv(made / "sure" / "index.csv")
    assert sorted(zip(index["label_fold"], index["id"], strict=True)) == wanted
    assert f"{len(wanted)} tiles of" in (words := capsys.readouterr().out)
    assert f", {6 - len(wanted)} left out as unsure" in words
    assert "mean certainty below" in (made / "sure" / "dataset_report.html").read_text()
    for fold in (0, 1):
        setup = prepare_fold(experiment_of(made, "sure"), "run", made / "runs", fold, None)
        trained = setup.index.loc[setup.index["dataset"] == "sure", "id"]
        assert sorted(trained) == [f"sure/{name}" for number, name in wanted if number == fold]
    plain = pd.read_csv(made / "labelled" / "index.csv").merge(index[["tile_id", "label_fold"]])
    pd.testing.assert_frame_equal(plain, index, check_dtype=False)


def test_what_labels_cannot_be_is_refused(made, capsys):
    arguments = ["build", "--data", str(made / "unlabelled"), "--out", str(made / "never"), "--unsure", "0.6", "0.4"]
    assert main(arguments) == 2
    assert "add --pseudo-labels" in capsys.readouterr().err
    assert main([*arguments, "--pseudo-labels", str(made / "runs" / "E")]) == 2
    assert "the lower one first" in capsys.readouterr().err
    assert main([*arguments[:-3], "--pseudo-labels", str(made / "runs" / "E"), "--min-certainty", "1.5"]) == 2
    assert "min_certainty=1.5 must lie within 0 and 1" in capsys.readouterr().err
    kept = json.loads((made / "runs" / "E" / "fold0" / "run.json").read_text())["trained_on"]
    write_run(made / "runs" / "half", made / "main", {0: kept})
    both = [str(made / "runs" / name) for name in ("E", "half")]
    assert main([*arguments[:-3], "--pseudo-labels", *both]) == 2
    assert "it has other folds than E; train the same folds of both" in capsys.readouterr().err


@pytest.mark.slow
def test_labels_of_a_network_that_has_seen_the_validation_images_are_refused(made):
    stamps = {f"m{n}": image_stamp(made / "raw" / "images" / f"m{n}.png") for n in range(4)}
    write_run(made / "runs" / "leaky", made / "main", {0: stamps, 1: stamps})
    label(made, "leaky", "leaky")
    for fold in (0, 1):
        with pytest.raises(InputError, match=rf"trained on 2 images that fold {fold} is scored on.*it leaks"):
            prepare_fold(experiment_of(made, "leaky"), "run", made / "runs", fold, None)
    held = {key: stamp for key, stamp in stamps.items() if key != "m0"}
    write_run(made / "runs" / "part", made / "main", {0: held})
    label(made, "part", "part")
    faults = [f for k in (0, 1) for f in _refusals(experiment_of(made, "part"), made, k)]
    assert any("no labels for fold 1: the run that predicted them has folds 0" in fault.rule for fault in faults)


def _refusals(experiment, made, fold):
    with pytest.raises(InputError) as caught:
        prepare_fold(experiment, "run", made / "runs", fold, None)
    return caught.value.faults


def test_predicted_labels_are_only_trained_on(made):
    with pytest.raises(InputError, match="predicted labels cannot be scored against"):
        prepare_fold(experiment_of(made, "labelled", role="folds"), "run", made / "runs", 0, None)


def test_an_unlabelled_image_that_the_main_dataset_has_is_refused(made, tmp_path):
    folder = make_folder(tmp_path / "unlabelled", {"again": draw(0), "new": draw(77)})
    arguments = ["build", "--data", str(folder), "--pseudo-labels", str(made / "runs" / "E"), "--workers", "1"]
    assert main([*arguments, "--out", str(tmp_path / "labelled")]) == 0
    experiment = experiment_of(tmp_path, "labelled")
    experiment = replace(experiment, data=replace(experiment.data, dataset=str(made / "main")))
    with pytest.raises(InputError, match=r"labelled/again.*has the file of m0"):
        prepare_fold(experiment, "run", tmp_path, 0, None)


def test_labelling_again_changes_nothing_and_predicts_nothing(made, monkeypatch):
    files = ("index.csv", "folds.csv", "pseudo.json", "dataset.json", "pseudo_labels.jsonl")
    before = {name: (made / "labelled" / name).read_bytes() for name in files}
    monkeypatch.setattr("histofold.trust.pseudo_labels.predict_image", None)  # would fail if it were called
    label(made, "E", "labelled")
    assert {name: (made / "labelled" / name).read_bytes() for name in files} == before


def test_what_cannot_be_labelled_is_refused_in_words(made, tmp_path, capsys):
    arguments = ["build", "--data", str(made / "unlabelled"), "--pseudo-labels", str(made / "runs" / "E")]
    assert main([*arguments, "--out", str(made / "main")]) == 2
    assert "people's labels" in capsys.readouterr().err
    assert main([*arguments, "--out", str(tmp_path / "a"), "--num-folds", "3"]) == 2
    assert "from its run" in capsys.readouterr().err
    run = tmp_path / "runs" / "old"
    write_run(run, made / "main", {0: {}})
    arguments[-1] = str(run)
    (run / "thresholds.json").unlink()
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 2
    assert "histofold evaluate" in capsys.readouterr().err
    record = json.loads((run / "fold0" / "run.json").read_text())
    del record["trained_on"]
    (run / "fold0" / "run.json").write_text(json.dumps(record))
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 2
    assert "no record of a finished fold (trained_on: missing key)" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_equal_files_are_stored_once_and_different_ones_never(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same").write_bytes(b"x" * 100)
        (tmp_path / name / "other").write_bytes(name.encode())
    (tmp_path / "second" / "alone").write_bytes(b"x")
    assert share_files(tmp_path / "first", tmp_path / "second") == 1
    assert (tmp_path / "first" / "same").samefile(tmp_path / "second" / "same")
    assert (tmp_path / "second" / "other").read_bytes() == b"second"
    assert share_files(tmp_path / "first", tmp_path / "second") == 0
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == ["alone", "other", "same"]


def test_the_image_tiles_of_both_folds_are_one_file(made):
    for path in (made / "labelled" / "fold0" / "images").iterdir():
        assert path.samefile(made / "labelled" / "fold1" / "images" / path.name)


def test_labels_are_held_against_ids_within_a_competition(tmp_path):
    maker = LabelMaker(weights_sha256="", competition="hubmap_2022", trained_on={"a": "stamp"})
    record = PseudoRecord(run="runs/E", thresholds={"default": 0.5}, makers={"0": maker})
    seen, unseen = (Sample(id=key, image_path=tmp_path / key) for key in ("a", "b"))
    assert label_faults(record, tmp_path, 0, [unseen], "hubmap_2022") == []
    (fault,) = label_faults(record, tmp_path, 0, [seen, unseen], "hubmap_2022")
    assert "(a): it leaks" in fault.rule
    assert label_faults(record, tmp_path, 0, [seen], "folder") == []


def test_predicted_labels_without_their_record_are_refused(made, tmp_path):
    shutil.copytree(made / "labelled", tmp_path / "labelled")
    (tmp_path / "labelled" / "pseudo.json").unlink()
    experiment = experiment_of(tmp_path, "labelled")
    experiment = replace(experiment, data=replace(experiment.data, dataset=str(made / "main")))
    with pytest.raises(InputError, match=r"predicted labels without pseudo\.json"):
        prepare_fold(experiment, "run", tmp_path, 0, None)


def test_a_scored_image_that_has_left_its_folder_is_named_before_anything_is_predicted(tmp_path):
    root = make_folder(tmp_path / "raw", {f"m{seed}": draw(seed) for seed in range(4)})
    build(root, tmp_path / "main")
    run = write_run(tmp_path / "runs" / "E", tmp_path / "main", {0: {}, 1: {}})
    for path in (root / "images" / "m2.png", root / "masks" / "m2.png", root / "images.csv"):
        path.unlink()
    with pytest.raises(InputError, match=r"m2.*id is not in the competition"):
        evaluate_run(run)
