"""What a stored sample means: the same rule for every value, checked against plain rounding."""

from __future__ import annotations

import numpy as np
import pytest

from histofold.imaging.samples import SampleRangeError, axis_overlaps, paste_rgb, samples_to_uint8


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<u4", ">u4"])
def test_whole_numbers_fill_the_range(dtype: str) -> None:
    most = np.iinfo(dtype).max
    steps = np.arange(256, dtype=np.float64) * (most / 255)
    halves = (steps[:-1] + steps[1:]) / 2
    spread = np.random.default_rng(0).uniform(0, most, 5000)
    places = np.concatenate([steps, np.floor(halves), np.ceil(halves), spread, [0, most]]).astype(dtype)
    expected = np.rint(places.astype(np.float64) * 255 / most)
    np.testing.assert_array_equal(samples_to_uint8(places), expected)
    np.testing.assert_array_equal(samples_to_uint8(places, inverted=True), 255 - expected)


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
def test_floats_range_from_0_to_1(dtype: str) -> None:
    values = np.arange(256).astype(dtype) / np.dtype(dtype).type(255)
    np.testing.assert_array_equal(samples_to_uint8(values.astype(dtype)), np.arange(256))
    overshoot = np.array([-1e-3, 1.001], dtype)  # of a resampling: it rounds into the range
    np.testing.assert_array_equal(samples_to_uint8(overshoot), [0, 255])


@pytest.mark.parametrize("value", [2.0, 255.0, -0.1, np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 4])
def test_floats_outside_are_refused(value: float, place: int) -> None:
    values = np.full(5, 0.5, np.float32)
    values[place] = value
    with pytest.raises(SampleRangeError, match="0 to 1"):
        samples_to_uint8(values)


def test_nothing_of_no_samples() -> None:
    for dtype in (np.uint8, np.uint16, np.uint32, np.float32):
        assert samples_to_uint8(np.zeros((0, 3), dtype)).shape == (0, 3)


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_alpha_is_dropped_and_grey_repeated(samples: int) -> None:
    stored_HWS = np.random.default_rng(0).integers(0, 256, (4, 5, samples), dtype=np.uint8)
    canvas_HWC = np.zeros((4, 5, 3), np.uint8)
    paste_rgb(canvas_HWC, stored_HWS)
    for channel in range(3):
        np.testing.assert_array_equal(canvas_HWC[..., channel], stored_HWS[..., channel if samples > 2 else 0])


def test_palette_is_looked_up_within_a_larger_canvas() -> None:
    palette_LC = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    indices_HWS = np.array([[[0], [255], [7]]], np.uint8)
    canvas_HWC = np.full((3, 5, 3), 9, np.uint8)
    paste_rgb(canvas_HWC[1:2, 1:4], indices_HWS, palette_LC=palette_LC)
    np.testing.assert_array_equal(canvas_HWC[1, 1:4], palette_LC[[0, 255, 7]])
    assert (canvas_HWC[[0, 2]] == 9).all()


@pytest.mark.parametrize("step", [1, 3, 7, 100])
def test_overlaps_partition_the_region(step: int) -> None:
    for start in range(9):
        for stop in range(start + 1, 20):
            parts = list(axis_overlaps(start, stop, step))
            inside = [range(number * step + part.start, number * step + part.stop) for number, part, _ in parts]
            covered = [place for places in inside for place in places]
            assert covered == list(range(start, stop))
            filled = [place for _, _, outside in parts for place in range(outside.start, outside.stop)]
            assert filled == list(range(stop - start))
