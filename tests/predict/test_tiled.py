import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from histofold.core.tiles import TileGrid
from histofold.predict.canvas import normalised_weights
from histofold.predict.tiled import BlankTiles, Tiling, grid_of, is_blank_tile, predict_bands
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing


class ArrayReader:
    """An image in memory as tiles read it."""

    def __init__(self, image_HWC):
        self.image_HWC = image_HWC
        self.shape_hw = image_HWC.shape[:2]

    def read(self, y, x):
        return self.image_HWC[y, x].copy()


def identity(images_NHWC):
    """A network whose three classes are the image's channels."""
    return np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2)).astype(np.float32) / 255


def bands_of(function, image_HWC, *tiling):
    """The bands of an image for a function of the tiles' pixels."""
    return predict_bands([on_images(function)], ArrayReader(image_HWC), Tiling(*tiling))


def on_images(function):
    """A function of tiles as one of batches."""
    return lambda batch: function(batch.images)


def assemble(bands, shape_hw):
    """Put bands together, holding that they partition the rows in order."""
    rows = 0
    parts = []
    for y, band_KHW in bands:
        assert y == rows
        assert band_KHW.shape[2] == shape_hw[1]
        parts.append(band_KHW.copy())
        rows += band_KHW.shape[1]
    assert rows == shape_hw[0]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("blend", [False, True])
def test_tiled_identity_is_the_image(blend):
    rng = np.random.default_rng(int(blend))
    for _ in range(150):
        size = int(rng.integers(2, 40))
        halo = 0 if blend else int(rng.integers(0, (size - 1) // 2 + 1))
        stride = int(rng.integers(1, size - 2 * halo + 1))
        shape = int(rng.integers(1, 90)), int(rng.integers(1, 90))
        image_HWC = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
        grid = TileGrid(shape, size, stride, halo, multiple=int(rng.integers(0, 9)))
        bands = bands_of(identity, image_HWC, grid, int(rng.integers(1, 6)), blend)
        result = assemble(bands, shape)
        np.testing.assert_allclose(result, image_HWC.transpose(2, 0, 1) / 255, atol=1e-5)


@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (40, 300), (97, 128), (128, 129), (65, 64)])
def test_an_image_smaller_than_a_tile_is_padded_to_the_networks_multiple_alone(shape, blend):
    manifest = Manifest(competition="folder", preprocessing=Preprocessing(), tile=128, halo=8, blend=blend)
    image_HWC = np.random.default_rng(0).integers(0, 150, (*shape, 3)).astype(np.uint8)
    seen = set()

    def forward(images_NHWC):
        seen.add(images_NHWC.shape[1:3])
        return identity(images_NHWC)

    grid = grid_of(manifest, shape)
    result = assemble(bands_of(forward, image_HWC, grid, 2, blend), shape)
    np.testing.assert_allclose(result, image_HWC.transpose(2, 0, 1) / 255, atol=1e-6)
    assert seen == {tuple(min(128, -(-length // 32) * 32) for length in shape)}
    assert grid_of(replace(manifest, preprocessing=Preprocessing(scale_mode="whole")), shape).tile_hw == (768, 768)


def test_tiled_is_untiled_where_the_receptive_field_is_under_the_halo():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 5, padding=2, padding_mode="reflect"),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 1, 3, padding=1, padding_mode="reflect"),
    ).double()

    def forward(images_NHWC):
        with torch.inference_mode():
            return net(torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).double() / 255).float().numpy()

    image_HWC = np.random.default_rng(0).integers(0, 256, (101, 67, 3)).astype(np.uint8)
    whole = forward(image_HWC[None])[0]
    bands = bands_of(forward, image_HWC, TileGrid((101, 67), 32, 0, 4), 3)
    np.testing.assert_allclose(assemble(bands, (101, 67)), whole, atol=1e-5)


