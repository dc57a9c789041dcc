"""Masks of several classes: as bits in the store, in the index, in the loader, and from a plain folder."""

import dataclasses
import json

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile

from hard_masks import resample_mask
from histofold.competitions.folder import Folder
from histofold.core.faults import InputError
from histofold.core.rle.runs import runs_from_mask
from histofold.data.build import build_dataset
from histofold.data.store import complete_preprocessing, load_dataset
from histofold.data.tiles.cut import TileJob, cut_slides
from histofold.data.tiles.files import read_tile, write_tile
from histofold.data.tiles.masks import (
    check_class_count,
    class_fractions,
    class_runs,
    masked_fraction,
    target_bits,
)
from histofold.schema.dataset import TilesConfig
from histofold.schema.experiment import Experiment
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample

SHAPE = (61, 93)


def unpack_bits(bits_HW, classes):
    """One plane a class, uint8 (K, H, W) of 0 and 1."""
    return np.stack([(bits_HW >> number) & 1 for number in range(classes)])


def masks_of(classes, seed=0):
    """Overlapping masks, the first one with its corners set, the last one empty where there are several."""
    masks_KHW = np.random.default_rng(seed).random((classes, *SHAPE)) < 0.3
    masks_KHW[0, 0, 0] = masks_KHW[0, -1, -1] = True
    if classes > 1:
        masks_KHW[-1] = False
    return masks_KHW


@pytest.mark.parametrize("classes", [1, 2, 3, 8])
def test_bits_go_to_a_tile_file_and_back_to_planes(tmp_path, classes):
    masks_KHW = masks_of(classes)
    target = tuple(map(runs_from_mask, masks_KHW)) if classes > 1 else runs_from_mask(masks_KHW[0])
    bits_HW = target_bits(target, SHAPE, slice(0, SHAPE[0]), slice(0, SHAPE[1]))
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    image_HWC = np.random.default_rng(1).integers(0, 256, (*SHAPE, 3), np.uint8)
    write_tile(tmp_path, "t", image_HWC, bits_HW, classes)
    stored_HWC, stored_HW = read_tile(tmp_path, "t", classes)
    np.testing.assert_array_equal(stored_HWC, image_HWC)
    np.testing.assert_array_equal(unpack_bits(stored_HW, classes), masks_KHW)
    assert class_fractions(bits_HW, classes) == pytest.approx(masks_KHW.mean(axis=(1, 2)))
    assert masked_fraction(target) == pytest.approx(masks_KHW.any(axis=0).mean())
    assert len(class_runs(target)) == classes


def test_each_class_is_resampled_as_if_it_were_alone():
    masks_KHW = masks_of(3)
    scaled_hw = (25, 40)
    bits_HW = target_bits(tuple(map(runs_from_mask, masks_KHW)), scaled_hw, slice(5, 25), slice(0, 33))
    expected = np.array([resample_mask(mask_HW, scaled_hw)[5:25, :33] for mask_HW in masks_KHW])
    np.testing.assert_array_equal(unpack_bits(bits_HW, 3), expected)


@pytest.mark.parametrize("seed", range(5))
def test_the_masked_fraction_of_overlapping_classes_is_that_of_their_union(seed):
    masks_KHW = masks_of(4, seed)
    masks_KHW[1] |= masks_KHW[0]
    assert masked_fraction(tuple(map(runs_from_mask, masks_KHW))) == pytest.approx(masks_KHW.any(axis=0).mean())
    assert masked_fraction(tuple(runs_from_mask(np.zeros(SHAPE)) for _ in range(2))) == 0
    with pytest.raises(ValueError, match="order"):
        masked_fraction((runs_from_mask(masks_KHW[0], "F"), runs_from_mask(masks_KHW[1], "C")))


def test_more_classes_than_bits_are_refused_in_words():
    check_class_count([str(number) for number in range(7)], "here")
    with pytest.raises(InputError, match="8 mask classes") as caught:
        check_class_count([str(number) for number in range(8)], "here")
    assert "join" in caught.value.faults[0].remedy


def test_tiles_of_several_classes(tmp_path):
    masks_KHW = masks_of(3)
    tifffile.imwrite(tmp_path / "s.tif", np.full((*SHAPE, 3), 120, np.uint8))
    job = TileJob(
        sample=Sample(id="s", image_path=tmp_path / "s.tif", pixel_size_um=1.0),
        target=tuple(map(runs_from_mask, masks_KHW)),
        fold=0,
        preprocessing=Preprocessing(target_pixel_size_um=1.0),
        tiles=TilesConfig(size=32, stride=30),
        out=tmp_path / "out",
        classes=("gland", "lumen", "none"),
    )
    index = cut_slides([job], 1).index
    assert index.columns.tolist()[-4:] == ["organ", "fraction_gland", "fraction_lumen", "fraction_none"]
    assert len(index) == 2 * 4
    for row in index.to_dict("records"):
        tile_KHW = unpack_bits(read_tile(tmp_path / "out", row["tile_id"], 3)[1], 3)
        np.testing.assert_array_equal(tile_KHW, masks_KHW[:, row["y"] : row["y"] + 32, row["x"] : row["x"] + 32])
        own = [row[f"fraction_{name}"] for name in job.classes]
        assert own == pytest.approx(tile_KHW.mean(axis=(1, 2)), abs=1e-6)
        assert row["mask_fraction"] == pytest.approx(tile_KHW.any(axis=0).mean(), abs=1e-6)
    one = dataclasses.replace(job, target=job.target[0], classes=("gland",), out=tmp_path / "one")
    assert not [name for name in cut_slides([one], 1)[0].columns if name.startswith("fraction")]


@pytest.fixture
def root(tmp_path):
    """Four images and no masks yet."""
    (tmp_path / "images").mkdir()
    for name in "abcd":
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.full((*SHAPE, 3), 150, np.uint8))
    return tmp_path


