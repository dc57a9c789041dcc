"""Tiles of all three axes of a volume, against the planes of whole arrays."""

import cv2
import numpy as np
import pandas as pd
import pytest

from histofold.competitions.registry import get_competition
from histofold.core.faults import InputError
from histofold.data.build import build_dataset
from histofold.data.planes import drawn_turn, tilted_plane
from histofold.data.tiles.files import read_tile, tile_paths
from histofold.imaging.slide import open_sample
from histofold.schema.augment import AugmentConfig
from histofold.schema.dataset import TilesConfig
from histofold.schema.experiment import Experiment
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.volumes import VOLUME_AXES
from small_datasets import make_folder

SHAPES = {"kidney_1_dense": (7, 40, 52), "kidney_2": (5, 36, 61)}


def experiment_of(axes, slices=3, tilt=0.0):
    """How volumes are cut here: every plane into tiles at its own size."""
    return Experiment(
        preprocessing=Preprocessing(target_pixel_size_um=50.0, slices=slices),
        tiles=TilesConfig(size=32, stride=32, min_tissue=0.0, folds=2, axes=axes, tilt=tilt),
        augment=AugmentConfig(preset="none"),
    )


@pytest.fixture
def raw(tmp_path):
    """Two kidneys of noise; their folder and the truth of each."""
    truth = {}
    for seed, (name, shape) in enumerate(SHAPES.items()):
        rng = np.random.default_rng(seed)
        truth[name] = rng.random(shape) < 0.2
        values_DHW = rng.integers(18_000, 37_000, shape).astype(np.uint16)
        for folder, stack in (("images", values_DHW), ("labels", truth[name].astype(np.uint8) * 255)):
            (tmp_path / "raw" / "train" / name / folder).mkdir(parents=True)
            for number, slice_HW in enumerate(stack):
                cv2.imwrite(str(tmp_path / "raw" / "train" / name / folder / f"{number:04d}.tif"), slice_HW)
    return tmp_path / "raw", truth


def grey_volume(root, name):
    """A volume in its grey levels, slice by slice as the adapter opens it."""
    samples = [s for s in get_competition("sennet_2024").samples(root, "train") if s.source == name]
    planes = []
    for sample in samples:
        with open_sample(sample) as slide:
            planes.append(slide.read_all()[:, :, 1])
    return np.stack(planes)


def test_tiles_across_the_slices_show_planes_of_the_volume_and_their_truth(raw, tmp_path):
    root, truth = raw
    out = tmp_path / "out"
    build_dataset(root, get_competition("sennet_2024"), experiment_of(VOLUME_AXES, slices=5), out, None, 1)
    index = pd.read_csv(out / "index.csv")
    folds = pd.read_csv(out / "folds.csv").set_index("id")["fold"]
    assert (index["fold"] == index["id"].map(folds)).all(), "a tile follows the slice that it is said to be of"
    for name, shape in SHAPES.items():
        grey_DHW = grey_volume(root, name)
        of_volume = index[index["source"] == name]
        for axis in (1, 2):
            planes, masks = (np.moveaxis(stack, axis, 0) for stack in (grey_DHW, truth[name]))
            cut = of_volume[of_volume["tile_id"].str.contains(VOLUME_AXES[axis])]
            assert len(cut) >= shape[axis] * 0.9
            for row in cut.to_dict("records"):
                number = int(row["tile_id"].split(VOLUME_AXES[axis])[1].split("_")[0])
                image_HWC, mask_HW = read_tile(out, row["tile_id"])
                region = (slice(row["y"], row["y"] + 32), slice(row["x"], row["x"] + 32))
                np.testing.assert_array_equal(mask_HW, masks[number][region])
                for channel, step in enumerate((-2, -1, 0, 1, 2)):
                    shown = planes[min(max(0, number + step), len(planes) - 1)]
                    np.testing.assert_array_equal(image_HWC[:, :, channel], shown[region])
    assert not list(out.glob(".volume-*")), "the turned volumes are gone"


