"""The kidney kernel on a fake hidden test: alone, against the package, on every layout and on bad files."""

import csv
import dataclasses
import re
import shutil

import numpy as np
import pytest
import tifffile

from histofold.competitions.check import check_submission
from histofold.competitions.kidney_2020 import Kidney2020
from histofold.core.rle.runs import parse_rle
from histofold.imaging.slide import open_slide
from histofold.kaggle.bundle.kernels import write_kernel
from histofold.kaggle.wheel import build_wheel
from histofold.kernels.entry import find_competition_folder
from histofold.kernels.kidney_2020 import run_kidney_2020
from histofold.predict.submission.shards import predict_folder
from histofold.schema.manifest import load_manifest, manifest_json
from kernels.test_hubmap_kernel import read_rows, run_kernel, tissue

BROKEN = {"missing", "truncated", "empty"}
SLUG = Kidney2020.slug


def write_layouts(folder):
    """A slide of each layout that the host uses, by id; the ids that look like numbers must stay text."""
    tiled, scaled, planar = tissue((515, 301), 1), tissue((400, 620), 2), tissue((333, 222), 3)
    stated = {"resolution": (10_000 / 0.65,) * 2, "resolutionunit": 3}
    tifffile.imwrite(folder / "1e2425f28.tiff", tiled, tile=(128, 128), compression="deflate", bigtiff=True)
    tifffile.imwrite(folder / "1e5.tiff", scaled, rowsperstrip=7, compression="lzw", **stated)
    tifffile.imwrite(folder / "0070.tiff", np.moveaxis(planar, -1, 0), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(folder / "five_d.tiff", np.moveaxis(planar, -1, 0)[None, None], photometric="minisblack")
    with tifffile.TiffWriter(folder / "three_pages.tiff") as writer:
        for band in range(3):
            writer.write(planar[:, :, band], photometric="minisblack", metadata=None)
    tifffile.imwrite(folder / "blank.tiff", np.full((210, 230, 3), 255, np.uint8))
    data = (folder / "1e5.tiff").read_bytes()
    (folder / "truncated.tiff").write_bytes(data[: len(data) // 2])
    (folder / "empty.tiff").write_bytes(b"")
    tifffile.imwrite(folder / "not_listed.tiff", planar)
    return ["1e2425f28", "three_pages", "truncated", "1e5", "missing", "0070", "five_d", "empty", "blank"]


@pytest.fixture(scope="session")
def hidden(tmp_path_factory):
    """A hidden test set as Kaggle swaps it in: no training data, no row of its slides in the dataset information."""
    root = tmp_path_factory.mktemp("hidden") / SLUG
    (root / "test").mkdir(parents=True)
    ids = write_layouts(root / "test")
    with (root / "sample_submission.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["id", "predicted"], *([key, ""] for key in ids)])
    return root, ids


@pytest.fixture(scope="session")
def weights(small_package, tmp_path_factory):
    """The small weights as those of this competition, without the wheel."""
    folder = tmp_path_factory.mktemp("dataset") / "weights"
    shutil.copytree(small_package, folder)
    manifest = dataclasses.replace(load_manifest(small_package), competition="kidney_2020", classes=("glomerulus",))
    (folder / "manifest.json").write_text(manifest_json(manifest))
    return folder


def kaggle_tree(folder, root, weights):
    """/kaggle with the competition, a decoy of another one, and the weights."""
    (folder / "working").mkdir(parents=True)
    shutil.copytree(root, folder / "input" / "competitions" / SLUG)
    shutil.copytree(weights, folder / "input" / "datasets" / "someone" / "weights")
    decoy = folder / "input" / "a-decoy" / "test"
    decoy.mkdir(parents=True)
    (decoy.parent / "sample_submission.csv").write_text("id,rle\n1,\n")
    return folder


def assert_legal(path, ids, root):
    """Every id as text and in order; rows decode to the file's own size, those of unreadable slides are empty."""
    header, *rows = read_rows(path)
    assert header == ["id", "predicted"]
    assert [row[0] for row in rows] == ids
    for key, text in rows:
        if key in BROKEN:
            assert text == ""
            continue
        with open_slide(root / "test" / f"{key}.tiff") as slide:
            parse_rle(text, slide.shape_hw)


def test_committed_kernel_is_fresh(project_root, tmp_path):
    folder = project_root / "kaggle_kernels" / "kidney_2020"
    fresh = write_kernel("kidney_2020", tmp_path, False, "your-kaggle-name/histofold-weights")
    assert (folder / "kernel.py").read_text() == fresh.read_text(), "run `make kernel` and commit"
    assert (folder / "kernel-metadata.json").read_text() == fresh.with_name("kernel-metadata.json").read_text()


@pytest.mark.slow
def test_alone_it_gives_the_bytes_of_the_package(hidden, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    root, ids = hidden
    build_wheel("segmentation-models-pytorch", weights)
    ours = tmp_path / "ours.csv"
    assert set(predict_folder(weights, root, ours).failed) == BROKEN
    assert_legal(ours, ids, root)
    assert sum(len(row[1]) > 0 for row in read_rows(ours)) > 3, "an untrained network still marks something"
    assert check_submission(ours, root) == []
    kernel = write_kernel("kidney_2020", tmp_path, False, "your-kaggle-name/histofold-weights")
    kaggle = kaggle_tree(tmp_path / "kaggle", root, weights)
    process = run_kernel(kernel, kaggle, OMP_NUM_THREADS="1")
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    assert (kaggle / "working" / "submission.csv").read_bytes() == ours.read_bytes()
    assert [path.name for path in (kaggle / "working").iterdir()] == ["submission.csv"]
    for key in BROKEN:
        assert re.search(rf" {key} .*  fallback  ", output), "each has its line in the table"
    assert "7 of 9 slides state no pixel size: 0.5 um is assumed" in output


@pytest.mark.slow
def test_a_readable_slide_without_objects_has_an_empty_row(hidden, weights, tmp_path):
    root, ids = hidden
    sure = tmp_path / "sure"
    shutil.copytree(weights, sure)
    manifest = dataclasses.replace(load_manifest(weights), thresholds={"default": 0.999999})
    (sure / "manifest.json").write_text(manifest_json(manifest))
    kaggle = kaggle_tree(tmp_path / "kaggle", root, sure)
    summary = run_kidney_2020(kaggle / "input", kaggle / "working", 3600)
    assert set(summary.failed) == BROKEN
    assert read_rows(kaggle / "working" / "submission.csv") == [["id", "predicted"], *([key, ""] for key in ids)]


def test_the_layouts_are_one_slide(hidden):
    root, _ = hidden
    images = []
    for key in ("0070", "five_d", "three_pages"):
        with open_slide(root / "test" / f"{key}.tiff") as slide:
            images.append(slide.read_all())
    np.testing.assert_array_equal(images[0], tissue((333, 222), 3))
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])


def test_the_folder_is_found_beside_one_of_another_competition(hidden, weights, tmp_path):
    root, _ = hidden
    kaggle = kaggle_tree(tmp_path / "kaggle", root, weights)
    shutil.copytree(root, kaggle / "input" / "a-dataset-of-the-same-layout")
    found = find_competition_folder(kaggle / "input", Kidney2020.columns, "test", SLUG)
    assert found == kaggle / "input" / "competitions" / SLUG
