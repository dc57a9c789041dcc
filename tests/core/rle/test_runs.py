"""Run-length codes: laws on hard masks, for the compiled and the plain implementation, against independent peers."""

from __future__ import annotations

import pickle
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from hard_masks import use_implementation
from histofold.core.jit import njit
from histofold.core.rle.runs import (
    RunEncoder,
    Runs,
    class_runs,
    decode_rle,
    decode_rle_window,
    encode_rle,
    join_classes,
    parse_rle,
    runs_from_mask,
    runs_to_mask,
    runs_to_text,
    runs_to_window,
)

ORDERS = ("F", "C")


@pytest.fixture(params=["numba", "numpy"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return use_implementation(request.param, monkeypatch)


def reference_rle(mask_HW: np.ndarray, order: str) -> str:
    """Slow and plain: one pixel after the other."""
    pairs, length = [], 0
    flat = [*(np.asarray(mask_HW) != 0).flatten(order).tolist(), False]
    for position, is_set in enumerate(flat):
        if is_set:
            length += 1
        elif length:
            pairs += [position - length + 1, length]
            length = 0
    return " ".join(map(str, pairs))


def random_mask(rng: np.random.Generator, largest: int = 40) -> np.ndarray:
    """Any shape, any density from empty to full, smooth along a random axis or not, some corners forced."""
    height, width = rng.integers(1, largest, 2)
    mask_HW = rng.random((height, width)) < rng.choice([0, 0.02, 0.1, 0.5, 0.9, 0.98, 1])
    if rng.random() < 0.3:
        mask_HW = np.repeat(mask_HW, 3, axis=int(rng.integers(2)))
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        if rng.random() < 0.2:
            mask_HW[corner] = rng.random() < 0.8
    return mask_HW


def check_round_trips(count: int, seed: int, with_reference: bool) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        mask_HW = random_mask(rng)
        for order in ORDERS:
            text = encode_rle(mask_HW, order)
            decoded_HW = decode_rle(text, mask_HW.shape, order)
            assert decoded_HW.dtype == bool
            assert decoded_HW.flags.c_contiguous
            assert np.array_equal(decoded_HW, mask_HW), (mask_HW.shape, order)
            assert not with_reference or text == reference_rle(mask_HW, order), (mask_HW.shape, order)


def test_round_trip_and_reference() -> None:
    check_round_trips(1000, seed=0, with_reference=True)


@pytest.mark.slow
def test_round_trip_of_10000_masks(implementation: str) -> None:
    check_round_trips(10000 if implementation == "numba" else 2000, seed=1, with_reference=False)


@pytest.mark.parametrize("shape_hw", [(1, 1), (1, 9), (9, 1), (2, 700), (700, 2), (300, 517), (517, 300)])
@pytest.mark.parametrize("order", ORDERS)
def test_first_and_last_pixels_of_every_line(shape_hw: tuple[int, int], order: str) -> None:
    empty_HW = np.zeros(shape_hw, bool)
    full_HW = ~empty_HW
    edges_HW = full_HW.copy()
    edges_HW[1:-1, 1:-1] = False
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        one_HW, hole_HW = empty_HW.copy(), full_HW.copy()
        one_HW[corner], hole_HW[corner] = True, False
        for mask_HW in (empty_HW, full_HW, edges_HW, one_HW, hole_HW):
            text = encode_rle(mask_HW, order)
            assert text == reference_rle(mask_HW, order)
            assert np.array_equal(decode_rle(text, shape_hw, order), mask_HW)


def test_known_texts_on_a_mask_that_is_not_square() -> None:
    mask_HW = np.array([[1, 0, 1], [1, 1, 0]], bool)
    assert encode_rle(mask_HW) == "1 2 4 2"
    assert encode_rle(mask_HW, "C") == "1 1 3 3"
    assert encode_rle(np.zeros((3, 5))) == ""
    assert encode_rle(np.ones((3, 5))) == "1 15"
    first, last = np.zeros((3, 5)), np.zeros((3, 5))
    first[0, 0] = last[2, 4] = 1
    assert (encode_rle(first), encode_rle(last)) == ("1 1", "15 1")


@pytest.mark.parametrize("density", [0.001, 0.03, 0.5])
@pytest.mark.parametrize("order", ORDERS)
def test_larger_than_every_block(density: float, order: str, implementation: str) -> None:
    rng = np.random.default_rng(2)
    for shape_hw in ((301, 1900), (1900, 301)):
        mask_HW = rng.random(shape_hw) < density
        text = encode_rle(mask_HW, order)
        assert text == reference_rle(mask_HW, order)
        assert np.array_equal(decode_rle(text, shape_hw, order), mask_HW)


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "i1", "u2", "i2", ">i2", "u4", "i4", "u8", "i8", "f2", "f4", ">f4", "f8", "c8", "c16"]
)
def test_any_dtype(dtype: str) -> None:
    rng = np.random.default_rng(3)
    for shape_hw in ((37, 600), (300, 11)):
        values_HW = (rng.integers(-3, 3, shape_hw) * (rng.random(shape_hw) < 0.4)).astype(dtype)
        for order in ORDERS:
            assert encode_rle(values_HW, order) == reference_rle(values_HW != 0, order)
            assert encode_rle(values_HW.T, order) == reference_rle((values_HW != 0).T, order)