def write_class_folders(root, masks_KHW, names):
    for mask_HW, name in zip(masks_KHW, names, strict=True):
        (root / "masks" / name).mkdir(parents=True)
        for image in "abcd":
            cv2.imwrite(str(root / "masks" / name / f"{image}.png"), mask_HW.astype(np.uint8) * 255)


def write_labels(root, labels_HW, names, suffix="png"):
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("\n".join(names) + "\n\n")
    for image in "abcd":
        if suffix == "png":
            cv2.imwrite(str(root / "masks" / f"{image}.png"), labels_HW)
        else:
            tifffile.imwrite(root / "masks" / f"{image}.tif", labels_HW)


def test_folders_of_masks_are_classes_and_may_overlap(root):
    masks_KHW = masks_of(3)
    write_class_folders(root, masks_KHW, ("a_gland", "b_lumen", "c_none"))
    (root / "masks" / ".hidden").mkdir()
    (root / "masks" / "empty").mkdir()
    folder = Folder()
    samples = folder.samples(root, "train")
    assert folder.classes == ("a_gland", "b_lumen", "c_none")
    for sample in samples:
        for runs, mask_HW in zip(folder.target(sample), masks_KHW, strict=True):
            np.testing.assert_array_equal(runs.to_mask(), mask_HW)
    (root / "classes.txt").write_text("c_none\na_gland\nb_lumen\n")
    folder.samples(root, "train")
    assert folder.classes == ("c_none", "a_gland", "b_lumen")
    np.testing.assert_array_equal(folder.target(samples[0])[1].to_mask(), masks_KHW[0])


def test_one_folder_of_masks_is_one_class_by_name(root):
    masks_KHW = masks_of(1)
    write_class_folders(root, masks_KHW, ("gland",))
    folder = Folder()
    samples = folder.samples(root, "train")
    assert folder.classes == ("gland",)
    np.testing.assert_array_equal(folder.target(samples[0]).to_mask(), masks_KHW[0])


@pytest.mark.parametrize(("suffix", "dtype"), [("png", np.uint8), ("tif", np.uint16), ("tif", np.float32)])
def test_labels_are_classes_where_classes_txt_names_them(root, suffix, dtype):
    labels_HW = np.random.default_rng(0).integers(0, 3, SHAPE).astype(dtype)
    write_labels(root, labels_HW, ("gland", "lumen"), suffix)
    folder = Folder()
    samples = folder.samples(root, "train")
    assert folder.classes == ("gland", "lumen")
    for number, runs in enumerate(folder.target(samples[2])):
        np.testing.assert_array_equal(runs.to_mask(), labels_HW == number + 1)
    (root / "classes.txt").unlink()
    np.testing.assert_array_equal(binary_target(root, samples[2]).to_mask(), labels_HW > 0)


def binary_target(root, sample):
    folder = Folder()
    folder.samples(root, "train")
    assert folder.classes == ("ftu",)
    return folder.target(sample)


@pytest.mark.parametrize("value", [3, 255, -1, 1.5, np.nan])
def test_labels_that_are_no_class_are_named(root, value):
    labels_HW = np.zeros(SHAPE, np.float32)
    labels_HW[4, 5] = value
    write_labels(root, labels_HW, ("gland", "lumen"), "tif")
    folder = Folder()
    with pytest.raises(InputError, match=r"there are 2 classes|holds NaN"):
        folder.target(folder.samples(root, "train")[0])


def test_a_colour_image_is_no_label_image(root):
    write_labels(root, np.zeros((*SHAPE, 3), np.uint8), ("gland", "lumen"), "tif")
    folder = Folder()
    with pytest.raises(InputError, match="colour image"):
        folder.target(folder.samples(root, "train")[0])


def faults_of(root):
    return [str(fault) for fault in Folder().inspect(root, "train")[1]]


def test_what_does_not_fit_together_is_named(root):
    write_class_folders(root, masks_of(2), ("gland", "lumen"))
    assert faults_of(root) == []
    (root / "masks" / "lumen" / "b.png").unlink()
    (fault,) = faults_of(root)
    assert "b.png has no mask" in fault
    assert "lumen" in fault
    (root / "classes.txt").write_text("gland\nnerve\n")
    assert "gland, nerve and folders gland, lumen differ" in faults_of(root)[0]
    (root / "classes.txt").write_text("gland\ngland\nlumen\n")
    assert "twice" in faults_of(root)[0]
    (root / "classes.txt").unlink()
    cv2.imwrite(str(root / "masks" / "a.png"), np.zeros(SHAPE, np.uint8))
    assert any("beside the folders" in fault for fault in faults_of(root))


def test_a_folder_of_classes_is_built_and_training_on_it_refused_in_words(root, tmp_path):
    masks_KHW = masks_of(2)
    write_class_folders(root, masks_KHW, ("gland", "lumen"))
    experiment = Experiment(
        preprocessing=Preprocessing(scale_mode="whole", whole_size=96), tiles=TilesConfig(folds=2, min_tissue=0.0)
    )
    out = tmp_path / "dataset"
    build_dataset(root, Folder(), experiment, out, None, 1)
    info, index, _ = load_dataset(out)
    assert info.classes == ("gland", "lumen")
    assert json.loads((out / "dataset.json").read_text())["classes"] == ["gland", "lumen"]
    written = pd.read_csv(out / "index.csv")
    assert (written["fraction_lumen"] == 0).all()
    assert (written["fraction_gland"] == written["mask_fraction"]).all()
    assert index["region"].tolist() == [""] * 4
    with pytest.raises(InputError, match=r"2 mask classes \(gland, lumen\)"):
        complete_preprocessing(experiment, info, out)
