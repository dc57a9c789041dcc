"""Training tiles that show a tile of a slide with its surroundings."""

import json

import cv2
import numpy as np
import pytest

from histofold.competitions.registry import get_competition
from histofold.competitions.vasculature_2023 import Vasculature2023
from histofold.core.faults import InputError
from histofold.data.build import build_dataset
from histofold.data.tiles.labels import IGNORED_LABEL
from histofold.schema.dataset import TilesConfig
from histofold.schema.experiment import Experiment
from histofold.schema.preprocessing import Preprocessing
from small_datasets import draw, make_folder
from small_vessels import box, vessel

SIDE, CONTEXT = 64, 32


@pytest.fixture
def folder(tmp_path):
    """Two tiles side by side, a vessel across the line between them; and one far away, in another strip."""
    slide_HWC = np.random.default_rng(0).integers(0, 160, (SIDE, 3 * SIDE, 3), np.uint8)
    root = tmp_path / "raw"
    (root / "train").mkdir(parents=True)
    places = {"a": (0, 0), "b": (SIDE, 0), "c": (9000, 0)}
    for key, x in (("a", 0), ("b", SIDE), ("c", 2 * SIDE)):
        cv2.imwrite(str(root / "train" / f"{key}.tif"), slide_HWC[:, x : x + SIDE])
    rows = [f"{key},1,1,{x},{y}\n" for key, (x, y) in places.items()]
    (root / "tile_meta.csv").write_text("id,source_wsi,dataset,i,j\n" + "".join(rows))
    polygons = {
        "a": [vessel(box(49, 19, SIDE - 1, 39)), vessel(box(9, 9, 19, 19))],
        "b": [vessel(box(0, 19, 9, 39)), vessel(box(19, 4, 29, 10), kind="unsure")],
        "c": [vessel(box(9, 9, 19, 19))],
    }
    lines = [json.dumps({"id": key, "annotations": notes}) for key, notes in polygons.items()]
    (root / "polygons.jsonl").write_text("\n".join(lines))
    return root, slide_HWC


def experiment(**preprocessing):
    spec = Preprocessing(target_pixel_size_um=0.5, context_px=CONTEXT, **preprocessing)
    return Experiment(preprocessing=spec, tiles=TilesConfig(size=SIDE + 2 * CONTEXT, stride=64, folds=2, min_tissue=0))


def test_tiles_hold_the_pixels_and_objects_of_neighbours(folder, tmp_path):
    root, slide_HWC = folder
    out = tmp_path / "dataset"
    built = build_dataset(root, Vasculature2023(), experiment(), out, None, 1)
    tiles = dict(zip(built.index["id"], built.index["tile_id"], strict=True))
    assert sorted(tiles) == ["a", "b", "c"]
    image_HWC = cv2.imread(str(out / "images" / f"{tiles['a']}.bmp"))
    np.testing.assert_array_equal(image_HWC[CONTEXT:-CONTEXT, CONTEXT:], slide_HWC[:, : SIDE + CONTEXT])
    labels_HW = cv2.imread(str(out / "masks" / f"{tiles['a']}.png"), cv2.IMREAD_UNCHANGED)
    assert (labels_HW[:CONTEXT] == IGNORED_LABEL).all()
    own_HW = labels_HW[CONTEXT:-CONTEXT, CONTEXT:]
    numbers = np.unique(own_HW[own_HW != IGNORED_LABEL])
    assert len(numbers) == 3  # background, the vessel alone, and the one of both tiles
    crossing = own_HW[30, SIDE]
    ys, xs = np.nonzero(own_HW == crossing)
    assert (ys.min(), ys.max() + 1, xs.min(), xs.max() + 1) == (20, 40, 50, SIDE + 10)
    assert (own_HW[5:11, SIDE + 20 : SIDE + 30] == IGNORED_LABEL).all()


def test_masks_have_no_surroundings(tmp_path):
    make_folder(tmp_path / "raw", {name: draw(seed) for seed, name in enumerate("abc")})
    with pytest.raises(InputError, match="context_px"):
        build_dataset(tmp_path / "raw", get_competition("folder"), experiment(), tmp_path / "dataset", None, 1)
