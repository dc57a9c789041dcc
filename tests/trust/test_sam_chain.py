"""Segment Anything as a baseline: two commands, and it stands in the reports of masks, of volumes and of objects."""

import json
import shutil
import socket

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from histofold.commands.main import main
from histofold.competitions.registry import get_competition
from histofold.data.build import build_dataset
from histofold.schema.augment import AugmentConfig
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import Experiment, TrainConfig
from histofold.schema.network import ModelConfig
from histofold.schema.parse import to_toml
from histofold.schema.prediction import PredictConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.run_record import read_records
from histofold.schema.sam import SamConfig
from histofold.schema.volumes import VolumeConfig
from small_cells import built_cells, cells_experiment, use_cells
from small_datasets import BASE, build, draw, make_folder
from small_sam import SIDE, RuledNet, dot_answer, original_state, random_sam

pytestmark = pytest.mark.slow

ASKED = SamConfig(points_per_side=3, min_iou=0.0, min_stability=0.0, max_area_share=1.0)


def sam_model(weights, **asked):
    return ModelConfig(architecture="sam", encoder_weights=f"file:{weights}", sam=SamConfig(**(vars(ASKED) | asked)))


def run(root, name, experiment):
    """Train and evaluate an experiment by its commands; gives its run."""
    (root / f"{name}.toml").write_text(to_toml(experiment))
    assert main(f"train {root}/{name}.toml --runs {root}/runs".split()) == 0
    assert main(f"evaluate {root}/runs/{name}".split()) == 0
    return root / "runs" / name


