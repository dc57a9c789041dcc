"""The demo in a few steps: what it prints, what it leaves, and that it goes on with what is there."""

import re
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pandas as pd
import pytest

from blobs_folder import make_blobs_folder
from histofold.commands.main import main
from histofold.competitions.registry import detect_competition, get_competition
from histofold.core.objects.detections import Detections
from histofold.data.demo import demo_experiment, demo_preprocessing
from histofold.schema.parse import to_toml
from histofold.schema.sample import Sample
from histofold.synth.competitions import DEMO_FOLDERS, hidden_score, submission_name
from html_pages import parse
from small_datasets import SMALL_UNET, build


def small_options(name):
    """What makes a synthetic folder small."""
    return {"shape_dhw": (8, 64, 56)} if name == "sennet_2024" else {"num_train": 6, "num_test": 2, "max_side": 300}


@pytest.fixture
def run_demo(monkeypatch, capsys):
    """The demo of two folds and two steps in this process: a few small slides, tiles and batches; gives its output."""
    for name, folder in DEMO_FOLDERS.items():
        make = partial(folder.make, **small_options(name))
        monkeypatch.setitem(DEMO_FOLDERS, name, replace(folder, make=make))

    def small_experiment(*arguments, **options):
        usual = demo_experiment(*arguments, **options)
        return replace(
            usual,
            preprocessing=replace(demo_preprocessing(arguments[1], 90), whole_size=96),
            tiles=replace(usual.tiles, size=96, stride=64),
            augment=replace(usual.augment, crop=64),
            model=replace(usual.model, encoder_weights="none", **SMALL_UNET),
            train=replace(usual.train, batch=2, workers=0),
            predict=replace(usual.predict, tile=96, halo=16),
        )

    monkeypatch.setattr("histofold.data.demo.demo_experiment", small_experiment)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # tiles are cut in this process

    def run(*arguments):
        assert main(["demo", "--folds", "2", "--steps", "2", *arguments]) == 0
        return capsys.readouterr().out.strip().splitlines()

    return run


@pytest.mark.slow
@pytest.mark.parametrize("competition", ["hubmap_2022", "sennet_2024", "vrdl_nuclei"])  # masks, volumes, objects
def test_on_synthetic_slides(run_demo, tmp_path, competition):
    out = tmp_path / "demo"
    arguments = ("--out", str(out), *(("--competition", competition) * (competition != "hubmap_2022")))
    lines = run_demo(*arguments)
    metric = getattr(get_competition(competition), "metric", "Dice")
    assert re.fullmatch(rf"out-of-fold {metric} 0\.\d{{4}}", lines[-2])
    submission, report = re.fullmatch(r"submission: (\S+) report: (\S+)", lines[-1]).groups()
    assert (submission, report) == (str(out / submission_name(competition)), str(out / "report.html"))
    assert re.fullmatch(rf"hidden test {metric} 0\.\d{{4}}", lines[-3])
    assert f"look at the report: python -m webbrowser {(out / 'report.html').as_uri()}" in lines
    parse((out / "report.html").read_text(), out)
    assert any("same bytes as histofold predict" in line for line in lines)
    assert list(out.rglob("manifest.json")) == [out / "weights" / "manifest.json"]
    assert (out / DEMO_FOLDERS[competition].truth_name).exists(), "outside the competition folder"
    assert not list((out / "competition").rglob("*truth*"))
    assert detect_competition(out / "competition").name == competition


@pytest.mark.slow
def test_on_a_plain_folder_and_again(run_demo, tmp_path):
    make_blobs_folder(tmp_path / "own", 6, seed=0)
    arguments = ("--data", str(tmp_path / "own"), "--out", str(tmp_path / "demo"))
    lines = run_demo(*arguments)
    assert re.fullmatch(r"out-of-fold Dice 0\.\d{4}", lines[-2])
    assert not any("hidden test" in line for line in lines)
    before = (tmp_path / "demo" / "submission.csv").read_bytes()
    assert run_demo(*arguments)[-2:] == lines[-2:]
    assert (tmp_path / "demo" / "submission.csv").read_bytes() == before


