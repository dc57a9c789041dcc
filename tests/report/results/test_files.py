"""Files of images beside their rows: what they hold, and what becomes of them where runs end early or images break."""

import json
import os

import cv2
import geojson
import numpy as np
import pytest
import shapely
import tifffile
import torch
from safetensors.torch import save_file

from histofold.commands.main import main
from histofold.competitions.registry import get_competition
from histofold.competitions.truth.outlines.files import draw_outlines, read_outline_file
from histofold.core.rle.runs import decode_rle, runs_to_text
from histofold.models.build import build_model
from histofold.predict.submission.predictor import SubmissionPredictor
from histofold.report.results import files
from histofold.schema.experiment import ModelConfig
from histofold.schema.manifest import Manifest, Member, file_sha256, manifest_json
from histofold.schema.preprocessing import Preprocessing
from small_datasets import SMALL_UNET

CLASSES = ("gland", "lumen")
SHAPES = {"a": (150, 97), "case/a": (90, 120)}
PIXEL_UM = 0.5
KINDS = ("masks", "geojson", "probabilities", "overlays")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A random network of two classes, cut where about half of the pixels are of each."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    arguments = ModelConfig(**SMALL_UNET, classes=2).arguments()
    save_file(build_model("unet", arguments).state_dict(), folder / "net.safetensors")
    member = Member(
        file="net.safetensors",
        sha256=file_sha256(folder / "net.safetensors"),
        architecture="unet",
        arguments=arguments,
    )
    manifest = Manifest(
        competition="folder",
        preprocessing=Preprocessing(scale_mode="whole", whole_size=96),
        classes=CLASSES,
        members=(member,),
        thresholds={"default": 0.5, "class:gland": 0.47, "class:lumen": 0.52},
        tile=96,
        halo=8,
    )
    (folder / "manifest.json").write_text(manifest_json(manifest))
    return folder


