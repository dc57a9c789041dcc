"""The kernel on a fake hidden test: alone, against the package, on every kind of bad file."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from histofold.competitions.check import check_submission
from histofold.core.faults import InputError
from histofold.core.rle.runs import parse_rle
from histofold.kaggle.bundle.kernels import write_kernel
from histofold.kaggle.wheel import build_wheel
from histofold.kernels.entry import find_competition_folder, find_packages
from histofold.predict.submission.shards import predict_folder

RUNNER = Path(__file__).with_name("run_alone.py")
COLUMNS = ["id", "organ", "data_source", "img_height", "img_width", "pixel_size", "tissue_thickness"]


def tissue(shape, seed):
    """Pink noise with dark blobs, so that a network sees something."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(120, 255, (shape[0] // 16 + 1, shape[1] // 16 + 1, 3), np.uint8)
    return np.repeat(np.repeat(coarse, 16, axis=0), 16, axis=1)[: shape[0], : shape[1]].copy()


@pytest.fixture(scope="session")
def hidden(tmp_path_factory):
    """A hidden test set: 1 to 1500 px, H != W, unknown organ, broken, missing, blank, LZW and JPEG files."""
    root = tmp_path_factory.mktemp("hidden")
    images = root / "test_images"
    images.mkdir()
    rows, shapes = [], {}

    def add(key, shape, organ="kidney", source="Hubmap", pixel="0.5", **options):
        shapes[key] = shape
        rows.append([key, organ, source, *shape, pixel, "4"])
        if options.pop("write", True):
            tifffile.imwrite(images / f"{key}.tiff", tissue(shape, len(rows)), **options)

    add("10", (160, 231), "spleen", pixel="0.4945")
    add("9", (1500, 1001), "largeintestine", pixel="0.2290")
    add("tiny", (1, 7))
    add("organ", (300, 500), "pancreas", "Elsewhere")
    add("nopixel", (301, 200), pixel="nan")
    add("huge_pixel", (70, 90), "prostate", pixel="6.263")
    add("lzw", (257, 310), compression="lzw", tile=(128, 128))
    add("jpeg", (256, 400), compression="jpeg", photometric="rgb")
    add("deflate", (333, 222), compression="deflate", predictor=True)
    add("wrong_size", (100, 90))
    rows[-1][3:5] = [90, 100]
    add("missing", (50, 60), write=False)
    add("empty", (50, 60), write=False)
    (images / "empty.tiff").write_bytes(b"")
    add("truncated", (600, 500))
    data = (images / "truncated.tiff").read_bytes()
    (images / "truncated.tiff").write_bytes(data[: len(data) // 2])
    add("text", (50, 60), write=False)
    (images / "text.tiff").write_text("not an image")
    add("header", (50, 60))
    (images / "header.tiff").write_bytes((images / "header.tiff").read_bytes()[:200])
    for name, value in (("blank", 255), ("black", 0)):
        add(name, (400, 420))
        tifffile.imwrite(images / f"{name}.tiff", np.full((400, 420, 3), value, np.uint8))
    ids = [row[0] for row in rows] + ["not_in_csv"]
    tifffile.imwrite(images / "not_in_csv.tiff", tissue((120, 140), 99))
    shapes["not_in_csv"] = (120, 140)
    tifffile.imwrite(images / "not_listed.tiff", tissue((20, 20), 1))
    for name, columns, table in (
        ("test.csv", COLUMNS, rows),
        ("sample_submission.csv", ["id", "rle"], [[key, ""] for key in ids]),
    ):
        with (root / name).open("w", newline="") as stream:
            csv.writer(stream).writerows([columns, *table])
    return root, ids, shapes


BROKEN = {"missing", "empty", "truncated", "text", "header"}


def read_rows(path):
    csv.field_size_limit(2**30)
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def assert_legal(path, ids, shapes):
    """Every id, in order, each with a row that decodes to the image's own size and is not empty."""
    header, *rows = read_rows(path)
    assert header == ["id", "rle"]
    assert [row[0] for row in rows] == ids
    for key, text in rows:
        assert parse_rle(text, shapes[key]).area > 0
        if key in BROKEN:
            assert text == "1 1"


def kaggle_tree(folder, hidden_root, weights):
    """/kaggle as it is today: the competition and the weights two and three folders down."""
    for path, target in (
        (folder / "input" / "competitions" / "hubmap-organ-segmentation", hidden_root),
        (folder / "input" / "datasets" / "someone" / "weights", weights),
    ):
        path.parent.mkdir(parents=True)
        shutil.copytree(target, path)
    (folder / "working").mkdir()
    return folder


def run_kernel(kernel, kaggle, runner=True, **environment):
    command = [sys.executable, "-I", *([str(RUNNER)] if runner else []), str(kernel)]
    variables = {**os.environ, "HISTOFOLD_KAGGLE_ROOT": str(kaggle), **environment}
    return subprocess.Popen(
        [*no_network(), *command],
        cwd=kaggle,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def no_network():
    """A namespace without network, where this machine allows one."""
    probe = ["unshare", "--map-root-user", "--net"]
    try:
        allowed = subprocess.run([*probe, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    return probe if allowed else []


@pytest.fixture(scope="session")
def weights_with_wheel(small_package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset") / "weights"
    shutil.copytree(small_package, folder)
    build_wheel("segmentation-models-pytorch", folder)
    return folder


def test_committed_kernel_is_fresh(project_root, tmp_path):
    folder = project_root / "kaggle_kernels" / "hubmap_2022"
    fresh = write_kernel("hubmap_2022", tmp_path, False, "your-kaggle-name/histofold-weights")
    assert (folder / "kernel.py").read_text() == fresh.read_text(), "run `make kernel` and commit"
    assert (folder / "kernel-metadata.json").read_text() == fresh.with_name("kernel-metadata.json").read_text()


@pytest.mark.slow
def test_alone_it_gives_the_bytes_of_the_package(project_root, hidden, weights_with_wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    root, ids, shapes = hidden
    ours = tmp_path / "ours.csv"
    summary = predict_folder(weights_with_wheel, root, ours)
    assert set(summary.failed) == BROKEN
    assert_legal(ours, ids, shapes)
    assert check_submission(ours, root) == []
    kaggle = kaggle_tree(tmp_path / "kaggle", root, weights_with_wheel)
    process = run_kernel(project_root / "kaggle_kernels" / "hubmap_2022" / "kernel.py", kaggle, OMP_NUM_THREADS="1")
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    assert (kaggle / "working" / "submission.csv").read_bytes() == ours.read_bytes()
    assert [p.name for p in (kaggle / "working").iterdir()] == ["submission.csv"]
    for key in BROKEN:
        assert re.search(rf" {key} .*  fallback  ", output), "each has its line in the table"


@pytest.mark.slow
def test_sigterm_leaves_a_legal_file(project_root, hidden, weights_with_wheel, tmp_path):
    root, ids, shapes = hidden
    kaggle = kaggle_tree(tmp_path / "kaggle", root, weights_with_wheel)
    out = kaggle / "working" / "submission.csv"
    process = run_kernel(project_root / "kaggle_kernels" / "hubmap_2022" / "kernel.py", kaggle, runner=True)
    deadline = time.monotonic() + 120
    journal = out.with_name("submission.csv.journal")
    while not (journal.is_file() and journal.read_bytes().count(b"\n") > 1):  # a row: it is ready for signals
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode in (143, 0), output
    assert [row[0] for row in read_rows(out)[1:]] == ids
    assert all(parse_rle(text, shapes[key]).area > 0 for key, text in read_rows(out)[1:])


@pytest.mark.slow
def test_a_clock_that_runs_out_leaves_a_legal_file(hidden, weights_with_wheel, tmp_path):
    root, ids, shapes = hidden
    out = tmp_path / "s.csv"
    summary = predict_folder(weights_with_wheel, root, out, limit_s=0.001)
    assert set(summary.failed) == set(ids)
    assert [row[0] for row in read_rows(out)[1:]] == ids
    assert {row[1] for row in read_rows(out)[1:]} == {"1 1"}
    again = predict_folder(weights_with_wheel, root, out)
    assert set(again.failed) == BROKEN
    assert_legal(out, ids, shapes)


def test_inputs_are_found_by_content(hidden, small_package, tmp_path):
    root, _, _ = hidden
    kaggle = kaggle_tree(tmp_path, root, small_package)
    decoy = kaggle / "input" / "another-competition"
    decoy.mkdir()
    (decoy / "sample_submission.csv").write_text("id,predicted\n1,\n")
    (decoy / "manifest.json").write_text('{"format": "web-app/2"}')
    shutil.copytree(root, kaggle / "input" / "a-dataset-of-the-same-layout")
    slug = "hubmap-organ-segmentation"
    found = find_competition_folder(kaggle / "input", ("id", "rle"), "test_images", slug)
    assert found.name == "hubmap-organ-segmentation"
    shutil.copytree(kaggle / "input" / "datasets" / "someone" / "weights", kaggle / "input" / "weights")
    packages = find_packages(kaggle / "input", "hubmap_2022")  # the same dataset at two paths is one
    assert [folder.name for folder, _ in packages] == ["weights"]
    with pytest.raises(InputError, match="add the weights' dataset"):
        find_packages(decoy, "hubmap_2022")
    with pytest.raises(InputError, match="add the competition"):
        find_competition_folder(decoy, ("id", "rle"), "test_images", slug)


def test_changed_weights_stop_the_kernel_but_the_legal_file_stands(hidden, small_package, tmp_path):
    from histofold.kernels.hubmap_2022 import run_hubmap_2022

    root, ids, _ = hidden
    kaggle = kaggle_tree(tmp_path, root, small_package)
    victim = next((kaggle / "input").rglob("*.safetensors"))
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    with pytest.raises(InputError, match="SHA-256"):
        run_hubmap_2022(kaggle / "input", kaggle / "working", 3600)
    assert [row[0] for row in read_rows(kaggle / "working" / "submission.csv")[1:]] == ids
