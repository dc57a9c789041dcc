"""One passage over a slide gives the tiles of all scales."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile

from histofold.core.faults import ImageError
from histofold.core.rle.runs import runs_from_mask
from histofold.data.tiles.bands import GROUP_ROWS, RowWindow, stream_tiles
from histofold.data.tiles.plan import SlidePlan
from histofold.imaging.resample import ScaledSlide
from histofold.imaging.slide import Slide, open_slide
from histofold.schema.dataset import TilesConfig
from histofold.schema.preprocessing import Preprocessing

SHAPE = (517, 740)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "s.tif"
    image_HWC = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)
    tifffile.imwrite(path, image_HWC, tile=(128, 128), compression="deflate")
    return path


def plan_of(target_um, **tiles):
    mask_HW = np.zeros(SHAPE, bool)
    mask_HW[400:410, 600:620] = mask_HW[-1, -1] = True
    return SlidePlan(
        sample_id="s",
        shape_hw=SHAPE,
        pixel_size_um=1.0,
        target=runs_from_mask(mask_HW),
        regions={},
        preprocessing=Preprocessing(target_pixel_size_um=target_um),
        tiles=TilesConfig(**{"size": 64, "stride": 48} | tiles),
    )


PLANS = [
    plan_of(1.0),
    plan_of(1.6, grids=("grid", "shifted", "objects"), scales=(1.0, 0.37, 2.1)),
    plan_of(0.8, grids=("objects",)),
    plan_of(30.0, size=32, stride=32),
]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize("block_pixels", [1, 30_000, 6 << 20])
def test_tiles_are_the_regions_that_prediction_sees(path, monkeypatch, plan, threads, block_pixels):
    monkeypatch.setattr("histofold.data.tiles.bands._BLOCK_PIXELS", block_pixels)
    planned, views = plan.planned(), plan.views()
    with open_slide(path) as slide, open_slide(path) as peer, ThreadPoolExecutor(1) as pool:
        seen = []
        for tile, image_HWC in stream_tiles(slide, views, planned, pool if threads else None):
            np.testing.assert_array_equal(image_HWC, ScaledSlide(peer, views[tile.view]).read(tile.y, tile.x))
            seen.append(tile.tile_id)
    assert sorted(seen) == sorted(tile.tile_id for tile in planned)


class CountingReader:
    """Counts how often each row of a slide is read."""

    def __init__(self, path):
        self._slide = open_slide(path)
        self.shape_hw = self._slide.shape_hw
        self.rows = Counter()

    def read_into(self, canvas_HWC, y, x):
        self.rows.update(range(y, y + len(canvas_HWC)))
        canvas_HWC[...] = self._slide.read(slice(y, y + len(canvas_HWC)), slice(x, x + canvas_HWC.shape[1]))

    def close(self):
        self._slide.close()


@pytest.mark.parametrize("threads", [0, 1])
def test_each_row_is_read_once_whatever_the_number_of_grids_and_scales(path, threads):
    plan = plan_of(1.6, grids=("grid", "shifted", "objects"), scales=(1.0, 0.37, 2.1))
    reader = CountingReader(path)
    with Slide(path, reader) as slide, ThreadPoolExecutor(1) as pool:
        for _ in stream_tiles(slide, plan.views(), plan.planned(), pool if threads else None):
            pass
    assert reader.rows == Counter(range(SHAPE[0]))


def test_rows_that_no_tile_needs_are_not_read(path):
    plan = plan_of(1.0, grids=("objects",), object_jitter=0.0)
    planned = [tile for tile in plan.planned() if tile.y.start < 450]
    assert [tile.y for tile in planned] == [slice(373, 437)]
    reader = CountingReader(path)
    with Slide(path, reader) as slide, pytest.MonkeyPatch.context() as patch:
        patch.setattr("histofold.data.tiles.bands._BLOCK_PIXELS", 1)
        assert len(list(stream_tiles(slide, plan.views(), planned, None))) == 1
    assert min(reader.rows) >= 373 - GROUP_ROWS
    assert max(reader.rows) < 437 + GROUP_ROWS


def test_no_tiles_read_nothing(path):
    reader = CountingReader(path)
    with Slide(path, reader) as slide:
        assert list(stream_tiles(slide, [SHAPE], [], None)) == []
    assert not reader.rows


@pytest.mark.parametrize("threads", [0, 1])
def test_a_slide_that_cannot_be_decoded_says_so(tmp_path, path, threads):
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[20], tiff.pages[0].databytecounts[20]
    data[offset : offset + count] = bytes(count)
    (tmp_path / "s.tif").write_bytes(data)
    with open_slide(tmp_path / "s.tif") as slide, ThreadPoolExecutor(1) as pool:
        plan = plan_of(1.6)
        with pytest.raises(ImageError, match="segment"):
            list(stream_tiles(slide, plan.views(), plan.planned(), pool if threads else None))


def test_a_window_of_rows_forgets_what_is_above_and_refuses_it():
    rows_HWC = np.random.default_rng(0).integers(0, 256, (20, 7, 3), np.uint8)
    window = RowWindow()
    for start in range(0, 20, 4):
        window.append(rows_HWC[start : start + 4])
    canvas_HWC = np.empty((9, 5, 3), np.uint8)
    window.copy_into(canvas_HWC, 6, 1)
    np.testing.assert_array_equal(canvas_HWC, rows_HWC[6:15, 1:6])
    window.drop(8)
    window.copy_into(canvas_HWC, 8, 2)
    np.testing.assert_array_equal(canvas_HWC, rows_HWC[8:17, 2:7])
    for start in (7, 12):
        with pytest.raises(ValueError, match="top to bottom"):
            window.copy_into(canvas_HWC, start, 0)
