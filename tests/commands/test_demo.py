"""The demo in a few steps: what it prints, what it leaves, and that it goes on with what is there."""

import re
import subprocess
import sys

import pytest

from histofold.commands.demo import demo_preprocessing
from histofold.schema.sample import Sample
from histofold.synth.blobs import make_blobs_folder


def run_demo(*arguments):
    command = [sys.executable, "-m", "histofold.commands.main", "demo", "--steps", "4", "--folds", "2", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().splitlines()


@pytest.mark.slow
def test_on_synthetic_slides(tmp_path):
    out = tmp_path / "demo"
    lines = run_demo("--out", str(out))
    assert re.fullmatch(r"out-of-fold Dice 0\.\d{4}", lines[-2])
    submission, report = re.fullmatch(r"submission: (\S+) report: (\S+)", lines[-1]).groups()
    assert (submission, report) == (str(out / "submission.csv"), str(out / "report.html"))
    assert re.fullmatch(r"hidden test Dice 0\.\d{4}", lines[-3])
    assert any("same bytes as histofold predict" in line for line in lines)
    assert list(out.rglob("manifest.json")) == [out / "weights" / "manifest.json"]
    assert not (out / "competition" / "hidden_truth.csv").exists()
    assert (out / "hidden_truth.csv").is_file()
    before = (out / "submission.csv").read_bytes()
    assert run_demo("--out", str(out))[-3:] == lines[-3:]
    assert (out / "submission.csv").read_bytes() == before


@pytest.mark.slow
def test_on_a_plain_folder(tmp_path):
    make_blobs_folder(tmp_path / "own", 6, seed=0)
    lines = run_demo("--data", str(tmp_path / "own"), "--out", str(tmp_path / "demo"))
    assert re.fullmatch(r"out-of-fold Dice 0\.\d{4}", lines[-2])
    assert not any("hidden test" in line for line in lines)


def test_the_scale_follows_the_images():
    sides = [(300, 400), (3000, 1000), (10, 20)]
    samples = [Sample(id="a", image_path="a", pixel_size_um=0.5, shape_hw=shape) for shape in sides]
    spec = demo_preprocessing(samples)
    assert spec.scale_mode == "physical"
    assert max(spec.scaled_hw((300, 400), 0.5)) == pytest.approx(300, abs=3)
    unknown = [*samples, Sample(id="b", image_path="b", shape_hw=(10, 10))]
    assert demo_preprocessing(unknown).scale_mode == "whole"