def test_a_demo_of_other_masks_or_settings_is_refused_before_anything_is_made(tmp_path, capsys):
    own, out = tmp_path / "own", tmp_path / "demo"
    (name, *_) = make_blobs_folder(own, 4, seed=0)
    build(own, out / "dataset")
    competition = get_competition("folder")
    settings = {"steps": 2, "folds": 2, "seed": 0, "synthetic": False}
    experiment = demo_experiment(competition, competition.samples(own, "train"), out / "dataset", **settings)
    (out / "runs" / "demo" / "fold0").mkdir(parents=True)
    (out / "runs" / "demo" / "fold0" / "experiment.toml").write_text(to_toml(experiment))
    mask = own / "masks" / f"{name}.png"
    cv2.imwrite(str(mask), 255 - cv2.imread(str(mask), cv2.IMREAD_UNCHANGED))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main(["demo", "--data", str(own), "--out", str(out), "--folds", "2", "--steps", "3"]) == 2
    told = capsys.readouterr().err
    assert f"its data has changed: other masks: {name}" in told
    assert "train.steps: 2 then, 3 now" in told
    assert f"give another --out, or remove {out} to begin anew" in told
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_slides_of_another_competition_are_not_taken_for_the_demo_s(tmp_path, capsys):
    root = tmp_path / "competition"
    DEMO_FOLDERS["kidney_2020"].make(
        root, seed=0, truth_path=tmp_path / "hidden_truth.csv", num_train=2, num_test=1, max_side=200, progress=False
    )
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "holds slides of kidney_2020; give another --out" in capsys.readouterr().err
    (tmp_path / "hidden_truth.csv").unlink()
    assert main(["demo", "--out", str(tmp_path), "--competition", "kidney_2020"]) == 2
    assert "not made by the demo to its end" in capsys.readouterr().err
    assert (root / "train.csv").is_file()


def test_a_competition_whose_folder_cannot_be_drawn_is_refused(tmp_path, capsys):
    assert main(["demo", "--competition", "folder", "--out", str(tmp_path / "demo")]) == 2
    assert f"one of {', '.join(DEMO_FOLDERS)}" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "vasculature_2023")) for name in DEMO_FOLDERS]
)
def test_the_truth_itself_scores_one_on_the_hidden_test_and_nothing_scores_less(tmp_path, name):
    root, truth, submission = tmp_path / "raw", tmp_path / "truth", tmp_path / "submission"
    DEMO_FOLDERS[name].make(root, seed=0, truth_path=truth, progress=False, **small_options(name))
    adapter = get_competition(name)
    samples = adapter.samples(root, "test")

    def scored(rows):
        submission.write_text(adapter.submission_text(rows, adapter.classes))
        return hidden_score(adapter, root, submission, truth)

    assert scored(true_rows(adapter, truth)) == pytest.approx(1.0)
    one_pixel = adapter.task == "masks"  # the fallback of kidneys is right where there is no mask
    assert scored({sample.id: "1 1" if one_pixel else adapter.fallback(sample) for sample in samples}) < 0.1


def true_rows(adapter, truth):
    """The rows of a submission that is the hidden truth itself."""
    if adapter.task != "instances":
        table = pd.read_csv(truth, dtype=str).set_index("id")
        return table[adapter.columns[1].replace("predicted", "encoding")].to_dict()
    judge = get_competition(adapter.name)
    found = {sample.id: judge.objects(sample) for sample in judge.samples(truth, "train")}
    return {key: adapter.object_row(key, Detections(each, np.ones(len(each)))) for key, each in found.items()}


def test_the_scale_follows_the_images():
    sides = [(300, 400), (3000, 1000), (10, 20)]
    samples = [Sample(id="a", image_path="a", pixel_size_um=0.5, shape_hw=shape) for shape in sides]
    spec = demo_preprocessing(samples)
    assert spec.scale_mode == "physical"
    assert max(spec.scaled_hw((300, 400), 0.5)) == pytest.approx(300, abs=3)
    assert max(demo_preprocessing(samples, 600).scaled_hw((300, 400), 0.5)) == pytest.approx(600, abs=6)
    unknown = [*samples, *(Sample(id=key, image_path=key, shape_hw=(10, 10)) for key in "bcde")]
    assert demo_preprocessing(unknown).scale_mode == "whole"
