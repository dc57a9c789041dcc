"""Resampling does not depend on how an image is cut, and agrees with its peers."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hard_masks import resample_mask
from histofold.core.rle.runs import runs_from_mask
from histofold.imaging import resample
from histofold.imaging.resample import RowUpsampler, ScaledSlide, resample_mask_region, scaled_shape
from histofold.imaging.slide import Slide

SHAPE_HW = (173, 231)
ZOOMS = [1.0, 0.8, 0.5, 1 / 3, 0.37, 0.1, 1.3, 2.0, 2.7]


class ArrayReader:
    """An image in memory as a slide's reader; counts the pixels that are read."""

    def __init__(self, image_HWC: np.ndarray) -> None:
        self.image_HWC = image_HWC
        self.shape_hw = image_HWC.shape[:2]
        self.pixels_read = 0

    def read_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        canvas_HWC[...] = self.image_HWC[y : y + canvas_HWC.shape[0], x : x + canvas_HWC.shape[1]]
        self.pixels_read += canvas_HWC.shape[0] * canvas_HWC.shape[1]

    def close(self) -> None:
        pass


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(11).integers(0, 256, shape, dtype=np.uint8)


def slide_of(image_HWC: np.ndarray) -> Slide:
    return Slide(Path("memory"), ArrayReader(image_HWC))


def test_scaled_shape_rounds_and_keeps_a_pixel() -> None:
    assert scaled_shape((100, 301), 0.5) == (50, 150)
    assert scaled_shape((3, 1000), 0.01) == (1, 10)
    for zoom in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive"):
            scaled_shape((10, 10), zoom)