def summary_of(run_folder):
    return json.loads((run_folder / "summary.json").read_text())


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def only_local(self, address, *_):
        assert isinstance(address, str), f"a socket to {address}"

    monkeypatch.setattr(socket.socket, "connect", only_local)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The same network as a folder of transformers and as a published file."""
    folder = tmp_path_factory.mktemp("weights")
    random_sam().save_pretrained(folder / "hf")
    torch.save(original_state(random_sam()), folder / "sam.pth")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    shapes = [(52, 64), (64, 40), (80, 70), (52, 64)]
    build(make_folder(root / "raw", {f"p{n}": draw(n, shape) for n, shape in enumerate(shapes)}), root / "dataset")
    return root


def mask_experiment(root, model):
    return Experiment(
        data=DataConfig(dataset=str(root / "dataset")),
        preprocessing=BASE.preprocessing,
        tiles=BASE.tiles,
        model=model,
        train=TrainConfig(steps=0),
        predict=PredictConfig(views=("identity",)),
    )


@pytest.fixture(scope="module")
def scored(pictures, weights):
    return run(pictures, "sam", mask_experiment(pictures, sam_model(weights / "hf")))


def test_it_stands_in_the_report_like_a_trained_network(pictures, scored, capsys):
    oof = pd.read_csv(scored / "oof.csv")
    assert sorted(oof["id"]) == ["p0", "p1", "p2", "p3"]
    assert 0 < oof["dice"].mean() < 1
    report = (scored / "report.html").read_text()
    assert "nothing was trained" in report
    assert summary_of(scored)["interval"] is not None
    assert "sam" in pd.read_csv(scored.parent / "ledger.csv")["architecture"].tolist()
    first, second = (record for record in read_records(scored).values())
    assert (first.steps, first.trained_on, second.dice) == (0, {}, 0)
    files = [scored / f"fold{fold}" / "model.safetensors" for fold in (0, 1)]
    assert files[0].samefile(files[1]), "one file on disk serves all folds"
    assert main(f"train {pictures}/sam.toml --runs {pictures}/runs --resume".split()) == 0
    assert "evaluate" in capsys.readouterr().out


def test_the_published_file_scores_as_the_folder_does(pictures, scored, weights):
    other = run(pictures, "original", mask_experiment(pictures, sam_model(weights / "sam.pth")))
    assert (other / "oof.csv").read_bytes() == (scored / "oof.csv").read_bytes()


def test_told_the_truth_it_is_an_upper_bound_beside_the_grid(pictures, scored, weights, monkeypatch, capsys):
    monkeypatch.setattr("histofold.trust.oof.load_sam", lambda folder: RuledNet(dot_answer, SIDE))
    told = run(pictures, "told", mask_experiment(pictures, sam_model(weights / "hf", prompts="truth_boxes")))
    assert "prompted by the truth, an upper bound" in capsys.readouterr().out
    assert "prompted by the truth of each held-out image (truth_boxes)" in (told / "report.html").read_text()
    assert "sam, truth_boxes" in pd.read_csv(told.parent / "ledger.csv")["architecture"].tolist()
    assert summary_of(told)["dice"] > summary_of(told)["dice_of_everything"]
    assert main(f"evaluate {told} --beside {scored}".split()) == 0
    assert "sam.prompts" in capsys.readouterr().out
    assert (told / "beside.png").is_file()


def test_asked_otherwise_with_the_same_weights_it_is_scored_anew(pictures, scored, weights):
    before = pd.read_csv(scored / "oof.csv")
    shutil.copy(scored / "oof_scores.jsonl", pictures / "kept.jsonl")
    strict = mask_experiment(pictures, sam_model(weights / "hf", min_iou=1.0))
    (pictures / "strict.toml").write_text(to_toml(strict))
    assert main(f"train {pictures}/strict.toml --runs {pictures}/runs".split()) == 0
    shutil.copy(pictures / "kept.jsonl", pictures / "runs" / "strict" / "oof_scores.jsonl")
    assert main(f"evaluate {pictures}/runs/strict".split()) == 0
    after = pd.read_csv(pictures / "runs" / "strict" / "oof.csv")
    assert (after["dice"] != before["dice"]).any()


def test_other_weights_of_one_name_are_another_run(pictures, weights, tmp_path, capsys):
    shutil.copytree(weights / "hf", tmp_path / "hf")
    (tmp_path / "other.toml").write_text(to_toml(mask_experiment(pictures, sam_model(tmp_path / "hf"))))
    command = f"train {tmp_path}/other.toml --runs {tmp_path}/runs --resume".split()
    assert main(command) == 0
    random_sam(seed=1).save_pretrained(tmp_path / "hf")
    assert main(command) == 2
    assert "fold0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("package {runs}/sam --out {root}/packed", "no kernel holds it"),
        ("train {root}/sam.toml --show-schedule {root}/s.png", "no schedule"),
        ("sweep {root}/sweep.toml --runs {root}/runs", "trains nothing"),
        ("train {root}/sam.toml --runs {root}/more --train.steps 5", "must be 0 for sam"),
        ("train {root}/sam.toml --runs {root}/more --model.encoder-weights file:none", "no such file"),
    ],
)
def test_what_needs_training_refuses_it_in_words(pictures, scored, capsys, command, words):
    (pictures / "sweep.toml").write_text('experiment = "sam.toml"\n[space]\n"model.sam.min_iou" = [0.5, 0.9]\n')
    assert main(command.format(root=pictures, runs=pictures / "runs").split()) == 2
    assert words in capsys.readouterr().err


def kidney(root, name, seed):
    """A volume of one box that moves through the slices, written as the host does."""
    rng = np.random.default_rng(seed)
    for place in range(4):
        truth_HW = np.zeros((48, 70), np.uint8)
        truth_HW[8 + 4 * place : 24 + 4 * place, 10 + 8 * place : 30 + 8 * place] = 255
        grey_HW = (20_000 + 30 * truth_HW.astype(int) + rng.integers(0, 2000, truth_HW.shape)).astype(np.uint16)
        for folder, picture in (("images", grey_HW), ("labels", truth_HW)):
            (root / "train" / name / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "train" / name / folder / f"{place:04d}.tif"), picture)


def test_volumes_are_prompted_slice_by_slice(tmp_path, weights, monkeypatch, capsys):
    for seed, name in enumerate(("kidney_1_dense", "kidney_2")):
        kidney(tmp_path / "raw", name, seed)
    experiment = Experiment(
        data=DataConfig(dataset=str(tmp_path / "dataset")),
        preprocessing=Preprocessing(target_pixel_size_um=50.0, slices=1),
        tiles=TilesConfig(size=64, stride=32, min_tissue=0.0, folds=2),
        augment=AugmentConfig(preset="none"),
        model=sam_model(weights / "hf", prompts="truth_boxes"),
        train=TrainConfig(steps=0),
        predict=PredictConfig(tile=64, halo=8, views=("identity",)),
        volume=VolumeConfig(axes=("xy",)),
    )
    build_dataset(tmp_path / "raw", get_competition("sennet_2024"), experiment, tmp_path / "dataset", None, 1)
    monkeypatch.setattr("histofold.trust.oof.load_sam", lambda folder: RuledNet(dot_answer, 256))
    scored = run(tmp_path, "volumes", experiment)
    assert min(summary_of(scored)["volumes"].values()) > 0.99, "boxes of the truth give the boxes back"
    headline = capsys.readouterr().out.splitlines()[-2]
    assert headline.startswith("out-of-fold surface Dice 1.0000")
    assert "prompted by the truth, an upper bound" in headline
    (tmp_path / "axes.toml").write_text(to_toml(experiment).replace('axes = ["xy"]', 'axes = ["xy", "xz"]'))
    assert main(f"train {tmp_path}/axes.toml --runs {tmp_path}/runs".split()) == 2
    assert "along xy alone" in capsys.readouterr().err


@pytest.mark.parametrize("prompts", ["grid", "truth_points"])
def test_objects_stay_objects(tmp_path, weights, monkeypatch, prompts):
    use_cells(monkeypatch)
    dataset = built_cells(tmp_path)
    experiment = cells_experiment(dataset, sam_model(weights / "hf", prompts=prompts), train={"steps": 0})
    asked = RuledNet(dot_answer, SIDE)
    monkeypatch.setattr("histofold.trust.oof.load_sam", lambda folder: asked)
    scored = run(tmp_path, prompts, experiment)
    oof = pd.read_csv(scored / "oof.csv")
    assert set(oof["true"]) == {6}
    assert (oof["predicted"] <= 6).all() if prompts == "truth_points" else (oof["predicted"] >= 6).all()
    assert len(asked.asked) == 4 * (6 if prompts == "truth_points" else 9)
    assert summary_of(scored)["metric"] == "AP50"