def test_result_does_not_depend_on_the_batch():
    image_HWC = np.random.default_rng(1).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    grid = TileGrid((50, 70), 16, 0, 2)
    results = [assemble(bands_of(identity, image_HWC, grid, n), (50, 70)) for n in (1, 2, 7, 100)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_batches_never_exceed_their_size():
    sizes = []

    def forward(images_NHWC):
        sizes.append(len(images_NHWC))
        return identity(images_NHWC)

    image_HWC = np.zeros((50, 70, 3), np.uint8)
    grid = TileGrid((50, 70), 16)
    list(bands_of(forward, image_HWC, grid, 6))
    assert sum(sizes) == len(grid)
    assert set(sizes[:-1]) == {6}


def test_blending_favours_the_middle_of_a_tile():
    grid = TileGrid((40, 9), 9, 4)
    (alone,) = normalised_weights(grid.column_spans, 9, 9)
    np.testing.assert_array_equal(alone, 1)
    profile = normalised_weights(grid.row_spans, 9, 40)[2]
    assert profile[3:6].min() > 0.9
    np.testing.assert_allclose(profile, profile[::-1], atol=1e-6)
    assert profile.min() < 0.1


@pytest.mark.parametrize(("length", "size", "stride"), [(40, 9, 4), (9, 9, 1), (5, 8, 8), (1000, 64, 17)])
def test_blending_weights_add_up_to_one_everywhere(length, size, stride):
    spans = TileGrid((length, length), size, stride).row_spans
    total = np.zeros(length)
    for span, weights in zip(spans, normalised_weights(spans, size, length), strict=True):
        total[span.read] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("copies", [1, 2, 3, 5])
def test_several_devices_give_what_one_gives(copies):
    threads = [set() for _ in range(copies)]

    def remembering(seen):
        def forward(batch):
            seen.add(threading.get_ident())
            return identity(batch.images)

        return forward

    image_HWC = np.random.default_rng(5).integers(0, 256, (200, 170, 3)).astype(np.uint8)
    grid = TileGrid((200, 170), 16, 0, 2)
    before = threading.active_count()
    forwards = [remembering(seen) for seen in threads]
    several = assemble(predict_bands(forwards, ArrayReader(image_HWC), Tiling(grid, 3), threaded=True), (200, 170))
    np.testing.assert_array_equal(several, assemble(bands_of(identity, image_HWC, grid, 3), (200, 170)))
    assert threading.active_count() == before
    assert max(map(len, threads)) == 1, "a device is used by one thread alone"
    assert not any(threading.get_ident() in seen for seen in threads)


def test_an_error_on_one_of_several_devices_is_raised_and_ends_all_threads():
    def broken(batch):
        raise ArithmeticError("not numbers")

    before = threading.active_count()
    reader = ArrayReader(np.zeros((300, 300, 3), np.uint8))
    with pytest.raises(ArithmeticError, match="not numbers"):
        list(predict_bands([broken, broken], reader, Tiling(TileGrid((300, 300), 16), 2), threaded=True))
    assert threading.active_count() == before


@pytest.mark.parametrize("copies", [1, 2])
def test_bands_that_are_left_early_end_all_threads(copies):
    before = threading.active_count()
    reader = ArrayReader(np.zeros((900, 300, 3), np.uint8))
    tiling = Tiling(TileGrid((900, 300), 16), 2)
    bands = predict_bands([on_images(identity)] * copies, reader, tiling, threaded=copies > 1)
    assert next(bands)[0] == 0
    bands.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("blend", [False, True])
def test_blank_tiles_are_left_out_and_others_are_not(blend):
    rng = np.random.default_rng(8)
    image_HWC = np.full((70, 130, 3), 240, np.uint8)
    image_HWC[20:40, 60:90] = rng.integers(0, 256, (20, 30, 3))
    seen = []

    def forward(images_NHWC):
        seen.append(len(images_NHWC))
        return np.ones((len(images_NHWC), 2, 16, 16), np.float32)

    grid = TileGrid((70, 130), 16, 8)
    result_KHW = assemble(bands_of(forward, image_HWC, grid, 3, blend, BlankTiles(2, 0.0)), (70, 130))
    blank = [is_blank_tile(image_HWC[tile.read]) for tile in grid]
    assert sum(seen) == len(grid) - sum(blank)
    assert 0 < sum(blank) < len(grid)
    assert set(seen[:-1]) <= {3}
    np.testing.assert_allclose(result_KHW[:, 24:36, 64:86], 1, atol=1e-6)
    np.testing.assert_array_equal(result_KHW[:, 60:], 0)


@pytest.mark.parametrize("grid", [TileGrid((50, 60), 16), TileGrid((50, 60), 128, multiple=8)])
def test_an_image_of_nothing_but_glass_needs_no_network(grid):
    seen = []

    def forward(images_NHWC):
        seen.append(len(images_NHWC))
        return np.empty((0, 1, 16, 16), np.float32)

    white_HWC = np.full((50, 60, 3), 255, np.uint8)
    bands = bands_of(forward, white_HWC, grid, 3, False, BlankTiles(1, 0.0))
    assert assemble(bands, (50, 60)).max() == 0
    assert set(seen) == {0}


def test_what_counts_as_blank():
    tile_HWC = np.full((8, 9, 3), 230, np.uint8)
    assert is_blank_tile(tile_HWC)
    tile_HWC[-1, -1, 1] = 199
    assert not is_blank_tile(tile_HWC), "one darker pixel may be tissue"
    fill_HWC = np.zeros((8, 9, 3), np.uint8)
    fill_HWC[..., 2] = 90
    fill_HWC[0, 0] += 2
    assert is_blank_tile(fill_HWC), "a scanner's fill of any colour"
    fill_HWC[0, 0, 0] += 1
    assert not is_blank_tile(fill_HWC)
