import dataclasses
import json
import pickle
import signal
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile

from hard_masks import resample_mask
from histofold.core.faults import InputError
from histofold.core.rle.runs import runs_from_mask
from histofold.data.tiles.cut import TileJob, bin_of, cut_slide, cut_slides, mean_saturation
from histofold.data.tiles.files import has_tile, read_tile, tile_paths
from histofold.data.tiles.masks import IGNORED_BIT
from histofold.data.tiles.plan import training_grid
from histofold.schema.dataset import TilesConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample


@pytest.fixture
def job(tmp_path):
    """A slide of 200 x 333 pixels, pink on the left and blank on the right, with a mask in the pink."""
    image_HWC = np.full((200, 333, 3), 255, np.uint8)
    image_HWC[:, :180] = (190, 110, 160)
    image_HWC[:, :180, 0] += np.random.default_rng(0).integers(0, 30, (200, 180), np.uint8)
    mask_HW = np.zeros((200, 333), bool)
    mask_HW[50:120, 20:90] = mask_HW[0, 0] = True
    tifffile.imwrite(tmp_path / "s.tiff", image_HWC)
    for name in ("images", "masks", "parts"):
        (tmp_path / "out" / name).mkdir(parents=True)
    return TileJob(
        sample=Sample(id="s", image_path=tmp_path / "s.tiff", organ="lung", source="HPA", pixel_size_um=0.5),
        target=runs_from_mask(mask_HW),
        fold=3,
        preprocessing=Preprocessing(target_pixel_size_um=1.0),
        tiles=TilesConfig(size=32, stride=32),
        out=tmp_path / "out",
    )


def test_tiles_are_slices_of_the_scaled_slide_and_mask(job):
    cut = cut_slide(job)
    scaled_HW = resample_mask(job.target.to_mask(), (100, 166))
    for row in cut.rows:
        mask_HW = cv2.imread(str(job.out / "masks" / f"{row['tile_id']}.png"), cv2.IMREAD_GRAYSCALE) > 0
        np.testing.assert_array_equal(mask_HW, scaled_HW[row["y"] : row["y"] + 32, row["x"] : row["x"] + 32])
        assert row["mask_fraction"] == pytest.approx(mask_HW.mean(), abs=1e-6)
        assert row["scale"] == 0.5
        assert (row["fold"], row["organ"], row["source"], row["size"]) == (3, "lung", "HPA", 32)


def test_a_slide_shorter_than_a_tile_is_stored_as_it_is(job):
    (row,) = cut_slide(dataclasses.replace(job, tiles=TilesConfig(size=192, stride=96))).rows
    image_HWC, bits_HW = read_tile(job.out, row["tile_id"])
    assert image_HWC.shape == (100, 166, 3)
    np.testing.assert_array_equal(bits_HW, resample_mask(job.target.to_mask(), (100, 166)))
    assert row["size"] == 192
    assert has_tile(job.out, row["tile_id"])


def test_blank_tiles_are_dropped_and_masked_ones_never(job):
    rows = cut_slide(job).rows
    grid = training_grid((100, 166), job.preprocessing, job.tiles)
    assert 0 < len(rows) < len(grid)
    assert all(row["x"] < 100 for row in rows)
    everywhere = dataclasses.replace(job, target=runs_from_mask(np.ones((200, 333), bool)))
    assert len(cut_slide(everywhere).rows) == len(grid)
    keep_all = dataclasses.replace(job, tiles=dataclasses.replace(job.tiles, min_tissue=0.0))
    assert len(cut_slide(keep_all).rows) == len(grid)


def test_colours_of_stored_tiles_are_the_slides(job):
    row = next(row for row in cut_slide(job).rows if row["x"] == 32 and row["y"] == 32)
    stored_BGR = cv2.imread(str(job.out / "images" / f"{row['tile_id']}.bmp"), cv2.IMREAD_COLOR)
    assert stored_BGR[..., 2].mean() > stored_BGR[..., 0].mean() > stored_BGR[..., 1].mean()


