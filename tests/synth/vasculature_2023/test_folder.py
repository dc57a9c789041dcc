"""The synthetic folder of 2023: tiles that fit together, three datasets, and a truth that lies elsewhere."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile

from histofold.competitions.polygons import TilePolygon
from histofold.synth.drawing.canvas import blob_outline, paint
from histofold.synth.files import SPOILT, SynthKey
from histofold.synth.vasculature_2023.folder import make_vasculature_2023, tile_shapes

pytestmark = pytest.mark.slow

SIDE = 128


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def lines_of(root: Path) -> dict[str, list[dict]]:
    lines = map(json.loads, (root / "polygons.jsonl").read_text().splitlines())
    return {line["id"]: line["annotations"] for line in lines}


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SynthKey:
    root = tmp_path_factory.mktemp("vessels") / "competition"
    return make_vasculature_2023(root, num_train=20, num_test=5, seed=1, max_side=SIDE, progress=False)


def test_tables_and_files_agree(key):
    tiles = rows_of(key.root / "tile_meta.csv")
    assert tuple(tile["id"] for tile in tiles) == key.train_ids
    assert {path.stem for path in (key.root / "train").iterdir()} == set(key.train_ids)
    assert {path.stem for path in (key.root / "test").iterdir()} == set(key.test_ids)
    assert [row["id"] for row in rows_of(key.root / "sample_submission.csv")] == list(key.test_ids)
    assert Counter(tile["dataset"] for tile in tiles) == {"1": 8, "2": 8, "3": 4}
    labelled = {tile["id"] for tile in tiles if tile["dataset"] != "3"}
    assert lines_of(key.root).keys() == labelled
    assert "5" not in {tile["source_wsi"] for tile in tiles}, "the hidden tiles' slide"
    page = tifffile.TiffFile(key.root / "train" / f"{key.train_ids[0]}.tif").pages[0]
    assert (page.compression, page.shape) == (5, (SIDE, SIDE, 3)), "LZW, as the host's"


def test_neighbours_fit(key):
    tiles = {
        (tile["source_wsi"], int(tile["i"]), int(tile["j"])): tile["id"] for tile in rows_of(key.root / "tile_meta.csv")
    }
    jumps, checked = [], 0
    for (wsi, i, j), name in tiles.items():
        right = tiles.get((wsi, i + SIDE, j))
        if right is None:
            continue
        left_HWC, right_HWC = (
            tifffile.imread(key.root / "train" / f"{each}.tif").astype(float) for each in (name, right)
        )
        across, within = (
            np.abs(one - other).mean()
            for one, other in ((left_HWC[:, -1], right_HWC[:, 0]), (left_HWC[:, -2], left_HWC[:, -1]))
        )
        jumps.append(across / within)
        checked += 1
    assert checked >= 2
    assert max(jumps) < 1.8, "no seam between a tile and the one to its right"


def test_rings_are_closed_and_lie_within_the_tile(key):
    shapes = [shape for annotations in lines_of(key.root).values() for shape in annotations]
    assert {shape["type"] for shape in shapes} <= {"blood_vessel", "glomerulus", "unsure"}
    assert sum(shape["type"] == "blood_vessel" for shape in shapes) >= 10
    for shape in shapes:
        (ring,) = shape["coordinates"]
        assert ring[0] == ring[-1]
        assert len(ring) > 3
        assert np.min(ring) >= 0
        assert np.max(ring) < SIDE


def test_the_truth_is_a_folder_of_the_same_layout_outside(key):
    assert not key.truth_path.is_relative_to(key.root)
    assert lines_of(key.truth_path).keys() == set(key.test_ids)
    for name in key.test_ids:
        hidden = key.root / "test" / f"{name}.tif"
        assert hidden.read_bytes() == (key.truth_path / "train" / f"{name}.tif").read_bytes()
    with pytest.raises(ValueError, match="lies inside"):
        make_vasculature_2023(key.root, truth_path=key.root / "truth")


def test_same_seed_same_bytes_another_seed_others(tmp_path):
    options = {"num_train": 5, "num_test": 1, "max_side": 64, "progress": False}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_vasculature_2023(tmp_path / name, seed=seed, **options)
    files = {name: files_below(tmp_path / name) for name in ("a", "b", "c", "a_truth", "b_truth")}
    assert files["a"] == files["b"]
    assert files["a_truth"] == files["b_truth"]
    assert files["a"] != files["c"]


def test_faults_are_planted_in_the_hidden_tiles_alone(tmp_path):
    options = {"num_train": 5, "num_test": 5, "max_side": 64, "progress": False, "hidden_meta": True}
    key = make_vasculature_2023(tmp_path / "c", test_faults=SPOILT, **options)
    by_kind = {fault.kind: name for name, (fault,) in key.planted.items()}
    assert set(by_kind) == set(SPOILT)
    folder = tmp_path / "c" / "test"
    assert not (folder / f"{by_kind['missing']}.tif").exists()
    assert tifffile.imread(folder / f"{by_kind['one_pixel']}.tif").shape[:2] == (1, 1)
    assert tifffile.imread(folder / f"{by_kind['grey']}.tif").shape == (64, 64)
    whole = (key.truth_path / "train" / f"{by_kind['truncated']}.tif").read_bytes()
    assert whole.startswith((folder / f"{by_kind['truncated']}.tif").read_bytes())
    assert len(rows_of(key.root / "tile_meta.csv")) == 10, "the hidden tiles' places are asked for"
    with pytest.raises(ValueError, match="test_faults"):
        make_vasculature_2023(tmp_path / "d", test_faults=("melted",), **options)


def test_a_vessel_over_the_tiles_edge_is_cut_and_some_are_doubled_or_left_out():
    square = np.array([[-5, 10], [-5, 20], [8, 20], [8, 10]])
    lumen, far = np.array([[0, 12], [0, 18], [6, 18], [6, 12]]), np.array([[90, 90], [90, 99], [99, 99]])
    outlines = {"blood_vessel": [square, far], "vessel_lumen": [lumen, far], "glomerulus": [], "unsure": []}
    rng = np.random.default_rng(0)
    many = [tile_shapes(outlines, (0, 0), 64, sparse=False, rng=rng) for _ in range(300)]
    assert {tuple(map(max, zip(*shapes[0]["coordinates"][0], strict=True))) for shapes in many} == {(20, 8)}
    counts = Counter(len(shapes) for shapes in many)
    assert set(counts) == {1, 2}
    assert counts[2] < 30
    sparse = [tile_shapes(outlines, (0, 0), 64, sparse=True, rng=rng) for _ in range(300)]
    assert 90 < sum(not shapes for shapes in sparse) < 150
    assert all(max(y for _, y in shapes[0]["coordinates"][0]) == 6 for shapes in sparse if shapes)


def test_outlines_are_written_as_the_host_does_so_that_the_adapter_draws_them_back():
    rng = np.random.default_rng(1)
    for _ in range(20):
        outline = blob_outline(rng, tuple(rng.uniform(20, 50, 2)), rng.uniform(4, 14), stretch=rng.uniform(1, 2))
        outlines = {"blood_vessel": [outline], "vessel_lumen": [], "glomerulus": [], "unsure": []}
        (shape, *_) = tile_shapes(outlines, (0, 0), 72, sparse=False, rng=rng)
        (ring,) = shape["coordinates"]
        drawn = TilePolygon("blood_vessel", (np.array(ring[:-1], np.float32),)).draw((72, 72)).to_mask()
        wanted = np.zeros((72, 72), np.uint8)
        paint(wanted, outline, 1)
        assert (drawn == (wanted > 0))[1:, 1:].all(), "the host's rule loses a tile's first row and column"