@pytest.fixture
def data(tmp_path):
    """Two images of one name, one of them in a folder of its own: their ids are paths."""
    rng = np.random.default_rng(0)
    rows = ["id,pixel_size"]
    for key, shape_hw in SHAPES.items():
        path = tmp_path / "new" / "images" / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (*shape_hw, 3), np.uint8))
        rows.append(f"{key},{PIXEL_UM}")
    (tmp_path / "new" / "images.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "new"


def arguments(weights, data, out, *kinds):
    asked = [word for kind in kinds for word in (f"--{kind}", str(out.parent / kind))]
    return ["predict", "--weights", str(weights), "--data", str(data), "--out", str(out), *asked]


def rows_of(out):
    """For each id and class its mask's text."""
    return {tuple(line.split(",")[:2]): line.split(",")[2] for line in out.read_text().splitlines()[1:]}


def test_all_kinds_say_what_the_rows_say(weights, data, tmp_path):
    out = tmp_path / "s.csv"
    assert main(arguments(weights, data, tmp_path / "plain.csv")) == 0
    assert main(arguments(weights, data, out, *KINDS)) == 0
    assert out.read_bytes() == (tmp_path / "plain.csv").read_bytes(), "the rows are those of a run without files"
    for key, shape_hw in SHAPES.items():
        name = key.replace("/", "%2F")
        first_HW, second_HW = (decode_rle(rows_of(out)[key, of_class], shape_hw) for of_class in CLASSES)
        assert 0 < first_HW.mean() < 1
        labels_HW = cv2.imread(str(tmp_path / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(labels_HW, np.where(second_HW, 2, first_HW))
        probs_KHW = tifffile.imread(tmp_path / "probabilities" / f"{name}.ome.tif") / 255
        assert (probs_KHW[0][first_HW] >= 0.47 - 0.5 / 255).all()
        check_outlines(tmp_path / "geojson" / f"{name}.geojson", (first_HW, second_HW), probs_KHW)
        overlay_HWC = cv2.imread(str(tmp_path / "overlays" / f"{name}.png"))
        assert overlay_HWC.shape[1] > overlay_HWC.shape[0], "a picture for each class, beside each other"


def check_outlines(path, masks, probs_KHW):
    """The outlines of a file as two other libraries see them, and as they are read again as truth."""
    collection = geojson.loads(path.read_text())
    assert collection.is_valid, collection.errors()
    outlines, said_hw = read_outline_file(path)
    assert said_hw is None
    for name, mask_HW, probs_HW in zip(CLASSES, masks, probs_KHW, strict=True):
        features = [each for each in collection["features"] if each["properties"]["classification"]["name"] == name]
        for feature in features:
            assert feature["properties"]["objectType"] == "annotation"
            polygon, measured = shapely.geometry.shape(feature["geometry"]), feature["properties"]["measurements"]
            assert polygon.is_valid
            assert (measured["area_px"], measured["area_um2"]) == (polygon.area, polygon.area * PIXEL_UM**2)
        own = [each for each in outlines if each.label == name]
        np.testing.assert_array_equal(draw_outlines(own, mask_HW.shape).to_mask(), mask_HW)
        total = sum(each["properties"]["measurements"]["probability"] * shape_area(each) for each in features)
        assert total / mask_HW.sum() == pytest.approx(probs_HW[mask_HW].mean(), abs=0.003)


def shape_area(feature):
    return feature["properties"]["measurements"]["area_px"]


def test_a_broken_image_has_no_files_and_none_that_can_be_read_is_a_fault(weights, data, tmp_path, capsys):
    out = tmp_path / "s.csv"
    assert main(arguments(weights, data, out, "masks")) == 0
    (data / "images" / "a.png").write_bytes(b"no image")
    assert main(arguments(weights, data, out, "masks")) == 0
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["case%2Fa.png"], "that of other pixels is gone"
    (data / "images" / "case" / "a.png").write_bytes(b"no image")
    assert main(arguments(weights, data, out, "masks")) == 2
    assert "none of its 2 images can be read" in capsys.readouterr().err
    assert not list((tmp_path / "masks").iterdir())


def test_rows_are_taken_over_and_files_that_are_missing_made_again(weights, data, tmp_path, monkeypatch):
    out, made = tmp_path / "s.csv", []
    original = SubmissionPredictor.row

    def stopped_at(stop):
        def row(self, sample, own, later):
            if sample.id == stop:
                raise SystemExit(137)
            made.append(sample.id)
            return original(self, sample, own, later)

        return row

    def run(stop, *kinds):
        made.clear()
        with monkeypatch.context() as patch:
            patch.setattr(SubmissionPredictor, "row", stopped_at(stop))
            return main(arguments(weights, data, out, *kinds)), list(made)

    stop, mask = "case/a", tmp_path / "masks" / "a.png"
    assert run(stop, "masks") == (137, ["a"])
    assert run(stop, "masks") == (137, []), "its row and its mask are taken over"
    before = mask.read_bytes()
    mask.unlink()
    assert run(stop, "masks") == (137, ["a"])
    assert run(stop, "masks", "geojson") == (137, ["a"]), "its outlines were not made"
    assert run(stop, "masks", "geojson") == (137, [])
    assert run("", "masks", "geojson") == (0, ["case/a"])
    assert mask.read_bytes() == before
    assert len(list((tmp_path / "geojson").iterdir())) == 2


def test_a_shard_whose_files_are_missing_is_not_finished(weights, data, tmp_path, capsys):
    shard = ["--num-shards", "1", "--shard-id", "0"]
    out = tmp_path / "s.csv"
    assert main([*arguments(weights, data, out), *shard]) == 0
    assert main([*arguments(weights, data, out, "masks"), *shard]) == 0
    assert "is finished" not in capsys.readouterr().out
    assert len(list((tmp_path / "masks").iterdir())) == 2
    assert main([*arguments(weights, data, out, "masks"), *shard]) == 0
    assert "is finished" in capsys.readouterr().out


def test_what_cannot_be_written_costs_no_row(weights, data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "s.csv"

    def full(path, masks):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_mask", full)
        assert main(arguments(weights, data, out, "masks", "probabilities")) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert all(rows_of(out).values()), "the rows stand"
    assert not list((tmp_path / "probabilities").iterdir()), "all files of an image or none"
    assert main(arguments(weights, data, out, "masks", "probabilities")) == 0


def test_folders_that_cannot_be_meant_are_refused(weights, data, tmp_path, capsys):
    out = tmp_path / "s.csv"
    command = arguments(weights, data, out)
    assert main([*command, "--masks", str(data / "images")]) == 2
    assert "the images that are predicted lie there" in capsys.readouterr().err
    truth = data / "masks" / "a.png"
    truth.parent.mkdir()
    truth.write_bytes(b"drawn by hand")
    assert main([*command, "--masks", str(truth.parent)]) == 2
    assert "no run of this submission has written it" in capsys.readouterr().err
    assert truth.read_bytes() == b"drawn by hand"
    truth.unlink()
    for _ in range(2):
        assert main([*command, "--masks", str(truth.parent)]) == 0, "its own files may be written again"
    assert main([*command, "--masks", str(tmp_path / "x"), "--overlays", f"{tmp_path}{os.sep}x"]) == 2
    assert "give each its own" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([*command, "--masks", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err
    assert json.loads((weights / "manifest.json").read_text())["classes"] == list(CLASSES)


def test_outlines_of_a_prediction_are_truth_of_a_folder(weights, tmp_path):
    images = tmp_path / "own" / "images"
    images.mkdir(parents=True)
    cv2.imwrite(str(images / "p.png"), np.random.default_rng(1).integers(0, 256, (70, 91, 3), np.uint8))
    out = tmp_path / "s.csv"
    assert main([*arguments(weights, tmp_path / "own", out), "--geojson", str(tmp_path / "own" / "annotations")]) == 0
    folder = get_competition("folder")
    (sample,) = folder.samples(tmp_path / "own", "train")
    assert folder.classes == CLASSES
    rows = rows_of(out)
    assert [runs_to_text(runs) for runs in folder.target(sample)] == [rows["p", name] for name in CLASSES]