@pytest.mark.parametrize(
    ("fraction", "name"),
    [(0.0, "none"), (1e-6, "very_small"), (0.02, "very_small"), (0.05, "small"), (0.2, "some"), (0.9, "large")],
)
def test_bins(fraction, name):
    assert bin_of(fraction, (0.02, 0.1, 0.3)) == name


def test_whole_mode_gives_one_padded_tile(job):
    spec = Preprocessing(scale_mode="whole", whole_size=64)
    rows = cut_slide(dataclasses.replace(job, preprocessing=spec)).rows
    assert len(rows) == 1
    image = cv2.imread(str(job.out / "images" / f"{rows[0]['tile_id']}.bmp"))
    mask = cv2.imread(str(job.out / "masks" / f"{rows[0]['tile_id']}.png"), cv2.IMREAD_GRAYSCALE)
    assert image.shape == (64, 64, 3)
    assert mask.shape == (64, 64)
    # 200 x 333 at 64 on the long side is 38 x 64: 13 rows above and below are reflections.
    np.testing.assert_array_equal(image[:13], image[14:27][::-1])
    np.testing.assert_array_equal(mask[:13], mask[14:27][::-1])


def written(job, rows):
    """When each file of some tiles was written."""
    return {path: path.stat().st_mtime_ns for row in rows for path in tile_paths(job.out, row["tile_id"])}


def test_finished_slides_are_not_cut_again_and_changed_ones_are(job):
    first = cut_slide(job)
    before = written(job, first.rows)
    assert cut_slide(job) == first
    assert written(job, first.rows) == before
    for path in tile_paths(job.out, first.rows[1]["tile_id"]):
        path.unlink()
        assert cut_slide(job) == first
        assert path.is_file(), "a lost tile is cut again"
    path = tile_paths(job.out, first.rows[0]["tile_id"])[0]
    path.write_bytes(path.read_bytes()[:-1])
    cut_slide(job)
    assert has_tile(job.out, first.rows[0]["tile_id"]), "so is one that a crash cut short"
    before = written(job, first.rows)
    again = cut_slide(dataclasses.replace(job, fold=4))
    assert all(row["fold"] == 4 for row in again.rows)
    assert not set(written(job, again.rows).items()) & set(before.items())


def test_tiles_of_earlier_settings_are_removed_and_never_taken_for_the_new_ones(job):
    fine = dataclasses.replace(job, tiles=dataclasses.replace(job.tiles, stride=16))
    names = {row["tile_id"] for row in cut_slide(fine).rows}
    kept = {row["tile_id"] for row in cut_slide(job).rows}
    assert {path.stem for path in (job.out / "images").iterdir()} == kept < names
    # A build with other settings that was killed half-way has overwritten tiles and left no part file of its own.
    part = job.out / "parts" / "s.json"
    finished = part.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("histofold.data.tiles.cut._cut_tiles", lambda job: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            cut_slide(dataclasses.replace(job, preprocessing=Preprocessing(target_pixel_size_um=0.5)))
    assert json.loads(part.read_bytes())["digest"] != json.loads(finished)["digest"]
    before = written(job, cut_slide(job).rows)
    assert {path.stem for path in before} == kept
    assert part.read_bytes() == finished


KILLED = """
import os, pickle, signal, sys
import histofold.data.tiles.cut as tiles
write, count = tiles.write_tile, 0
def dying(*arguments, **settings):
    global count
    count += 1
    if count == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    write(*arguments, **settings)
tiles.write_tile = dying
tiles.cut_slides(pickle.load(open(sys.argv[1], "rb")), 1)
"""


@pytest.mark.slow
def test_a_killed_build_goes_on_and_ends_the_same(job, tmp_path):
    jobs = [dataclasses.replace(job, sample=dataclasses.replace(job.sample, id=name)) for name in "st"]
    (tmp_path / "jobs").write_bytes(pickle.dumps(jobs))
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "jobs"], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    finished = [path.stem for path in (job.out / "parts").glob("*.json")]
    assert finished == ["s"], "killed within the second slide"
    first = [path for path in (job.out / "images").iterdir() if path.name.startswith("s_")]
    before = {path: path.stat().st_mtime_ns for path in first}
    resumed = cut_slides(jobs, 1)
    assert {path: path.stat().st_mtime_ns for path in first} == before
    fresh = cut_slides([dataclasses.replace(job, out=tmp_path / "fresh") for job in jobs], 1)
    pd.testing.assert_frame_equal(resumed[0], fresh[0])
    assert resumed[1:] == fresh[1:]
    assert tile_bytes(job.out) == tile_bytes(tmp_path / "fresh")


