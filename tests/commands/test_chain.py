"""The chain on a tiny synthetic competition: build, train, evaluate, package, predict."""

import csv
import dataclasses
import json
import shutil

import cv2
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from histofold.commands.main import main
from histofold.core.rle.runs import parse_rle
from histofold.data.tiles.files import tile_paths
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import AugmentConfig, Experiment, ModelConfig, PredictConfig, TrainConfig
from histofold.schema.manifest import load_manifest
from histofold.schema.parse import to_toml
from histofold.schema.preprocessing import Preprocessing
from histofold.synth.hubmap_2022.folder import make_hubmap_2022
from small_datasets import SMALL_UNET

pytestmark = pytest.mark.slow


def tiny_experiment(dataset):
    return Experiment(
        data=DataConfig(dataset=str(dataset)),
        preprocessing=Preprocessing(target_pixel_size_um=4.0),
        tiles=TilesConfig(size=96, stride=64, folds=2),
        augment=AugmentConfig(crop=64),
        model=ModelConfig(**SMALL_UNET),
        train=TrainConfig(steps=6, batch=2, validate_every=3, validate_images=2, save_every=2, workers=0),
        predict=PredictConfig(tile=128, halo=16, views=("identity", "hflip")),
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A synthetic competition, its dataset and an experiment file."""
    folder = tmp_path_factory.mktemp("chain")
    small = {"num_train": 6, "num_test": 2, "max_side": 400}
    make_hubmap_2022(folder / "raw", **small, seed=1, truth_path=folder / "truth.csv")
    experiment = tiny_experiment(folder / "dataset")
    (folder / "tiny.toml").write_text(to_toml(experiment))
    arguments = ["--data", str(folder / "raw"), "--out", str(folder / "dataset")]
    assert main(["build", *arguments, "--experiment", str(folder / "tiny.toml"), "--workers", "1"]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(workplace):
    assert main(["train", str(workplace / "tiny.toml"), "--runs", str(workplace / "runs")]) == 0
    return workplace


def change_weights(run):
    """Make the networks of a copied run others."""
    for weights in run.glob("fold*/model.safetensors"):
        tensors = load_file(weights)
        name = next(name for name in tensors if name.endswith("bias"))
        save_file({**tensors, name: tensors[name] + 0.25}, weights)


def test_dataset_files(workplace):
    dataset = workplace / "dataset"
    index = pd.read_csv(dataset / "index.csv", dtype={"id": str})
    assert list(index.columns[:10]) == [
        *("tile_id", "id", "fold", "y", "x", "size", "scale", "mask_fraction", "tissue_fraction", "bin")
    ]
    assert (dataset / "dataset_report.html").stat().st_size > 10_000
    folds = pd.read_csv(dataset / "folds.csv", dtype=str)
    assert (folds.groupby("group")["fold"].nunique() == 1).all()
    fold_of = folds.set_index("id")["fold"].astype(int)
    assert (index["id"].map(fold_of) == index["fold"]).all()
    for tile_id in index["tile_id"]:
        assert all(path.is_file() for path in tile_paths(dataset, tile_id))
    assert ((index["mask_fraction"] == 0) == (index["bin"] == "none")).all()


def test_building_again_keeps_the_folds_and_the_bytes(workplace, tmp_path):
    dataset = workplace / "dataset"
    before = {p.name: p.read_bytes() for p in dataset.glob("*.csv")}
    arguments = ["--data", str(workplace / "raw"), "--out", str(dataset), "--workers", "1"]
    assert main(["build", *arguments, "--experiment", str(workplace / "tiny.toml")]) == 0
    assert {p.name: p.read_bytes() for p in dataset.glob("*.csv")} == before
    kept = ["--folds", str(dataset / "folds.csv"), "--out", str(tmp_path / "other"), "--data", str(workplace / "raw")]
    assert main(["build", *kept, "--experiment", str(workplace / "tiny.toml"), "--workers", "1"]) == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "other").glob("*.csv")} == before


def test_files_of_a_trained_fold(trained):
    for fold in (0, 1):
        folder = trained / "runs" / "tiny" / f"fold{fold}"
        names = {p.name for p in folder.iterdir()}
        assert names == {
            *("state_0000004.pt", "state_0000006.pt", "model.safetensors", "log.csv", "curves.png"),
            *("config.json", "experiment.toml", "run.json"),
        }
        log = pd.read_csv(folder / "log.csv")
        assert log["step"].iloc[-1] == 6
        assert log["val_dice"].notna().sum() == 2


def test_training_again_needs_a_word(trained, capsys):
    arguments = ["train", str(trained / "tiny.toml"), "--runs", str(trained / "runs"), "--fold", "0"]
    assert main(arguments) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    assert main([*arguments, "--resume", "--optim.lr", "0.5"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_evaluate_package_and_predict(trained, tmp_path, capsys):
    run = trained / "runs" / "tiny"
    assert main(["evaluate", str(run)]) == 0
    printed = capsys.readouterr().out
    oof = pd.read_csv(run / "oof.csv", dtype={"id": str})
    assert list(oof.columns) == ["id", "fold", "organ", "source", "dice"]
    assert len(oof) == 6
    assert f"out-of-fold Dice {oof['dice'].mean():.4f}" in printed
    assert "default" in json.loads((run / "thresholds.json").read_text())
    assert (run / "report.html").stat().st_size > 10_000
    before = (run / "oof_scores.jsonl").stat().st_size
    assert main(["evaluate", str(run), "--cleaning-gain-over", str(run)]) == 0
    assert "+0.0000 (95% +0.0000 to +0.0000)" in capsys.readouterr().out
    assert (run / "oof_scores.jsonl").stat().st_size == before, "finished slides are not predicted again"

    weights = tmp_path / "weights"
    assert main(["package", str(run), "--out", str(weights)]) == 0
    manifest = load_manifest(weights)
    assert [member.fold for member in manifest.members] == [0, 1]
    for member in manifest.members:
        assert member.oof_score == pytest.approx(oof.loc[oof["fold"] == member.fold, "dice"].mean(), abs=1e-5)
    assert all(path.is_file() for path in weights.iterdir()), "the dataset is flat"
    assert main(["check", "weights", str(weights)]) == 0

    out = tmp_path / "submission.csv"
    assert main(["predict", "--weights", str(weights), "--data", str(trained / "raw"), "--out", str(out)]) == 0
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    sample = pd.read_csv(trained / "raw" / "sample_submission.csv", dtype=str)
    assert [row["id"] for row in rows] == sample["id"].tolist()
    truth = pd.read_csv(trained / "truth.csv", dtype=str).set_index("id")
    for row in rows:
        shape = int(truth.at[row["id"], "img_height"]), int(truth.at[row["id"], "img_width"])
        assert parse_rle(row["rle"], shape).area > 0
    assert main(["check", "submission", str(out), "--data", str(trained / "raw")]) == 0
    first = out.read_bytes()
    assert main(["predict", "--weights", str(weights), "--data", str(trained / "raw"), "--out", str(out)]) == 0
    assert out.read_bytes() == first


def test_a_run_that_is_not_evaluated_is_refused_and_then_compared(trained, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    for run in (first, second):
        shutil.copytree(trained / "runs" / "tiny", run, ignore=shutil.ignore_patterns("oof.csv"))
    change_weights(second)
    assert main(["evaluate", str(first)]) == 0
    command = ["evaluate", str(first), "--beside", str(second)]
    capsys.readouterr()
    assert main(command) == 2
    told = capsys.readouterr()
    assert f"{second / 'oof.csv'}: no such file; run `histofold evaluate {second}` first" in told.err
    assert not told.out, "nothing was predicted before"
    assert main(["evaluate", str(second)]) == 0
    capsys.readouterr()
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "first to second: Dice" in printed
    assert "on 6 slides" in printed
    picture = cv2.imread(str(first / "beside.png"))
    assert picture is not None
    assert picture.shape[1] > 5 * 420, "the truth, then logits and mask of each run"


def test_limit_overfits_a_few_and_is_never_scored(trained, tmp_path, capsys):
    arguments = ["train", str(trained / "tiny.toml"), "--runs", str(tmp_path), "--fold", "0", "--limit", "2"]
    assert main([*arguments, "--train.steps", "4", "--train.save-every", "2"]) == 0
    assert main([*arguments, "--train.steps", "4", "--train.save-every", "2"]) == 0, "a check gives way to the next"
    assert main(["evaluate", str(tmp_path / "tiny")]) == 2
    assert "--limit" in capsys.readouterr().err
    assert main(["package", str(tmp_path / "tiny"), "--out", str(tmp_path / "w")]) == 2
    assert "--limit" in capsys.readouterr().err
    real = [*arguments[:-2], "--train.steps", "4", "--resume"]
    assert main(real) == 0, "a real run follows a check without a word"
    assert json.loads((tmp_path / "tiny" / "fold0" / "run.json").read_text())["limit"] is None


def test_a_refused_package_leaves_the_good_one(trained, tmp_path, capsys):
    run, weights = trained / "runs" / "tiny", tmp_path / "weights"
    assert main(["package", str(run), "--out", str(weights)]) == 0
    before = {path.name: path.read_bytes() for path in weights.iterdir()}
    assert main(["package", str(run), "--out", str(weights), "--slug", "a"]) == 2
    assert main(["package", str(run), str(run), "--out", str(weights)]) == 2
    assert {path.name: path.read_bytes() for path in weights.iterdir()} == before
    assert main(["package", str(run), "--out", str(run / "fold0")]) == 2
    assert "folder of its own" in capsys.readouterr().err
    assert (run / "fold0" / "model.safetensors").is_file()
    (weights / "foreign.safetensors").write_bytes(b"not ours")
    assert main(["package", str(run), "--out", str(weights)]) == 0
    assert (weights / "foreign.safetensors").read_bytes() == b"not ours"


def test_a_model_is_never_scored_on_its_own_training_slides(trained, tmp_path, capsys):
    folds = trained / "dataset" / "folds.csv"
    before = folds.read_text()
    swapped = pd.read_csv(folds, dtype=str)
    swapped["fold"] = swapped["fold"].map({"0": "1", "1": "0"})
    try:
        swapped.to_csv(folds, index=False)
        assert main(["evaluate", str(trained / "runs" / "tiny")]) == 2
        assert "other slides" in capsys.readouterr().err
        assert main(["train", str(trained / "tiny.toml"), "--runs", str(trained / "runs"), "--resume"]) == 2
    finally:
        folds.write_text(before)


def test_changed_prediction_settings_reach_a_finished_run(trained, tmp_path):
    shutil.copytree(trained / "runs" / "tiny", tmp_path / "tiny")
    arguments = ["train", str(trained / "tiny.toml"), "--runs", str(tmp_path), "--resume", "--predict.batch", "7"]
    assert main(arguments) == 0
    assert main(["package", str(tmp_path / "tiny"), "--out", str(tmp_path / "weights")]) == 0
    manifest = load_manifest(tmp_path / "weights")
    assert manifest.batch == 7
    assert manifest.members[0].oof_score is None, "the old evaluation is not of these settings"


def test_tiles_of_another_scale_are_refused(trained, tmp_path, capsys):
    path = tmp_path / "other.toml"
    experiment = tiny_experiment(trained / "dataset")
    path.write_text(to_toml(dataclasses.replace(experiment, preprocessing=Preprocessing(target_pixel_size_um=2.0))))
    assert main(["train", str(path), "--runs", str(tmp_path)]) == 2
    assert "target_pixel_size_um" in capsys.readouterr().err


def test_tiles_that_the_experiment_would_cut_otherwise_are_trained_on_with_a_remark(trained, tmp_path, caplog):
    arguments = ["train", str(trained / "tiny.toml"), "--runs", str(tmp_path), "--fold", "0", "--train.steps", "2"]
    assert main([*arguments, "--tiles.stride", "32", "--tiles.folds", "3"]) == 0
    assert "tiles.stride" in caplog.text
    assert "cut with 64" in caplog.text
    assert "tiles.folds" not in caplog.text


def test_runs_of_two_scales_package_as_one_ensemble(trained, tmp_path, capsys):
    shutil.copytree(trained / "runs" / "tiny", tmp_path / "coarse")
    for record in tmp_path.glob("coarse/fold*/run.json"):
        data = json.loads(record.read_text())
        data["manifest"]["preprocessing"]["target_pixel_size_um"] *= 2
        record.write_text(json.dumps(data))
    change_weights(tmp_path / "coarse")
    out = tmp_path / "weights"
    runs = [str(trained / "runs" / "tiny"), str(tmp_path / "coarse")]
    assert main(["package", *runs, "--out", str(out), "--shares", "3", "1", "--tune"]) == 0
    assert "goes into the manifest" in capsys.readouterr().out
    manifest = load_manifest(out)
    fine = manifest.preprocessing.target_pixel_size_um
    sizes = [(m.preprocessing or manifest.preprocessing).target_pixel_size_um for m in manifest.members]
    assert sizes == [fine, fine, 2 * fine, 2 * fine]
    assert [m.weight for m in manifest.members] == [1.5, 1.5, 0.5, 0.5]
    table = tmp_path / "s.csv"
    assert main(["predict", "--weights", str(out), "--data", str(trained / "raw"), "--out", str(table)]) == 0
    assert main(["check", "submission", str(table), "--data", str(trained / "raw")]) == 0
    assert main(["package", *runs, "--out", str(out), "--shares", "3"]) == 2
    assert "1 shares for 2 runs" in capsys.readouterr().err


def test_a_run_that_skips_blank_tiles_unproven_is_not_packaged(trained, tmp_path, capsys):
    shutil.copytree(trained / "runs" / "tiny", tmp_path / "tiny")
    for record in tmp_path.glob("tiny/fold*/run.json"):
        data = json.loads(record.read_text())
        data["manifest"]["skip_blank"] = True
        record.write_text(json.dumps(data))
    assert main(["package", str(tmp_path / "tiny"), "--out", str(tmp_path / "weights")]) == 2
    assert "skips blank tiles" in capsys.readouterr().err
    assert not (tmp_path / "weights").exists()