def test_tiles_of_volumes_that_did_not_change_are_not_cut_again(raw, tmp_path):
    root, _ = raw
    out, competition = tmp_path / "out", get_competition("sennet_2024")
    build_dataset(root, competition, experiment_of(("xy", "zy")), out, None, 1)
    index = pd.read_csv(out / "index.csv")
    stamps = {name: tile_paths(out, name)[0].stat().st_mtime_ns for name in index["tile_id"]}
    build_dataset(root, competition, experiment_of(("xy", "zy")), out, None, 1)
    assert {name: tile_paths(out, name)[0].stat().st_mtime_ns for name in index["tile_id"]} == stamps
    fewer = build_dataset(root, competition, experiment_of(("xy",)), out, None, 1)
    assert set(fewer.index["tile_id"]) == {name for name in stamps if "_zy" not in name}


def test_tilted_planes_are_sampled_exactly_where_values_are_linear():
    z, y, x = np.indices((20, 30, 44))
    values_DHW = (4 * z + 2 * y + x).astype(np.uint8)
    np.testing.assert_array_equal(tilted_plane(values_DHW, 7, np.eye(3), 2), values_DHW[9])
    for seed in range(5):
        turn_33 = drawn_turn(np.random.default_rng(seed), 20)
        np.testing.assert_allclose(turn_33 @ turn_33.T, np.eye(3), atol=1e-12)
        assert turn_33[0, 0] >= np.cos(np.radians(20)), "the normal is tilted by no more than that"
        at_HW3 = np.stack(np.meshgrid(np.arange(30) - 14.5, np.arange(44) - 21.5, indexing="ij"), axis=-1)
        places_HW3 = np.array([10, 14.5, 21.5]) + turn_33[:, 0] + at_HW3 @ turn_33[:, 1:].T
        inside = ((places_HW3 >= 0) & (places_HW3 <= np.array([19, 29, 43]))).all(axis=-1)
        found_HW = tilted_plane(values_DHW, 10, turn_33, 1)
        assert 0.5 < inside.mean() <= 1
        np.testing.assert_allclose(found_HW[inside], (places_HW3 @ np.array([4, 2, 1]))[inside], atol=0.51)


def test_tiles_of_tilted_planes_show_image_and_truth_of_the_same_places(raw, tmp_path):
    root, _ = raw
    for name, (depth, height, width) in SHAPES.items():  # bright and labelled from the middle slice on
        for number in range(depth):
            is_vessel = np.full((height, width), number >= depth // 2)
            values_HW = np.where(is_vessel, 30_000, 20_000).astype(np.uint16)
            cv2.imwrite(str(root / "train" / name / "images" / f"{number:04d}.tif"), values_HW)
            cv2.imwrite(str(root / "train" / name / "labels" / f"{number:04d}.tif"), is_vessel.astype(np.uint8) * 255)
    build_dataset(root, get_competition("sennet_2024"), experiment_of(("xy",), tilt=15.0), tmp_path / "out", None, 1)
    index = pd.read_csv(tmp_path / "out" / "index.csv")
    tilted = index[index["tile_id"].str.contains("tilted")]
    assert len(tilted) > 10
    bounded = 0
    for name in tilted["tile_id"]:
        image_HWC, mask_HW = read_tile(tmp_path / "out", name)
        unsure = np.abs(image_HWC[:, :, 1].astype(int) - 127) < 3  # half way, and outside the volume it is black
        np.testing.assert_array_equal((mask_HW > 0)[~unsure], (image_HWC[:, :, 1] > 127)[~unsure])
        bounded += 0 < (mask_HW > 0).mean() < 1
    assert bounded > 5, "a tilted plane passes from dark to bright"


def test_axes_are_those_of_volumes_and_slices_are_among_them(tmp_path):
    with pytest.raises(ValueError, match="xy must be among them"):
        TilesConfig(axes=("xz",))
    with pytest.raises(ValueError, match="name at least one of xy, xz, zy"):
        TilesConfig(axes=("xy", "yx"))
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    pictures = {key: (picture + place, picture[..., 0] > 99) for place, key in enumerate("ab")}
    root = make_folder(tmp_path / "raw", pictures)
    with pytest.raises(InputError, match="slices are those of a volume") as caught:
        build_dataset(root, get_competition("folder"), experiment_of(VOLUME_AXES, 5, 10.0), tmp_path / "out", None, 1)
    assert {fault.id for fault in caught.value.faults} == {"preprocessing.slices", "tiles.axes", "tiles.tilt"}