def test_bytes_that_are_neither_0_nor_1() -> None:
    labels_HW = np.arange(7 * 300, dtype=np.uint8).reshape(7, 300)
    for order in ORDERS:
        assert encode_rle(labels_HW, order) == reference_rle(labels_HW != 0, order)
        assert encode_rle(labels_HW.view(bool), order) == reference_rle(labels_HW != 0, order)


def test_small_and_subnormal_floats_are_mask_and_infinity_too() -> None:
    assert encode_rle(np.array([[0.0, -0.0, 5e-324, -np.inf, 0.25]])) == "3 3"


@pytest.mark.parametrize("order", ORDERS)
def test_any_strides(order: str) -> None:
    whole = np.random.default_rng(4).random((60, 700)) < 0.3
    views = [
        whole[3:50, 5:677], whole[::2], whole[:, ::3], whole[::-1], whole[:, ::-1], whole[::-2, ::-1], whole.T,
        whole.T[::-1], whole.T[5:, 2:], np.asfortranarray(whole), np.asfortranarray(whole)[4:, 9:], whole[7:8],
        whole[:, 7:8], np.broadcast_to(whole[0], (5, 700)), np.broadcast_to(whole[:, :1], (60, 9)),
    ]  # fmt: skip
    for view in views:
        expected = reference_rle(view.copy(), order)
        assert encode_rle(view, order) == expected
        assert encode_rle(view.astype(np.float32, order="K"), order) == expected
        frozen = view.copy(order="K")
        frozen.flags.writeable = False
        assert encode_rle(frozen, order) == expected


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), ()])
def test_masks_of_other_dimensions_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="needs two dimensions"):
        encode_rle(np.zeros(shape))