def tile_bytes(folder):
    """Content of every tile file by its name."""
    names = [path for name in ("images", "masks") for path in (folder / name).glob("[!.]*")]
    return {path.relative_to(folder): path.read_bytes() for path in names}


def test_every_slide_that_cannot_be_decoded_is_named(job):
    lost = dataclasses.replace(job, sample=dataclasses.replace(job.sample, id="lost", image_path=job.out / "x.tiff"))
    gone = dataclasses.replace(lost, sample=dataclasses.replace(lost.sample, id="gone"))
    lost.sample.image_path.write_bytes(b"II*\0")
    with pytest.raises(InputError) as caught:
        cut_slides([gone, job, lost], 1)
    assert [fault.id for fault in caught.value.faults] == ["gone", "lost"]


@pytest.mark.slow
def test_index_tiles_and_moments_do_not_depend_on_workers(job, tmp_path):
    """Alone, and in two processes of two threads each."""
    every = dataclasses.replace(job.tiles, grids=("grid", "shifted", "objects"), scales=(1.0, 0.5))
    jobs = [
        dataclasses.replace(job, tiles=every, sample=dataclasses.replace(job.sample, id=name), out=tmp_path / "many")
        for name in "st"
    ]
    index, mean, std, _ = cut_slides(jobs, 5)
    assert index["id"].unique().tolist() == ["s", "t"]
    tiles = np.concatenate([read_tile(tmp_path / "many", name)[0].reshape(-1, 3) for name in index["tile_id"]])
    np.testing.assert_allclose(mean, tiles.mean(axis=0) / 255, atol=1e-9)
    np.testing.assert_allclose(std, tiles.std(axis=0) / 255, atol=1e-9)
    alone = cut_slides([dataclasses.replace(job, out=tmp_path / "one") for job in jobs], 1)
    pd.testing.assert_frame_equal(index, alone[0])
    np.testing.assert_array_equal((mean, std), alone[1:3])
    assert tile_bytes(tmp_path / "many") == tile_bytes(tmp_path / "one")


def test_index_has_the_agreed_columns(job):
    index, *_ = cut_slides([dataclasses.replace(job, regions={"Cortex": [[[0, 0], [90, 0], [90, 200], [0, 200]]]})], 1)
    agreed = ["tile_id", "id", "fold", "y", "x", "size", "scale", "mask_fraction", "tissue_fraction", "bin"]
    further = ["source", "grid", "region", "label_origin", "label_fold", "organ"]
    assert index.columns.tolist() == agreed + further
    assert set(index["label_origin"]) == {"truth"}
    assert set(index["label_fold"]) == {-1}
    assert set(index["grid"]) == {"grid"}
    middle_x = index["x"] + 16
    assert (index["region"] == np.where(middle_x <= 45, "Cortex", "")).all(), "the slide is seen at half its size"


def test_ignored_pixels_are_a_bit_of_the_mask_and_tiles_of_nothing_else_are_left_out(job):
    native = dataclasses.replace(job, preprocessing=Preprocessing(target_pixel_size_um=0.5))
    ignored_HW = np.zeros((200, 333), bool)
    ignored_HW[40:60, :100] = ignored_HW[:, 60:140] = True
    before = {row["tile_id"]: row for row in cut_slide(native).rows}
    after = {
        row["tile_id"]: row for row in cut_slide(dataclasses.replace(native, ignored=runs_from_mask(ignored_HW))).rows
    }
    target_HW, bits = job.target.to_mask(), set()
    for key, row in before.items():
        region = slice(row["y"], row["y"] + 32), slice(row["x"], row["x"] + 32)
        assert (key in after) == (not ignored_HW[region].all())
        if key in after:
            stored_HW = read_tile(job.out, key)[1]
            np.testing.assert_array_equal(stored_HW >= IGNORED_BIT, ignored_HW[region])
            seen_HW = ~ignored_HW[region]
            np.testing.assert_array_equal(stored_HW[seen_HW], target_HW[region][seen_HW])
            assert after[key] == row, "the table of tiles says what the truth says"
            bits |= set(np.unique(stored_HW).tolist())
    assert bits == {0, 1, IGNORED_BIT}
    assert 0 < len(after) < len(before)


