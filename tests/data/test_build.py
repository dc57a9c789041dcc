"""From a folder to its tiles: what the folder's settings say of masks reaches them."""

import cv2
import numpy as np
import pandas as pd
import pytest

from histofold.competitions.folder import Folder
from histofold.core.faults import InputError
from histofold.data import build
from histofold.data.build import build_dataset
from histofold.data.check import check_folder
from histofold.data.explore.folder import Exploration
from histofold.data.tiles.files import read_tile
from histofold.data.tiles.masks import IGNORED_BIT
from histofold.schema.dataset import TilesConfig
from histofold.schema.experiment import Experiment
from histofold.schema.preprocessing import Preprocessing
from small_datasets import draw, make_folder

SHAPE = (60, 90)


def test_void_of_folder_toml_is_ignored_in_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "explore_folder", lambda competition, samples: Exploration())
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    values_HW = np.zeros(SHAPE, np.uint8)
    values_HW[10:40, 20:50] = 1
    values_HW[30:55, 40:80] = 255
    for key in "abcd":
        image_HWC = cv2.resize(rng.integers(60, 180, (9, 9, 3), np.uint8), SHAPE[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "raw" / "images" / f"{key}.png"), image_HWC)
        cv2.imwrite(str(tmp_path / "raw" / "masks" / f"{key}.png"), values_HW)
    (tmp_path / "raw" / "folder.toml").write_text("ignore_value = 255\n")
    (tmp_path / "raw" / "images.csv").write_text("id,pixel_size\n" + "".join(f"{key},1\n" for key in "abcd"))
    experiment = Experiment(
        preprocessing=Preprocessing(target_pixel_size_um=1.0), tiles=TilesConfig(size=32, stride=32, folds=2)
    )
    build_dataset(tmp_path / "raw", Folder(), experiment, tmp_path / "out", None, 1)
    index = pd.read_csv(tmp_path / "out" / "index.csv")
    assert len(index) > 4
    for row in index.to_dict("records"):
        bits_HW = read_tile(tmp_path / "out", row["tile_id"])[1]
        wanted_HW = values_HW[row["y"] : row["y"] + 32, row["x"] : row["x"] + 32]
        np.testing.assert_array_equal(bits_HW, np.where(wanted_HW == 255, IGNORED_BIT, wanted_HW))


def test_a_folder_without_a_single_label_is_refused(tmp_path):
    root = make_folder(
        tmp_path / "raw", {key: (draw(place)[0], np.zeros((52, 64))) for place, key in enumerate("abcde")}
    )
    (fault,) = check_folder(root).faults
    assert fault.rule.startswith("not one pixel of any image is labelled")
    with pytest.raises(InputError, match="not one pixel of any image is labelled"):
        build_dataset(root, Folder(), Experiment(), tmp_path / "out", None, 1)
    assert not (tmp_path / "out").exists()
