"""`predict --num-shards` and `merge` against one run: whole, killed and restarted, of one class and of several."""

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import save_file

from histofold.commands.main import main
from histofold.models.build import build_model
from histofold.predict.stages import OutOfTimeError
from histofold.predict.submission.archive import shard_paths, shards_folder
from histofold.predict.submission.predictor import SubmissionPredictor
from histofold.schema.claims import Claims
from histofold.schema.experiment import ModelConfig
from histofold.schema.manifest import Manifest, Member, file_sha256, manifest_json
from histofold.schema.preprocessing import Preprocessing
from small_datasets import SMALL_UNET

pytestmark = pytest.mark.slow

IDS = ["10", "9", "broken", "007", "7", "missing", "blank", "1e5", "z"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Bytes are equal for the same number of threads; a process of its own has one too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """Nine images of a competition, two of them unreadable; their sizes in the table are shuffled on purpose."""
    root = tmp_path_factory.mktemp("hidden")
    (root / "test_images").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number, key in enumerate(IDS):
        shape_hw = (100 + 10 * number, 190 - 10 * number)
        rows.append([key, "kidney", "Hubmap", *shape_hw[::-1], "0.8", "4"])
        coarse = rng.integers(90, 255, (shape_hw[0] // 16 + 1, shape_hw[1] // 16 + 1, 3), np.uint8)
        image_HWC = coarse.repeat(16, axis=0).repeat(16, axis=1)[: shape_hw[0], : shape_hw[1]]
        if key != "missing":
            tifffile.imwrite(
                root / "test_images" / f"{key}.tiff", np.full_like(image_HWC, 255) if key == "blank" else image_HWC
            )
    (root / "test_images" / "broken.tiff").write_bytes(b"no image")
    names = ["id", "organ", "data_source", "img_height", "img_width", "pixel_size", "tissue_thickness"]
    for name, table in (
        ("test.csv", [names, *rows]),
        ("sample_submission.csv", [["id", "rle"], *([k, ""] for k in IDS)]),
    ):
        with (root / name).open("w", newline="") as stream:
            csv.writer(stream).writerows(table)
    return root


@pytest.fixture(scope="module")
def whole(hidden, small_package, tmp_path_factory):
    """The submission of one run."""
    out = tmp_path_factory.mktemp("whole") / "whole.csv"
    assert main(["predict", *predict_arguments(small_package, hidden, out)]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["whole.csv"], "one run leaves no sidecar"
    return out.read_bytes()


def predict_arguments(weights, data, out, *more):
    return ["--weights", str(weights), "--data", str(data), "--out", str(out), *map(str, more)]


def shard_arguments(weights, data, out, num_shards, shard_id):
    return predict_arguments(weights, data, out, "--num-shards", num_shards, "--shard-id", shard_id)


def predicted_shards(folder, weights, data, num_shards):
    paths = [folder / f"s{shard}.csv" for shard in range(num_shards)]
    for shard, path in enumerate(paths):
        assert main(["predict", *shard_arguments(weights, data, path, num_shards, shard)]) == 0
    return paths


def merged_bytes(paths, out):
    assert main(["merge", *map(str, paths), "--out", str(out)]) == 0
    return out.read_bytes()


@pytest.mark.parametrize("num_shards", [1, 2, *(pytest.param(count, marks=pytest.mark.slow) for count in (7, 11))])
def test_merged_shards_are_one_run(num_shards, hidden, small_package, whole, tmp_path, capsys):
    paths = predicted_shards(tmp_path, small_package, hidden, num_shards)
    sidecars = [json.loads((tmp_path / f"{path.name}.json").read_text()) for path in paths]
    assert sorted(key for sidecar in sidecars for key in sidecar["ids"]) == sorted(IDS)
    fallback = {key: reason for sidecar in sidecars for key, reason in sidecar["fallback"].items()}
    assert set(fallback) == {"broken", "missing"}
    if num_shards > len(IDS):
        assert paths[-1].read_text() == "id,rle\n"
    assert merged_bytes(paths[::-1], tmp_path / "merged.csv") == whole
    printed = capsys.readouterr().out
    assert "9 images, 2 of them with fallback rows, 0 predicted with fewer views or members" in printed
    assert not list(tmp_path.glob("*.journal"))


def test_a_finished_shard_is_left_as_it_is(hidden, small_package, tmp_path, capsys, monkeypatch):
    (path,) = predicted_shards(tmp_path, small_package, hidden, 1)
    files = {each: (each.read_bytes(), each.stat().st_mtime_ns) for each in tmp_path.iterdir()}
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("histofold.predict.submission.shards.run_submission", None)
        assert main(["predict", *shard_arguments(small_package, hidden, path, 1, 0)]) == 0
    printed = capsys.readouterr().out
    assert "shard 0 of 1 is finished" in printed
    assert "9 of 9 images, 2 of them with fallback rows" in printed
    assert {each: (each.read_bytes(), each.stat().st_mtime_ns) for each in tmp_path.iterdir()} == files
    assert main(["predict", *shard_arguments(small_package, hidden, path, 2, 0)]) == 0, "of another number it is new"
    assert json.loads((tmp_path / "s0.csv.json").read_text())["num_shards"] == 2


def kill_after_a_row(arguments, out):
    """Start a shard, and kill it when its journal holds a row."""
    journal = out.with_name(f"{out.name}.journal")
    process = subprocess.Popen(
        [sys.executable, "-m", "histofold.commands.main", "predict", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    try:
        while not (journal.is_file() and journal.read_bytes().count(b"\n") > 1):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_shard_that_was_killed_goes_on(hidden, small_package, whole, tmp_path, capsys, caplog):
    paths = [tmp_path / f"s{shard}.csv" for shard in range(2)]
    arguments = [shard_arguments(small_package, hidden, path, 2, shard) for shard, path in enumerate(paths)]
    kill_after_a_row(arguments[0], paths[0])
    assert not (tmp_path / "s0.csv.json").exists(), "what was killed is not finished"
    assert main(["predict", *arguments[1]]) == 0
    assert main(["merge", *map(str, paths), "--out", str(tmp_path / "merged.csv")]) == 2
    assert "the shard is not finished" in capsys.readouterr().err
    with caplog.at_level("INFO"):
        assert main(["predict", *arguments[0]]) == 0
    assert "rows taken over from" in caplog.text
    assert merged_bytes(paths, tmp_path / "merged.csv") == whole


def hold_shard(path, shard, talk):
    with Claims(path) as claims:
        talk.send(claims.take(shard))
        talk.recv()


def test_processes_share_shards_and_one_that_is_killed_frees_its_own(hidden, small_package, whole, tmp_path, capsys):
    out = tmp_path / "all.csv"
    arguments = predict_arguments(small_package, hidden, out, "--num-shards", 3)
    kill_after_a_row(arguments, shard_paths(out, 3)[0])
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    other = context.Process(target=hold_shard, args=(shards_folder(out) / "claims_of_3", 1, theirs), daemon=True)
    other.start()
    assert ours.recv()
    assert main(["predict", *arguments]) == 0
    assert "2 of 3 shards are finished" in capsys.readouterr().out
    assert not out.exists()
    other.kill()
    other.join()
    for _ in range(2):
        assert main(["predict", *arguments]) == 0
        assert "9 images, 2 of them with fallback rows" in capsys.readouterr().out
        assert out.read_bytes() == whole
    lines = [json.loads(line) for line in (shards_folder(out) / "progress.jsonl").read_text().splitlines()]
    assert [line["shard"] for line in lines] == [0, 2, 1], "each one is predicted once"
    assert sum(line["images"] for line in lines) == len(IDS)


def test_a_shard_whose_clock_ran_out_is_legal_and_goes_on(hidden, small_package, whole, tmp_path, capsys, monkeypatch):
    (tmp_path / "short").mkdir()
    path = tmp_path / "short" / "s0.csv"
    arguments = shard_arguments(small_package, hidden, path, 1, 0)

    def too_late(*_):
        raise OutOfTimeError

    with monkeypatch.context() as patch:
        patch.setattr(SubmissionPredictor, "row", too_late)
        assert main(["predict", *arguments]) == 0
    assert len(json.loads((path.parent / "s0.csv.json").read_text())["fallback"]) == len(IDS)
    merged_bytes([path], tmp_path / "merged.csv")
    assert "9 images, 9 of them with fallback rows" in capsys.readouterr().out
    assert main(["predict", *arguments]) == 0
    assert merged_bytes([path], tmp_path / "merged.csv") == whole


@pytest.fixture(scope="module")
def class_weights(tmp_path_factory):
    """A random network of two classes for plain folders."""
    folder = tmp_path_factory.mktemp("class_weights")
    torch.manual_seed(0)
    arguments = ModelConfig(**SMALL_UNET, classes=2).arguments()
    save_file(build_model("unet", arguments).state_dict(), folder / "net.safetensors")
    digest = file_sha256(folder / "net.safetensors")
    manifest = Manifest(
        competition="folder",
        preprocessing=Preprocessing(scale_mode="whole", whole_size=96),
        classes=("gland", "lumen"),
        members=(Member(file="net.safetensors", sha256=digest, architecture="unet", arguments=arguments),),
        tile=96,
        halo=8,
    )
    (folder / "manifest.json").write_text(manifest_json(manifest))
    return folder


@pytest.mark.parametrize("num_shards", [2, 7])
def test_several_classes(num_shards, class_weights, tmp_path):
    images = tmp_path / "new" / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for number in range(5):
        cv2.imwrite(str(images / f"p{number}.png"), rng.integers(0, 256, (60 + number, 90, 3), np.uint8))
    assert main(["predict", *predict_arguments(class_weights, tmp_path / "new", tmp_path / "whole.csv")]) == 0
    text = (tmp_path / "whole.csv").read_text()
    assert [line.split(",")[:2] for line in text.splitlines()[:3]] == [
        ["id", "class"],
        ["p0", "gland"],
        ["p0", "lumen"],
    ]
    paths = predicted_shards(tmp_path, class_weights, tmp_path / "new", num_shards)
    assert merged_bytes(paths, tmp_path / "merged.csv").decode() == text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--num-shards", "0", "--shard-id", "0"], "at least 1 shard"),
        (["--num-shards", "2", "--shard-id", "2"], "counted from 0 to 1"),
        (["--num-shards", "2", "--shard-id", "-1"], "counted from 0 to 1"),
        (["--num-shards", "0"], "at least 1 shard"),
        (["--shard-id", "0"], "several parts"),
    ],
)
def test_numbers_that_name_no_shard_are_refused_in_words(options, words, tmp_path, capsys):
    assert main(["predict", *predict_arguments(tmp_path, tmp_path, tmp_path / "x.csv", *options)]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()


def test_nothing_to_merge_is_refused_in_words(tmp_path, capsys):
    assert main(["merge", str(tmp_path / "none.csv"), "--out", str(tmp_path / "x.csv")]) == 2
    assert "no such file; check the path" in capsys.readouterr().err
    assert main(["merge", "--out", str(tmp_path / "x.csv")]) == 2
