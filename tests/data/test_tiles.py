import dataclasses

import cv2
import numpy as np
import pytest
import tifffile

from histoseg.core.faults import InputError
from histoseg.core.rle import runs_from_mask
from histoseg.data.tiles import TileJob, bin_of, cut_slide, cut_slides, training_grid
from histoseg.imaging.resample import resample_mask
from histoseg.schema.experiment import TilesConfig
from histoseg.schema.preprocessing import Preprocessing
from histoseg.schema.sample import Sample


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
    stored_BGR = cv2.imread(str(job.out / "images" / f"{row['tile_id']}.png"), cv2.IMREAD_COLOR)
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
    image = cv2.imread(str(job.out / "images" / f"{rows[0]['tile_id']}.png"))
    mask = cv2.imread(str(job.out / "masks" / f"{rows[0]['tile_id']}.png"), cv2.IMREAD_GRAYSCALE)
    assert image.shape == (64, 64, 3)
    assert mask.shape == (64, 64)
    # 200 x 333 at 64 on the long side is 38 x 64: 13 rows above and below are reflections.
    np.testing.assert_array_equal(image[:13], image[14:27][::-1])
    np.testing.assert_array_equal(mask[:13], mask[14:27][::-1])


def test_finished_slides_are_not_cut_again_and_changed_ones_are(job):
    first = cut_slide(job)
    names = [f"{row['tile_id']}.png" for row in first.rows]
    (job.out / "images" / names[0]).write_bytes(b"kept")
    assert cut_slide(job).rows == first.rows
    assert (job.out / "images" / names[0]).read_bytes() == b"kept"
    (job.out / "masks" / names[1]).unlink()
    cut_slide(job)
    assert (job.out / "masks" / names[1]).is_file(), "a lost tile is cut again"
    (job.out / "images" / names[0]).write_bytes(b"kept")
    cut_slide(dataclasses.replace(job, fold=4))
    assert (job.out / "images" / names[0]).read_bytes() != b"kept"


def test_every_slide_that_cannot_be_decoded_is_named(job):
    lost = dataclasses.replace(job, sample=dataclasses.replace(job.sample, id="lost", image_path=job.out / "x.tiff"))
    gone = dataclasses.replace(lost, sample=dataclasses.replace(lost.sample, id="gone"))
    lost.sample.image_path.write_bytes(b"II*\0")
    with pytest.raises(InputError) as caught:
        cut_slides([gone, job, lost], 1)
    assert [fault.id for fault in caught.value.faults] == ["gone", "lost"]


@pytest.mark.parametrize("workers", [1, 2])
def test_index_and_moments_do_not_depend_on_workers(job, workers):
    other = dataclasses.replace(job, sample=dataclasses.replace(job.sample, id="t"), out=job.out)
    index, mean, std = cut_slides([job, other], workers)
    assert index["id"].unique().tolist() == ["s", "t"]
    tiles = np.concatenate(
        [cv2.imread(str(job.out / "images" / f"{t}.png"))[..., ::-1].reshape(-1, 3) for t in index["tile_id"]]
    )
    np.testing.assert_allclose(mean, tiles.mean(axis=0) / 255, atol=1e-9)
    np.testing.assert_allclose(std, tiles.std(axis=0) / 255, atol=1e-9)
