import numpy as np
import pytest

from histofold.core.tiles import TileGrid, axis_spans


def random_grids(count, seed=0):
    """Grids of all kinds: smaller than a tile, just as large, prime sides, dense and sparse strides."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        size = int(rng.integers(1, 40))
        halo = int(rng.integers(0, (size - 1) // 2 + 1))
        stride = int(rng.integers(0, size - 2 * halo + 1))
        largest = 120 if stride > 4 or stride == 0 else 40  # else thousands of tiles say the same
        shape = int(rng.integers(1, largest)), int(rng.integers(1, largest))
        yield TileGrid(shape, size, stride, halo, multiple=int(rng.integers(0, 9)))


def test_write_regions_partition_the_image():
    for grid in random_grids(300):
        written = np.zeros(grid.shape_hw, int)
        for tile in grid:
            written[tile.write] += 1
        assert (written == 1).all(), grid


@pytest.mark.slow
def test_identity_through_tiles_is_the_image():
    rng = np.random.default_rng(1)
    for grid in random_grids(150, seed=2):
        image = rng.integers(0, 255, grid.shape_hw)
        canvas = np.full(grid.shape_hw, -1)
        for tile in grid:
            read = np.pad(image[tile.read], tile.pad, mode="reflect")
            assert read.shape == grid.tile_hw
            np.testing.assert_array_equal(read[tile.inner], image[tile.read])
            canvas[tile.write] = read[tile.crop]
        np.testing.assert_array_equal(canvas, image)


def test_only_images_shorter_than_a_tile_have_smaller_tiles_and_these_end_at_the_next_multiple():
    for grid in random_grids(300, seed=5):
        for side, length in zip(grid.tile_hw, grid.shape_hw, strict=True):
            assert min(length, grid.size) <= side <= grid.size
            if grid.multiple == 0 or length >= grid.size:
                assert side == grid.size
            elif side < grid.size:
                assert side % grid.multiple == 0
                assert side < length + grid.multiple


def test_every_written_pixel_has_its_halo_or_the_border():
    for grid in random_grids(200, seed=3):
        for tile in grid:
            for axis in (0, 1):
                read, write = tile.read[axis], tile.write[axis]
                assert write.start - read.start >= grid.halo or read.start == 0
                assert read.stop - write.stop >= grid.halo or read.stop == grid.shape_hw[axis]


def test_tiles_never_leave_the_image_and_come_in_reading_order():
    for grid in random_grids(100, seed=4):
        tiles = list(grid)
        assert len(tiles) == len(grid)
        assert [tile.index for tile in tiles] == sorted(tile.index for tile in tiles)
        for tile in tiles:
            assert all(0 <= part.start < part.stop <= side for part, side in zip(tile.read, grid.shape_hw, strict=True))


def test_stride_zero_is_the_largest_that_the_halo_allows():
    assert TileGrid((500, 300), 64, 0, 8) == TileGrid((500, 300), 64, 0, 8)
    spans = TileGrid((500, 300), 64, 0, 8).row_spans
    assert spans[1].read.start - spans[0].read.start == 64 - 16


def test_last_tile_is_shifted_inside():
    spans = axis_spans(100, 64, 50, 0)
    assert [span.read for span in spans] == [slice(0, 64), slice(36, 100)]
    assert [span.write for span in spans] == [slice(0, 50), slice(50, 100)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((10, 10), 64, 0, 32), "twice the halo"),
        (((10, 10), 64, 0, -1), "halo"),
        (((10, 10), 64, 49, 8), "stride=49"),
        (((10, 0), 64, 0, 0), "at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        TileGrid(*arguments)
