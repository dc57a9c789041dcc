"""The library answers as the command does, whatever an image comes as."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from safetensors.torch import save_file

import histofold
from histofold.core.faults import ImageError, InputError
from histofold.imaging.slide import open_slide
from histofold.models.build import build_model
from histofold.predict.submission.shards import predict_folder
from histofold.report.results.files import ResultFiles
from histofold.schema.manifest import Manifest, Member, file_sha256, manifest_json
from histofold.schema.preprocessing import Preprocessing
from histofold.train.checkpoint import save_network
from small_datasets import BASE, SMALL_UNET, small_record

SHAPE_HW = (150, 203)


@pytest.fixture(scope="module")
def image_HWC():
    return np.random.default_rng(3).integers(40, 230, (*SHAPE_HW, 3), np.uint8)


@pytest.fixture(scope="module")
def model(small_package):
    return histofold.load(small_package)


def with_thresholds(package, folder, **thresholds):
    """A copy of a package with other thresholds."""
    shutil.copytree(package, folder)
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "thresholds": thresholds}))
    return folder


def write_competition(root, image_HWC, organ):
    """A folder of hubmap_2022 of one image of 0.8 um a pixel; gives the image."""
    (root / "test_images").mkdir(parents=True)
    path = root / "test_images" / "7.tiff"
    tifffile.imwrite(path, image_HWC, photometric="rgb")
    row = {"id": 7, "organ": organ, "data_source": "HPA", "img_height": SHAPE_HW[0], "img_width": SHAPE_HW[1]}
    pd.DataFrame([{**row, "pixel_size": 0.8, "tissue_thickness": 4}]).to_csv(root / "test.csv", index=False)
    pd.DataFrame({"id": [7], "rle": [""]}).to_csv(root / "sample_submission.csv", index=False)
    return path


def only_row(path):
    return path.read_text().splitlines()[1].partition(",")[2]


@pytest.mark.parametrize(
    ("organ", "thresholds"),
    [
        ("kidney", {"default": 0.5, "kidney": 0.45}),
        ("lung", {"default": 0.505, "lung/HPA": 0.51}),
        ("kidney", {"default": 0.9999}),  # nothing passes it: the competition's rule for empty masks
    ],
)
def test_a_mask_is_the_row_of_the_command(small_package, tmp_path, image_HWC, organ, thresholds):
    weights = with_thresholds(small_package, tmp_path / "weights", **thresholds)
    path = write_competition(tmp_path / "data", image_HWC, organ)
    summary = predict_folder(weights, tmp_path / "data", tmp_path / "s.csv")
    assert summary.failed == {}
    mask_HW = histofold.load(weights).predict(path, pixel_size_um=0.8, organ=organ, source="HPA")
    assert mask_HW.dtype == bool
    assert mask_HW.shape == SHAPE_HW
    assert histofold.encode_rle(mask_HW) == only_row(tmp_path / "s.csv") != ""


def test_a_plain_folder_may_have_empty_masks(small_package, tmp_path, image_HWC):
    weights = with_thresholds(small_package, tmp_path / "weights", default=0.9999)
    assert histofold.load(weights).predict(image_HWC, 0.8).any()
    assert not histofold.load(weights, competition="folder", device="cpu").predict(image_HWC, 0.8).any()


def test_a_file_a_slide_and_pixels_of_any_type_are_one_image(model, tmp_path, image_HWC):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image_HWC, photometric="rgb", resolution=(1e4 / 0.8, 1e4 / 0.8), resolutionunit=3)
    expected_HW = model.predict(image_HWC, 0.8)
    assert 0 < expected_HW.sum() < expected_HW.size
    alpha_HWC = np.dstack([image_HWC, np.zeros(SHAPE_HW, np.uint8)])
    with open_slide(path) as slide:
        same = [model.predict(slide), model.predict(slide, pixel_size_um=0.8)]
        assert slide.read(slice(0, 1), slice(0, 1)).shape == (1, 1, 3), "the caller's slide stays open"
    same += [model.predict(each) for each in (str(path), path)]
    pixels = [image_HWC.astype(np.uint16) * 257, image_HWC / 255, alpha_HWC, np.asfortranarray(image_HWC)]
    same += [model.predict(each, 0.8) for each in pixels]
    for mask_HW in same:
        np.testing.assert_array_equal(mask_HW, expected_HW)
    assert (model.predict(path, pixel_size_um=1.7) != expected_HW).any(), "what the caller says goes first"


def test_probabilities_are_what_masks_are_cut_from(model, image_HWC):
    probs_HW = model.probabilities(image_HWC, 0.8)
    assert probs_HW.dtype == np.float32
    assert probs_HW.shape == SHAPE_HW
    np.testing.assert_array_equal(probs_HW >= 0.45, model.predict(image_HWC, 0.8, organ="kidney"))


def test_outlines_and_probabilities_are_those_of_the_command(small_package, tmp_path, image_HWC):
    path = write_competition(tmp_path / "data", image_HWC, "kidney")
    folders = {kind: tmp_path / kind for kind in ("geojson", "probabilities")}
    weights = with_thresholds(small_package, tmp_path / "weights", default=0.4, kidney=0.505)
    predict_folder(weights, tmp_path / "data", tmp_path / "s.csv", results=ResultFiles(folders))
    model = histofold.load(weights)
    outlines = model.polygons(path, 0.8, "kidney", "HPA")
    assert len(outlines["features"]) > 1
    assert json.loads(json.dumps(outlines)) == json.loads((tmp_path / "geojson" / "7.geojson").read_text())
    area_px = sum(each["properties"]["measurements"]["area_px"] for each in outlines["features"])
    assert area_px == model.predict(path, 0.8, "kidney").sum()
    levels_HW = tifffile.imread(tmp_path / "probabilities" / "7.ome.tif")
    np.testing.assert_array_equal(np.rint(model.probabilities(path, 0.8) * np.float32(255)), levels_HW)


def test_several_classes_are_the_first_axis(tmp_path, image_HWC):
    weights, names = tmp_path / "weights", ("gland", "lumen")
    weights.mkdir()
    torch.manual_seed(0)
    arguments = {**SMALL_UNET, "classes": 2}
    save_file(build_model("unet", arguments).state_dict(), weights / "net.safetensors")
    digest = file_sha256(weights / "net.safetensors")
    manifest = Manifest(
        competition="folder",
        preprocessing=Preprocessing(whole_size=128),
        classes=names,
        members=(Member(file="net.safetensors", sha256=digest, architecture="unet", arguments=arguments),),
        thresholds={"default": 0.5, "class:lumen": 0.52},
        tile=64,
        halo=8,
    )
    (weights / "manifest.json").write_text(manifest_json(manifest))
    path = tmp_path / "data" / "images" / "a.tif"
    path.parent.mkdir(parents=True)
    tifffile.imwrite(path, image_HWC, photometric="rgb")
    predict_folder(weights, tmp_path / "data", tmp_path / "s.csv")
    rows = pd.read_csv(tmp_path / "s.csv", keep_default_na=False).set_index("class").iloc[:, -1]
    model = histofold.load(weights)
    masks_KHW, probs_KHW = model.predict(path), model.probabilities(path)
    assert masks_KHW.shape == probs_KHW.shape == (2, *SHAPE_HW)
    assert [histofold.encode_rle(mask_HW) for mask_HW in masks_KHW] == [rows[name] for name in names]
    np.testing.assert_array_equal(masks_KHW, probs_KHW >= np.float32([0.5, 0.52])[:, None, None])
    found = {each["properties"]["classification"]["name"] for each in model.polygons(path)["features"]}
    assert found == {name for name, mask_HW in zip(names, masks_KHW, strict=True) if mask_HW.any()}


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((3, 40, 50), np.uint8),
        np.zeros((40, 50, 3), np.int16),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros(7),
    ],
)
def test_arrays_that_are_no_image_are_refused(model, wrong):
    with pytest.raises(ValueError, match=r"no image: give \(H, W, 3\)"):
        model.predict(wrong)


def test_what_cannot_be_read_or_loaded_is_refused(model, tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        model.predict(tmp_path / "none.tif")
    with pytest.raises(ValueError, match="pixel_size_um=0 must be positive"):
        model.predict(np.zeros((9, 9, 3), np.uint8), pixel_size_um=0)
    with pytest.raises(ValueError, match="0 to 1"):
        model.predict(np.full((40, 40, 3), 255.0))
    with pytest.raises(InputError, match="no such file or folder"):
        histofold.load(tmp_path / "none")


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, histofold; heavy = {'torch', 'numpy', 'numba', 'cv2', 'pandas'} & set(sys.modules); "
        "assert not heavy, heavy; assert {'load', 'dice', 'Model'} <= set(dir(histofold)); "
        "text = histofold.encode_rle([[0, 1], [1, 1]]); assert text == '2 3', text; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_are_those_of_their_modules():
    assert histofold.decode_rle("2 3", (2, 2)).tolist() == [[False, True], [True, True]]
    assert histofold.dice(np.ones((2, 3)), np.ones((2, 3))) == 1
    with pytest.raises(AttributeError, match="no 'lode': its public names are"):
        histofold.lode  # noqa: B018


def test_the_notebook_runs(small_package, tmp_path, image_HWC, project_root, monkeypatch):
    """Cell by cell, as a reader would, with weights that know nothing."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    shutil.copytree(small_package, tmp_path / "weights")
    tifffile.imwrite(tmp_path / "slide.tif", image_HWC, photometric="rgb")
    fold = tmp_path / "runs" / "E" / "fold0"
    small_record(fold, 0)
    network = build_model(BASE.model.architecture, BASE.model.arguments()).eval()
    save_network(network, fold)
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((project_root / "docs" / "use_the_weights.ipynb").read_text(encoding="utf-8"))
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "kept without outputs: they would be of somebody's machine"
            exec("".join(cell["source"]), names)
    plt.close("all")
    assert names["mask"].shape == names["probabilities"].shape == SHAPE_HW
    with torch.inference_mode():
        pixels_NCHW = torch.from_numpy(names["pixels"]).float().permute(2, 0, 1)[None]
        assert torch.equal(names["logits"], network(pixels_NCHW))