@pytest.mark.parametrize("stride", [32, 24, 7])
def test_every_mask_pixel_lies_in_a_kept_tile_of_the_grid(job, stride):
    mask_HW = np.random.default_rng(3).random((200, 333)) < 0.0005
    mask_HW[0, 0] = mask_HW[-1, -1] = mask_HW[0, -1] = True
    native = Preprocessing(target_pixel_size_um=0.5)
    tiles = dataclasses.replace(job.tiles, stride=stride, min_tissue=1.0, min_saturation=1.0, keep_background=0.0)
    rows = cut_slide(dataclasses.replace(job, target=runs_from_mask(mask_HW), preprocessing=native, tiles=tiles)).rows
    seen_HW = np.zeros_like(mask_HW)
    for row in rows:
        region = slice(row["y"], row["y"] + 32), slice(row["x"], row["x"] + 32)
        seen_HW[region] = True
        np.testing.assert_array_equal(read_tile(job.out, row["tile_id"])[1], mask_HW[region])
    assert (seen_HW >= mask_HW).all()
    assert all(row["mask_fraction"] > 0 for row in rows), "everything else was filtered away"


def test_filters_drop_what_lies_below_them_and_nothing_else(job):
    bare = dataclasses.replace(job, target=runs_from_mask(np.zeros((200, 333), bool)))

    def kept(**settings):
        rows = cut_slide(dataclasses.replace(bare, tiles=dataclasses.replace(job.tiles, **settings))).rows
        return {row["tile_id"]: row["tissue_fraction"] for row in rows}

    everything = kept(min_tissue=0.0)
    saturation = {name: mean_saturation(read_tile(job.out, name)[0]) for name in everything}
    assert len(everything) == len(training_grid((100, 166), job.preprocessing, job.tiles))
    for least in (0.3, 0.9, 1.0):
        assert kept(min_tissue=least) == {name: share for name, share in everything.items() if share >= least}
    for least in (0.05, 0.3, 0.5):
        chosen = {name for name, value in saturation.items() if value >= least}
        assert set(kept(min_tissue=0.0, min_saturation=least)) == chosen
        assert 0 < len(chosen) < len(everything) or least == 0.5


def test_saturation_is_that_of_hsv():
    image_HWC = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    image_HWC[0] = 0
    hsv_HWC = cv2.cvtColor(image_HWC.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    assert mean_saturation(image_HWC) == pytest.approx(hsv_HWC[..., 1].mean(), abs=1e-5)


def test_background_is_thinned_to_its_share_the_same_way_every_time(job):
    tiles = dataclasses.replace(job.tiles, stride=8, min_tissue=0.0)

    def kept(share, seed=0):
        settings = dataclasses.replace(tiles, keep_background=share, seed=seed)
        return {r["tile_id"]: r["mask_fraction"] for r in cut_slide(dataclasses.replace(job, tiles=settings)).rows}

    everything, third = kept(1.0), kept(0.3)
    masked = {name for name, fraction in everything.items() if fraction > 0}
    assert masked <= set(third) < set(everything)
    background = len(everything) - len(masked)
    assert (len(third) - len(masked)) / background == pytest.approx(0.3, abs=4 * (0.21 / background) ** 0.5)
    assert set(kept(0.1)) < set(third), "a smaller share is a part of a larger one"
    assert kept(0.3) == third
    assert set(kept(0.3, seed=1)) != set(third)
    assert set(kept(0.0)) == masked