@pytest.mark.parametrize("shape_hw", [(0, 5), (5, 0)])
def test_masks_without_pixels_are_refused(shape_hw: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no pixels"):
        encode_rle(np.zeros(shape_hw))


def test_masks_of_other_things_are_refused() -> None:
    with pytest.raises(ValueError, match="booleans or numbers"):
        encode_rle(np.array([["a", "b"]]))
    for dtype in (np.float16, np.float32, np.complex64):
        mask_HW = np.zeros((40, 30), dtype)
        mask_HW[-1, -1] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            encode_rle(mask_HW)
    with pytest.raises(ValueError, match="order='A'"):
        encode_rle(np.zeros((2, 3)), "A")


@pytest.mark.parametrize("text", ["", " \n\t ", None, float("nan"), np.float64("nan"), np.float32("nan")])
def test_no_mask(text: str | float | None) -> None:
    for order in ORDERS:
        assert np.array_equal(decode_rle(text, (4, 7), order), np.zeros((4, 7), bool))
        assert parse_rle(text, (4, 7), order).area == 0


@pytest.mark.parametrize(
    "text",
    ["1 2 4 2", "  1\t2\n4 \r\n 2\v", "01 002 4 2", "1 2 4 " + "0" * 5000 + "2", "1 1 2 1 4 1 5 1", "1\x1c2 4 2"],
)
def test_any_blanks_leading_zeros_and_touching_runs(text: str) -> None:
    assert np.array_equal(decode_rle(text, (2, 3)), np.array([[1, 0, 1], [1, 1, 0]], bool))


MALFORMED = {
    "odd count": ("1 2 4", 'pair 2 of 2 ("4")', "without a length"),
    "one number": ("7", 'pair 1 of 1 ("7")', "without a length"),
    "decimal point": ("1 2 4.0 2", 'pair 2 of 2 ("4.0 2")', "whole numbers"),
    "plus": ("+1 2", 'pair 1 of 1 ("+1 2")', "whole numbers"),
    "minus": ("1 2 4 -2", 'pair 2 of 2 ("4 -2")', "whole numbers"),
    "exponent": ("1e0 2", 'pair 1 of 1 ("1e0 2")', "whole numbers"),
    "hexadecimal": ("0x1 2", 'pair 1 of 1 ("0x1 2")', "whole numbers"),
    "underscore": ("1_0 2", 'pair 1 of 1 ("1_0 2")', "whole numbers"),
    "comma": ("1,2 3 4", 'pair 1 of 2 ("1,2 3")', "whole numbers"),
    "word": ("nan", 'pair 1 of 1 ("nan")', "without a length"),
    "words": ("1 2 inf 2", 'pair 2 of 2 ("inf 2")', "whole numbers"),
    "null byte": ("1 2\x00", "pair 1 of 1", "whole numbers"),
    "other alphabet's digits": ("\u0661 2", "pair 1 of 1", "whole numbers"),
    "superscript": ("1 \u00b2", "pair 1 of 1", "whole numbers"),
    "start of zero": ("0 2", 'pair 1 of 1 ("0 2")', "start below 1"),
    "length of zero": ("1 2 4 0", 'pair 2 of 2 ("4 0")', "length below 1"),
    "SenNet's empty": ("1 0", 'pair 1 of 1 ("1 0")', "length below 1"),
    "starts beyond": ("1 2 36 1", 'pair 2 of 2 ("36 1")', "5 x 7 = 35"),
    "ends beyond": ("1 2 35 2", 'pair 2 of 2 ("35 2")', "5 x 7 = 35"),
    "unsorted": ("10 2 4 2", 'pair 2 of 2 ("4 2")', "before position 12"),
    "overlapping": ("1 4 4 2 9 1", 'pair 2 of 3 ("4 2")', "before position 5"),
    "repeated": ("1 4 1 4", 'pair 2 of 2 ("1 4")', "before position 5"),
    "length overflows int64": ("1 9223372036854775808", 'pair 1 of 1 ("1 9223372036854775808")', "beyond"),
    "start overflows int64": ("99999999999999999999 1", 'pair 1 of 1 ("99999999999999999999 1")', "beyond"),
    "sum overflows int64": ("9223372036854775807 9223372036854775807", "pair 1 of 1", "beyond"),
    "wraps to a legal number": ("18446744073709551617 2", 'pair 1 of 1 ("18446744073709551617 2")', "beyond"),
    "longer than Python reads": ("1 " + "9" * 6000, f'pair 1 of 1 ("1 {"9" * 40}...")', "beyond"),
    "first of several faults": ("1 2 2 1 x 1 0 0", 'pair 2 of 4 ("2 1")', "before position 3"),
}


@pytest.mark.parametrize(("text", "pair", "reason"), MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("order", ORDERS)
def test_malformed_texts_name_the_pair(text: str, pair: str, reason: str, order: str) -> None:
    for decode in (decode_rle, parse_rle):
        with pytest.raises(ValueError, match="rle pair") as caught:
            decode(text, (5, 7), order)
        assert pair in str(caught.value)
        assert reason in str(caught.value)
    with pytest.raises(ValueError, match="rle pair"):
        decode_rle_window(text, (5, 7), (0, 0, 1, 1), order)


@pytest.mark.parametrize("text", [b"1 2", 12, 1.0, ["1", "2"], np.array([1, 2]), True])
def test_texts_that_are_none_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="not text"):
        decode_rle(text, (5, 7))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape_hw", [(0, 5), (5, 0), (-1, 5), (5,), (1, 2, 3), 5, (2.0, 3), None, "ab"])
def test_shapes_that_are_none_are_refused(shape_hw: object) -> None:
    for make in (lambda: decode_rle("", shape_hw), lambda: RunEncoder(shape_hw)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="shape_hw"):
            make()


def test_numpy_integers_are_a_shape() -> None:
    assert decode_rle("1 2", tuple(np.array([3, 5]))).shape == (3, 5)


def random_span(rng: np.random.Generator, side: int) -> tuple[int, int]:
    start = int(rng.integers(0, side))
    return start, int(rng.integers(start + 1, side + 1))


@pytest.mark.parametrize("order", ORDERS)
def test_windows_equal_slices_of_the_whole(order: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(400):
        mask_HW = random_mask(rng)
        text = encode_rle(mask_HW, order)
        runs = parse_rle(text, mask_HW.shape, order)
        (y0, y1), (x0, x1) = (random_span(rng, side) for side in mask_HW.shape)
        for window in ((slice(y0, y1), slice(x0, x1)), ((y0, y1), (x0, x1)), (y0, x0, y1, x1)):
            window_HW = decode_rle_window(text, mask_HW.shape, window, order)
            assert window_HW.dtype == bool
            assert window_HW.flags.c_contiguous
            assert np.array_equal(window_HW, mask_HW[y0:y1, x0:x1])
        assert np.array_equal(runs.to_window(slice(y0, y1), slice(x0, x1)), mask_HW[y0:y1, x0:x1])
        assert np.array_equal(runs.to_window((slice(None), slice(x0, None))), mask_HW[:, x0:])


@pytest.mark.parametrize(
    "window",
    [
        (0, 0, 6, 7), (0, 0, 5, 8), (-1, 0, 5, 7), (0, -1, 5, 7), (2, 2, 2, 4), (3, 2, 2, 4), (5, 0, 6, 7),
        (slice(0, 6), slice(0, 7)), (slice(-3, None), slice(0, 7)), (slice(0, 5, 2), slice(0, 7)),
        ((0, 5), (0, 7, 1)), (0, 5, 0), (0.0, 0, 5, 7), (slice(0, 5),), 5, None,
    ],
)  # fmt: skip
def test_windows_that_are_none_are_refused(window: object) -> None:
    with pytest.raises(ValueError, match="window="):
        decode_rle_window("1 2", (5, 7), window)  # type: ignore[arg-type]


def cut(rng: np.random.Generator, length: int) -> list[slice]:
    """Bands of any heights, some of them empty."""
    cuts = np.sort(rng.integers(0, length + 1, int(rng.integers(0, 6))))
    edges = [0, *cuts.tolist(), length]
    return [slice(start, stop) for start, stop in pairwise(edges)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_streaming_equals_the_whole(order: str, axis: str) -> None:
    rng = np.random.default_rng(6)
    for _ in range(300):
        mask_HW = random_mask(rng)
        dtype = rng.choice(["?", "u1", "f4"])
        encoder = RunEncoder(mask_HW.shape, order, axis)
        for span in cut(rng, mask_HW.shape[axis == "columns"]):
            band = mask_HW[span] if axis == "rows" else mask_HW[:, span]
            band = np.array(band, dtype=dtype, order=rng.choice(["C", "F"]))
            encoder.add(band)
            band[:] = ~band.astype(bool)  # a caller may use its buffer again
        assert encoder.finish() == encode_rle(mask_HW, order)
        assert encoder.runs() == runs_from_mask(mask_HW, order)


@pytest.mark.parametrize("order", ORDERS)
def test_streaming_more_changes_than_the_buffer_holds(order: str) -> None:
    mask_HW = np.random.default_rng(7).random((250, 600)) < 0.5
    for axis, bands in (("rows", np.split(mask_HW, 5)), ("columns", np.split(mask_HW, 3, axis=1))):
        encoder = RunEncoder(mask_HW.shape, order, axis)
        for band in bands:
            encoder.add(band)
        assert encoder.finish() == encode_rle(mask_HW, order)


def test_streaming_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="axis='x'"):
        RunEncoder((3, 5), axis="x")
    encoder = RunEncoder((3, 5))
    with pytest.raises(ValueError, match="5 pixels wide"):
        encoder.add(np.zeros((3, 4)))
    encoder.add(np.ones((2, 5)))
    with pytest.raises(ValueError, match="only 2 of the mask's 3 rows"):
        encoder.finish()
    with pytest.raises(ValueError, match="2 rows after 2: the mask has only 3"):
        encoder.add(np.ones((2, 5)))
    with pytest.raises(ValueError, match="two dimensions"):
        encoder.add(np.ones(5))
    encoder.add(np.ones((1, 5)))
    assert encoder.finish() == runs_to_text(encoder.runs()) == "1 15"
    with pytest.raises(ValueError, match="finished"):
        encoder.add(np.ones((1, 5)))
    with pytest.raises(ValueError, match="3 pixels high"):
        RunEncoder((3, 5), axis="columns").add(np.zeros((2, 5)))


def test_runs_know_their_area_frame_and_equality() -> None:
    mask_HW = np.random.default_rng(8).random((13, 29)) < 0.4
    for order in ORDERS:
        runs = runs_from_mask(mask_HW, order)
        assert (runs.starts.dtype, runs.lengths.dtype) == (np.int64, np.int64)
        assert runs.area == mask_HW.sum()
        assert runs.shape_hw == (13, 29)
        assert np.array_equal(runs.to_mask(), mask_HW)
        assert np.array_equal(runs_to_mask(runs), mask_HW)
        assert np.array_equal(runs_to_window(runs, (1, 2, 13, 20)), mask_HW[1:13, 2:20])
        assert runs_to_text(runs) == encode_rle(mask_HW, order)
        assert parse_rle(runs_to_text(runs), (13, 29), order) == runs == pickle.loads(pickle.dumps(runs))
        assert runs != Runs(runs.starts, runs.lengths, (29, 13), order)
    assert runs_from_mask(mask_HW, "F") != runs_from_mask(mask_HW, "C")


def test_runs_refuse_parts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 starts and 1 lengths"):
        Runs(np.array([0, 4]), np.array([1]), (3, 5))
    with pytest.raises(ValueError, match="starts of runs"):
        Runs(np.array([0.5]), np.array([1]), (3, 5))
    with pytest.raises(ValueError, match="shape_hw"):
        Runs(np.array([0]), np.array([1]), (3, 0))


@pytest.mark.parametrize(
    ("starts", "lengths"),
    [([-1], [2]), ([14], [2]), ([3], [0]), ([3], [-1]), ([5, 2], [1, 1]), ([2, 3], [2, 1]), ([2**62], [2**62])],
)
def test_runs_that_no_mask_has_are_refused(starts: list[int], lengths: list[int]) -> None:
    assert Runs(np.array([0, 3]), np.array([3, 12]), (3, 5)).area == 15
    with pytest.raises(ValueError, match="runs must ascend"):
        Runs(np.array(starts), np.array(lengths), (3, 5))


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_joined_classes_come_apart_again_and_a_single_one_is_bare(classes: int) -> None:
    rng = np.random.default_rng(classes)
    runs = [runs_from_mask(rng.random((5, 9)) < 0.4) for _ in range(classes)]
    masks = join_classes(runs)
    assert class_runs(masks) == tuple(runs)
    assert isinstance(masks, tuple) == (classes > 1)


def test_equals_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(9)
    for _ in range(200):
        mask_HW = random_mask(rng)
        theirs = coco.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
        runs = runs_from_mask(mask_HW)
        # COCO counts alternate background and mask, background first; ours name each run's start instead.
        ends = runs.starts + runs.lengths
        gaps = runs.starts - np.concatenate([[0], ends[:-1]])[: len(runs)]
        counts = [*np.stack([gaps, runs.lengths], axis=1).reshape(-1).tolist()]
        rest = mask_HW.size - (int(ends[-1]) if len(runs) else 0)
        ours = coco.frPyObjects({"size": list(mask_HW.shape), "counts": counts + [rest] * (rest > 0)}, *mask_HW.shape)
        assert ours["counts"] == theirs["counts"]
        assert runs.area == coco.area(theirs)
        assert np.array_equal(runs.to_mask(), coco.decode(theirs).astype(bool))


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
import numpy as np
from histofold.core.regions import keep_largest
from histofold.core.rle.runs import decode_rle, encode_rle, runs_from_mask
mask_HW = np.eye(4, 7)
print(encode_rle(mask_HW), decode_rle("2 3", (4, 7)).sum(), keep_largest(runs_from_mask(mask_HW)).area)
"""


def test_everything_works_where_numba_is_missing(implementation: str) -> None:
    if implementation == "numpy":
        run = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, text=True, check=True)
        assert run.stdout.split() == ["1", "1", "6", "1", "11", "1", "16", "1", "3", "4"]


def test_functions_without_a_source_file_are_compiled_uncached() -> None:
    names: dict[str, object] = {}
    exec("def add_one(value):\n    return value + 1", names)
    assert njit(names["add_one"])(2) == 3  # type: ignore[arg-type]