@pytest.mark.parametrize(("shape_hw", "zoom"), [((172, 230), 0.5), ((172, 230), 2.0)] + [(SHAPE_HW, z) for z in ZOOMS])
def test_tiles_of_the_scaled_slide_are_slices_of_the_whole(shape_hw: tuple[int, int], zoom: float) -> None:
    scaled = ScaledSlide(slide_of(noise(*shape_hw, 3)), scaled_shape(shape_hw, zoom))
    height, width = scaled.shape_hw
    whole_HWC = scaled.read(slice(None), slice(None))
    size = max(3, height // 11)
    for y in range(0, height, size):
        for x in range(0, width, size):
            region = (slice(y, min(y + size, height)), slice(x, min(x + size, width)))
            tile = scaled.read(*region)
            assert tile.flags.c_contiguous
            np.testing.assert_array_equal(tile, whole_HWC[region])


@pytest.mark.parametrize("scaled_hw", [(64, 64), (173, 100), (50, 231), (1, 1), (400, 90)])
def test_whole_image_equals_pillow(scaled_hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image_HWC = noise(*SHAPE_HW, 3)
    monkeypatch.setattr(resample, "_IMAGE_BLOCK_PIXELS", 4000)  # many blocks
    peer = np.asarray(Image.fromarray(image_HWC).resize(scaled_hw[::-1], Image.Resampling.BILINEAR))
    got = ScaledSlide(slide_of(image_HWC), scaled_hw).read(slice(None), slice(None))
    assert got.shape == (*scaled_hw, 3)
    assert np.abs(got.astype(int) - peer).max() <= 1


def test_same_size_is_a_pass_through_and_a_tile_reads_only_its_surroundings() -> None:
    image_HWC = noise(*SHAPE_HW, 3)
    reader = ArrayReader(image_HWC)
    same = ScaledSlide(Slide(Path("memory"), reader), SHAPE_HW)
    np.testing.assert_array_equal(same.read(slice(5, 9), slice(0, 231)), image_HWC[5:9])
    assert reader.pixels_read == 4 * 231
    reader.pixels_read = 0
    ScaledSlide(Slide(Path("memory"), reader), (86, 115)).read(slice(40, 50), slice(40, 50))
    assert reader.pixels_read <= 30 * 30


def test_constant_image_stays_constant() -> None:
    image_HWC = np.full((50, 70, 3), 201, np.uint8)
    for scaled_hw in ((13, 70), (50, 9), (33, 99), (1, 1)):
        assert (ScaledSlide(slide_of(image_HWC), scaled_hw).read(slice(None), slice(None)) == 201).all()


def test_regions_and_sizes_outside_are_refused() -> None:
    slide = slide_of(noise(20, 30, 3))
    with pytest.raises(ValueError, match="at least 1"):
        ScaledSlide(slide, (0, 10))
    with pytest.raises(ValueError, match="<= 10"):
        ScaledSlide(slide, (10, 15)).read(slice(0, 11), slice(0, 15))


# -- masks -------------------------------------------------------------------------------------------------------------


def area_by_fractions(mask_HW: np.ndarray, scaled_hw: tuple[int, int]) -> np.ndarray:
    """The definition, in exact fractions."""

    def weights(length: int, scaled: int) -> list[list[Fraction]]:
        step = Fraction(length, scaled)
        return [
            [max(Fraction(0), min((j + 1) * step, Fraction(i + 1)) - max(j * step, Fraction(i))) for i in range(length)]
            for j in range(scaled)
        ]

    rows = np.array(weights(mask_HW.shape[0], scaled_hw[0]), object)
    columns = np.array(weights(mask_HW.shape[1], scaled_hw[1]), object)
    area = rows @ mask_HW.astype(int).astype(object) @ columns.T
    return (2 * area >= Fraction(mask_HW.size, scaled_hw[0] * scaled_hw[1])).astype(bool)


@pytest.mark.parametrize("scaled_hw", [(5, 9), (13, 17), (6, 4), (26, 34), (31, 50), (1, 1), (13, 8)])
def test_mask_is_half_of_the_exact_area(scaled_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    for share in (0.3, 0.5, 0.7):
        mask_HW = rng.random((13, 17)) < share
        mask_HW[0, 0] = mask_HW[-1, -1] = True
        np.testing.assert_array_equal(resample_mask(mask_HW, scaled_hw), area_by_fractions(mask_HW, scaled_hw))


@pytest.mark.parametrize("order", ["F", "C"])
@pytest.mark.parametrize("zoom", ZOOMS)
def test_mask_regions_are_slices_of_the_whole(zoom: float, order: str) -> None:
    mask_HW = cv2.GaussianBlur(noise(*SHAPE_HW), (0, 0), 2) > 127
    scaled_hw = scaled_shape(SHAPE_HW, zoom)
    whole_HW = resample_mask(mask_HW, scaled_hw)
    assert whole_HW.dtype == bool
    for y in range(0, scaled_hw[0], 13):
        region = (slice(y, min(y + 13, scaled_hw[0])), slice(y % scaled_hw[1], scaled_hw[1]))
        part_HW = resample_mask_region(runs_from_mask(mask_HW, order), scaled_hw, *region)
        np.testing.assert_array_equal(part_HW, whole_HW[region])


def test_mask_of_the_same_size_empty_full_and_other_types() -> None:
    mask_HW = noise(31, 57)
    np.testing.assert_array_equal(resample_mask(mask_HW, (31, 57)), mask_HW != 0)
    for scaled_hw in ((10, 10), (62, 114), (1, 1)):
        assert not resample_mask(np.zeros((31, 57), bool), scaled_hw).any()
        assert resample_mask(np.full((31, 57), 255, np.uint8), scaled_hw).all()


# -- probabilities -----------------------------------------------------------------------------------------------------


def upsample(probs_KHW: np.ndarray, original_hw: tuple[int, int], heights: list[int], max_rows: int) -> np.ndarray:
    """Push bands of the given heights, each from one reused buffer, and join what comes out."""
    upsampler = RowUpsampler(probs_KHW.shape[1:], original_hw, max_rows)
    bands = []

    def take(finished: Iterator[tuple[int, np.ndarray]]) -> None:
        for y, band_KHW in finished:
            assert y == sum(band.shape[1] for band in bands)
            assert 1 <= band_KHW.shape[1] <= max_rows
            assert band_KHW.dtype == np.float32
            bands.append(band_KHW)

    start = 0
    while start < probs_KHW.shape[1]:
        height = heights[len(bands) % len(heights)]
        buffer_KHW = probs_KHW[:, start : start + height].copy()
        take(upsampler.push(buffer_KHW))
        buffer_KHW[...] = np.nan
        start += height
    take(upsampler.finish())
    assert list(upsampler.finish()) == []
    return np.concatenate(bands, axis=1)


@pytest.mark.parametrize("original_hw", [(173, 231), (500, 300), (90, 100), (173, 90), (60, 231), (1, 1), (1000, 7)])
@pytest.mark.parametrize("heights", [[173], [1], [7, 50, 3]])
@pytest.mark.parametrize("max_rows", [512, 10])
def test_streamed_rows_equal_one_resize(original_hw: tuple[int, int], heights: list[int], max_rows: int) -> None:
    probs_KHW = np.random.default_rng(2).random((2, 173, 231), np.float32)
    got_KHW = upsample(probs_KHW, original_hw, heights, max_rows)
    peer_KHW = np.stack([cv2.resize(probs, original_hw[::-1], interpolation=cv2.INTER_LINEAR) for probs in probs_KHW])
    assert got_KHW.shape == (2, *original_hw)
    np.testing.assert_allclose(got_KHW, peer_KHW, atol=1e-5)


@pytest.mark.parametrize("scaled_hw", [(1, 1), (1, 5), (5, 1), (2, 2)])
def test_tiny_maps(scaled_hw: tuple[int, int]) -> None:
    probs_KHW = np.random.default_rng(2).random((1, *scaled_hw), np.float32)
    got_KHW = upsample(probs_KHW, (9, 11), [1], 4)
    peer_HW = cv2.resize(probs_KHW[0], (11, 9), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(got_KHW[0], peer_HW, atol=1e-5)


def test_same_size_gives_the_same_values() -> None:
    probs_KHW = np.random.default_rng(2).random((3, 50, 70), np.float32)
    np.testing.assert_array_equal(upsample(probs_KHW, (50, 70), [8], 16), probs_KHW)


def test_wide_maps() -> None:
    probs_KHW = np.random.default_rng(2).random((1, 3, 40_000), np.float32)
    got_KHW = upsample(probs_KHW, (5, 70_000), [2], 4)
    peer_HW = cv2.resize(probs_KHW[0], (70_000, 5), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(got_KHW[0], peer_HW, atol=1e-5)


def test_rows_too_many_too_few_or_too_narrow_are_refused() -> None:
    upsampler = RowUpsampler((4, 6), (8, 12))
    with pytest.raises(ValueError, match="give"):
        upsampler.push(np.zeros((1, 2, 5), np.float32))
    list(upsampler.push(np.zeros((1, 3, 6), np.float32)))
    with pytest.raises(ValueError, match="5 rows"):
        upsampler.push(np.zeros((1, 2, 6), np.float32))
    with pytest.raises(ValueError, match="3 rows"):
        upsampler.finish()
