"""The kernel of volumes on a hidden test: alone, against the package, on broken slices, sharded and short of time."""

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import save_file

from histofold.competitions.check import check_submission
from histofold.competitions.sennet_2024 import EMPTY_ROW
from histofold.core.rle.runs import decode_rle
from histofold.imaging.planes import gather_volume
from histofold.kaggle.bundle.bundler import LIMIT_BYTES
from histofold.kaggle.bundle.kernels import write_kernel
from histofold.kaggle.wheel import build_wheel
from histofold.kernels.sennet_2024 import run_sennet_2024
from histofold.models.build import build_model
from histofold.predict.submission.merge import merge_shards
from histofold.predict.submission.shards import FolderRun, predict_folder, predict_shard
from histofold.report.results.files import ResultFiles
from histofold.schema.manifest import Manifest, Member, file_sha256, manifest_json
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.volumes import VolumeConfig
from kernels.test_hubmap_kernel import read_rows, run_kernel

pytestmark = pytest.mark.slow

ARGUMENTS = {"encoder": "tu-lcnet_035", "decoder_channels": [16, 16, 8, 8, 8], "classes": 1}
SHAPES = {"kidney_5": (7, 40, 66), "kidney_6": (5, 50, 35)}
MENDED, GONE, BLACK = "kidney_5_0002", "kidney_5_0004", ("kidney_6_0001", "kidney_6_0002")
"""A broken and a missing slice between whole ones, and two broken ones side by side."""


