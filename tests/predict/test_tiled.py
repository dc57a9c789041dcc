import threading

import numpy as np
import pytest
import torch

from histoseg.core.tiles import TileGrid
from histoseg.predict.tiled import blending_weights, predict_bands, read_ahead


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


def assemble(bands, shape_hw):
    """Put bands together, holding that they partition the rows in order."""
    rows = 0
    parts = []
    for y, band_KHW in bands:
        assert y == rows
        assert band_KHW.shape[2] == shape_hw[1]
        parts.append(band_KHW)
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
        bands = predict_bands(
            identity, ArrayReader(image_HWC), TileGrid(shape, size, stride, halo), int(rng.integers(1, 6)), blend
        )
        result = assemble(bands, shape)
        np.testing.assert_allclose(result, image_HWC.transpose(2, 0, 1) / 255, atol=1e-5)


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
    bands = predict_bands(forward, ArrayReader(image_HWC), TileGrid((101, 67), 32, 0, 4), 3)
    np.testing.assert_allclose(assemble(bands, (101, 67)), whole, atol=1e-5)


def test_result_does_not_depend_on_the_batch():
    image_HWC = np.random.default_rng(1).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    grid = TileGrid((50, 70), 16, 0, 2)
    results = [assemble(predict_bands(identity, ArrayReader(image_HWC), grid, n), (50, 70)) for n in (1, 2, 7, 100)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_batches_never_exceed_their_size():
    sizes = []

    def forward(images_NHWC):
        sizes.append(len(images_NHWC))
        return identity(images_NHWC)

    image_HWC = np.zeros((50, 70, 3), np.uint8)
    grid = TileGrid((50, 70), 16)
    list(predict_bands(forward, ArrayReader(image_HWC), grid, 6))
    assert sum(sizes) == len(grid)
    assert set(sizes[:-1]) == {6}


def test_blending_favours_the_middle_of_a_tile():
    weights = blending_weights(9)
    assert weights.argmax() == 40
    assert weights.min() == pytest.approx(1e-3)
    np.testing.assert_allclose(weights, weights.T)


def test_read_ahead_keeps_order_and_hands_over_errors():
    assert list(read_ahead(range(20))) == list(range(20))

    def broken():
        yield 1
        raise OSError("disk")

    items = read_ahead(broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="disk"):
        next(items)


def test_read_ahead_ends_its_thread_when_left_early():
    before = threading.active_count()
    items = read_ahead(iter(range(10**9)))
    assert next(items) == 0
    items.close()
    assert threading.active_count() == before