def volume_package(folder, **changed):
    """Weights of a network that takes what is brighter than usual for a vessel, more or less; settings to change."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    save_file(build_model("unet", ARGUMENTS).state_dict(), folder / "small.safetensors")
    digest = file_sha256(folder / "small.safetensors")
    manifest = Manifest(
        competition="sennet_2024",
        preprocessing=Preprocessing(target_pixel_size_um=50.0),
        classes=("vessel",),
        members=(Member(file="small.safetensors", sha256=digest, architecture="unet", arguments=ARGUMENTS),),
        thresholds={"default": 0.5},
        seed_threshold=0.52,
        volume=VolumeConfig(min_voxels=4),
        tile=64,
        halo=8,
        batch=3,
        views=("identity",),
    )
    manifest = replace(manifest, **changed)
    (folder / "manifest.json").write_text(manifest_json(manifest))
    build_wheel("segmentation-models-pytorch", folder)
    return folder


def hidden_volumes(root):
    """Two volumes of noise in blocks, some slices at fault; gives the ids in the order of the submission."""
    ids = []
    for seed, (name, (depth, height, width)) in enumerate(SHAPES.items()):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(18_000, 37_000, (depth // 3 + 1, height // 8 + 1, width // 8 + 1)).astype(np.uint16)
        values_DHW = coarse.repeat(3, 0).repeat(8, 1).repeat(8, 2)[:depth, :height, :width]
        folder = root / "test" / name / "images"
        folder.mkdir(parents=True)
        for number, slice_HW in enumerate(values_DHW):
            cv2.imwrite(str(folder / f"{number:04d}.tif"), slice_HW)
            ids.append(f"{name}_{number:04d}")
    for key in (MENDED, BLACK[0]):
        volume, _, number = key.rpartition("_")
        path = root / "test" / volume / "images" / f"{number}.tif"
        path.write_bytes(path.read_bytes()[:60])
    volume, _, number = BLACK[1].rpartition("_")  # whole, and of another type than its volume
    cv2.imwrite(str(root / "test" / volume / "images" / f"{number}.tif"), np.full(SHAPES[volume][1:], 9, np.uint8))
    volume, _, number = GONE.rpartition("_")
    (root / "test" / volume / "images" / f"{number}.tif").unlink()
    ids = ids[3:] + ids[:3]  # hosts need not list them in order
    (root / "sample_submission.csv").write_text("id,rle\n" + "".join(f"{key},{EMPTY_ROW}\n" for key in ids))
    return ids


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory):
    """/kaggle with a hidden test set and weights; its ids."""
    folder = tmp_path_factory.mktemp("kaggle")
    root = folder / "input" / "competitions" / "blood-vessel-segmentation"
    ids = hidden_volumes(root)
    weights = volume_package(folder / "input" / "datasets" / "someone" / "weights")
    (folder / "working").mkdir()
    return folder, root, weights, ids


@pytest.fixture(scope="module")
def predicted(kaggle, tmp_path_factory):
    """What the package predicts: rows by id, and the file."""
    _, root, weights, _ = kaggle
    out = tmp_path_factory.mktemp("ours") / "ours.csv"
    summary = predict_folder(weights, root, out)
    return dict(read_rows(out)[1:]), out, summary


def test_every_slice_has_a_legal_row_in_order_and_broken_ones_are_mended(kaggle, predicted):
    _, root, _, ids = kaggle
    rows, out, summary = predicted
    assert list(rows) == ids
    assert set(summary.failed) == set(BLACK)
    assert [rows[key] for key in BLACK] == [EMPTY_ROW] * 2
    assert sum(text != EMPTY_ROW for text in rows.values()) >= 6
    assert MENDED in rows
    check_submission(out, root, "sennet_2024")


@pytest.mark.slow
def test_alone_it_gives_the_bytes_of_the_package(kaggle, predicted, tmp_path):
    folder, _, _, _ = kaggle
    kernel = write_kernel("sennet_2024", tmp_path, False, "your-kaggle-name/histofold-weights")
    process = run_kernel(kernel, folder, OMP_NUM_THREADS="1")
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    assert (folder / "working" / "submission.csv").read_bytes() == predicted[1].read_bytes()
    assert [path.name for path in (folder / "working").iterdir()] == ["submission.csv"]


def test_shards_give_the_rows_of_one_run(kaggle, predicted, tmp_path):
    _, root, weights, _ = kaggle
    parts = [tmp_path / f"{number}.csv" for number in range(2)]
    for number, part in enumerate(parts):
        predict_shard(FolderRun(weights, root, part), (2, number))
    merge_shards(parts, tmp_path / "all.csv")
    assert (tmp_path / "all.csv").read_bytes() == predicted[1].read_bytes()


def test_a_volume_that_fails_costs_no_other(kaggle, predicted, tmp_path, monkeypatch):
    _, root, weights, ids = kaggle

    def fails(samples, scratch):
        if samples[0].image_path.parent.parent.name == "kidney_5":
            raise RuntimeError("planted")
        return gather_volume(samples, scratch)

    monkeypatch.setattr("histofold.predict.submission.volumes.gather_volume", fails)
    summary = predict_folder(weights, root, tmp_path / "part.csv")
    rows = dict(read_rows(tmp_path / "part.csv")[1:])
    assert list(rows) == ids
    for key, text in rows.items():
        assert text == (EMPTY_ROW if key.startswith("kidney_5") else predicted[0][key])
    assert set(summary.failed) == {key for key in ids if key.startswith("kidney_5")} | set(BLACK)


def test_masks_and_probabilities_of_slices_are_written_on_request(kaggle, predicted, tmp_path):
    _, root, weights, ids = kaggle
    folders = {name: tmp_path / name for name in ("masks", "probabilities", "geojson")}
    results = ResultFiles(folders)
    predict_folder(weights, root, tmp_path / "with.csv", results=results)
    assert (tmp_path / "with.csv").read_bytes() == predicted[1].read_bytes()
    for key in set(ids) - set(BLACK):
        mask_HW = cv2.imread(str(folders["masks"] / f"{key}.png"), cv2.IMREAD_UNCHANGED) > 0
        text = predicted[0][key]
        expected_HW = decode_rle("" if text == EMPTY_ROW else text, mask_HW.shape, order="C")
        np.testing.assert_array_equal(mask_HW, expected_HW)
        grey_HW = tifffile.imread(folders["probabilities"] / f"{key}.ome.tif").reshape(mask_HW.shape)
        assert grey_HW.any()
        assert (grey_HW[mask_HW] >= 127).all(), "what is mask passed the threshold of a half"


@pytest.mark.shared_data
def test_the_hosts_own_slices_are_read_normalised_predicted_and_written(shared_data, tmp_path):
    root = tmp_path / "raw"
    shutil.copytree(shared_data / "sennet_stub", root)
    ids = [f"{path.parents[1].name}_{path.stem}" for path in sorted(root.glob("test/*/images/*.tif"))]
    assert ids == ["kidney_5_0000", "kidney_5_0001", "kidney_5_0002", "kidney_6_0000"]
    (root / "sample_submission.csv").write_text("id,rle\n" + "".join(f"{key},{EMPTY_ROW}\n" for key in ids))
    xy = VolumeConfig(axes=("xy",), most_share=0.1)  # planes across so few slices would be thousands of strips
    weights = volume_package(tmp_path / "weights", volume=xy, seed_threshold=0.0, tile=256, halo=16)
    summary = predict_folder(weights, root, tmp_path / "submission.csv")
    rows = dict(read_rows(tmp_path / "submission.csv")[1:])
    assert list(rows) == ids
    assert not summary.failed
    masks = {key: decode_rle(text, (1303, 912), order="C") for key, text in rows.items()}
    assert sum(mask_HW.sum() for key, mask_HW in masks.items() if key.startswith("kidney_5")) == pytest.approx(
        0.05 * 3 * 1303 * 912, rel=0.01
    )
    check_submission(tmp_path / "submission.csv", root, "sennet_2024")


def test_without_weights_a_legal_file_stands(kaggle, tmp_path):
    _, root, _, ids = kaggle
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "set").symlink_to(root, target_is_directory=True)
    with pytest.raises(ValueError, match="add the weights' dataset"):
        run_sennet_2024(tmp_path / "input", tmp_path, 3600)
    assert read_rows(tmp_path / "submission.csv") == [["id", "rle"], *([key, EMPTY_ROW] for key in ids)]


def test_the_committed_kernel_is_fresh_and_small(project_root, tmp_path):
    committed = project_root / "kaggle_kernels" / "sennet_2024" / "kernel.py"
    fresh = write_kernel("sennet_2024", tmp_path, False, "your-kaggle-name/histofold-weights")
    assert committed.read_text() == fresh.read_text(), "run `make kernel` and commit"
    assert fresh.stat().st_size < LIMIT_BYTES // 2
