"""Overlays: colours where the contours are, sizes, sheets, and files that are whole or absent."""

import os

import numpy as np
import pytest
from PIL import Image

from histofold.report.pictures import overlays
from histofold.report.pictures.overlays import (
    FALSE_RGB,
    MISSED_RGB,
    PREDICTION_RGB,
    TRUTH_RGB,
    contact_sheet,
    draw_overlay,
    encode_jpeg,
    encode_png,
    save_png,
)

TISSUE = (190, 120, 170)


def tissue(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), TISSUE, np.uint8)


def rectangle(shape: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


def rim(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask with a 4-neighbour outside it; the image's border counts as outside."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def test_truth_contour_is_exactly_the_rim_and_leaves_the_rest() -> None:
    mask = rectangle((40, 60), slice(10, 20), slice(30, 50))
    picture = draw_overlay(tissue(40, 60), mask, None)
    assert (picture[rim(mask)] == TRUTH_RGB).all()
    assert (picture[~rim(mask)] == TISSUE).all()


def test_prediction_is_drawn_over_truth_where_they_agree() -> None:
    mask = rectangle((40, 60), slice(0, 40), slice(55, 60))
    picture = draw_overlay(tissue(40, 60), mask, mask)
    assert (picture[rim(mask)] == PREDICTION_RGB).all()
    assert (picture[~rim(mask)] == TISSUE).all()


@pytest.mark.parametrize("side", [600, 900, 1800])
def test_both_lines_show_where_they_agree(side: int) -> None:
    mask = rectangle((side, side - 60), slice(side // 4, side // 2), slice(side // 4, side // 2))
    picture = draw_overlay(tissue(side, side - 60), mask, mask, max_side=side)
    across = picture[side * 3 // 8, side // 4 - 10 : side // 4 + 11].astype(int)
    blue_less_red = across[:, 2] - across[:, 0]
    assert blue_less_red.max() > 60, "no bluish line, though the truth is cyan"
    assert blue_less_red.min() < -150, "no yellow line, though the prediction is yellow"


@pytest.mark.parametrize(("missed", "tint"), [(True, MISSED_RGB), (False, FALSE_RGB)])
def test_errors_are_tinted_inside_by_their_kind(missed: bool, tint: tuple[int, int, int]) -> None:
    mask, empty = rectangle((50, 80), slice(10, 40), slice(20, 60)), np.zeros((50, 80), bool)
    picture = draw_overlay(tissue(50, 80), *((mask, empty) if missed else (empty, mask)))
    expected = np.array(TISSUE) + overlays._ERROR_OPACITY * (np.array(tint) - TISSUE)
    assert np.abs(picture[25, 40] - expected).max() <= 1
    assert tuple(picture[0, 0]) == TISSUE


@pytest.mark.parametrize(("truth", "prediction"), [(None, None), ("empty", "empty"), (None, "empty"), ("empty", None)])
def test_nothing_to_draw_gives_a_copy_of_the_image(truth: str | None, prediction: str | None) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 47, 3), np.uint8)
    masks = [None if kind is None else np.zeros((30, 47), bool) for kind in (truth, prediction)]
    picture = draw_overlay(image, *masks)
    assert np.array_equal(picture, image)
    assert not np.shares_memory(picture, image)


def test_full_mask_is_framed_at_the_border() -> None:
    picture = draw_overlay(tissue(21, 34), np.ones((21, 34), bool), None)
    frame = rim(np.ones((21, 34), bool))
    assert (picture[frame] == TRUTH_RGB).all()
    assert (picture[~frame] == TISSUE).all()


@pytest.mark.parametrize(("y", "x"), [(0, 0), (1199, 1999), (600, 0), (613, 1301)])
def test_one_pixel_survives_any_shrinking(y: int, x: int) -> None:
    mask = np.zeros((1200, 2000), bool)
    mask[y, x] = True
    picture = draw_overlay(tissue(1200, 2000), mask, None, max_side=100)
    assert picture.shape == (60, 100, 3)
    ys, xs = np.nonzero((picture == TRUTH_RGB).all(axis=2))
    assert len(ys) >= 1
    assert abs(ys - y / 20).max() <= 1.5
    assert abs(xs - x / 20).max() <= 1.5


def test_contour_lands_in_place_after_shrinking() -> None:
    mask = rectangle((600, 1000), slice(120, 360), slice(200, 700))
    picture = draw_overlay(tissue(600, 1000), mask, None, max_side=250)
    ys, xs = np.nonzero((picture == TRUTH_RGB).all(axis=2))
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (30, 89, 50, 174)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 1), (37, 1200), (901, 900), (900, 901)])
def test_size_is_bounded_and_never_enlarged(height: int, width: int) -> None:
    mask = np.ones((height, width), np.uint8)
    picture = draw_overlay(tissue(height, width), mask, mask)
    assert max(picture.shape[:2]) == min(900, max(height, width))
    assert min(picture.shape[:2]) >= 1


def test_line_grows_with_the_picture() -> None:
    widths = []
    for side in (200, 800, 1800):
        mask = rectangle((side, side), slice(side // 4, side // 2), slice(side // 4, side // 2))
        across = draw_overlay(tissue(side, side), mask, None, max_side=side)[side * 3 // 8, : side // 3]
        widths.append(int((across == TRUTH_RGB).all(axis=1).sum()))
    assert widths[0] < widths[1] < widths[2]


@pytest.mark.parametrize("order", ["F", "view"])
def test_memory_layout_does_not_matter(order: str) -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 70, 3), np.uint8)
    truth = rectangle((40, 70), slice(3, 30), slice(0, 44))
    prediction = rectangle((40, 70), slice(8, 40), slice(20, 70))
    if order == "F":
        strange = [np.asfortranarray(part) for part in (image, truth, prediction)]
    else:
        strange = [np.repeat(part, 2, axis=1)[:, ::2] for part in (image, truth, prediction)]
    assert np.array_equal(draw_overlay(*strange), draw_overlay(image, truth, prediction))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (np.zeros((5, 6), np.uint8), None),
        (np.zeros((5, 6, 4), np.uint8), None),
        (np.zeros((5, 6, 3), np.float32), None),
        (np.zeros((0, 6, 3), np.uint8), None),
        (np.zeros((5, 6, 3), np.uint8), np.zeros((6, 5), bool)),
    ],
)
def test_wrong_inputs_are_refused(image: np.ndarray, mask: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="first"):
        draw_overlay(image, mask, None)


def test_contact_sheet_places_every_image_and_keeps_proportions() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    shapes = [(50, 100), (100, 50), (300, 300)]
    images = [np.full((*shape, 3), colour, np.uint8) for shape, colour in zip(shapes, colours, strict=True)]
    sheet = contact_sheet(images, ["a", "b", "c"], columns=2, cell=120)
    for colour, (height, width) in zip(colours, [(60, 120), (120, 60), (120, 120)], strict=True):
        ys, xs = np.nonzero((sheet == colour).all(axis=2))
        assert (np.ptp(ys) + 1, np.ptp(xs) + 1) == (height, width)
        assert len(ys) == height * width
    assert (sheet[:, -1] == 255).all()
    assert (sheet[0] == 255).all()


def test_contact_sheet_writes_titles_within_their_cells() -> None:
    sheet = contact_sheet(
        [np.full((90, 90, 3), 255, np.uint8)] * 2, ["µ 0.87", "a long title " * 40], columns=2, cell=90
    )
    gap = 4
    inked = (sheet < 128).all(axis=2).any(axis=0)
    assert inked[gap : gap + 90].any()
    assert inked[2 * gap + 90 : 2 * gap + 180].any()
    assert not inked[gap + 90 : 2 * gap + 90].any()
    assert not inked[-gap:].any()


def test_long_titles_go_on_in_further_lines() -> None:
    def height(title: str) -> int:
        return contact_sheet([np.full((90, 90, 3), 0, np.uint8)], [title], columns=1, cell=90).shape[0]

    one, two, three = height("0001"), height("best: 0001, Dice 0.9"), height("best: " + "0001" * 20)
    assert two - one == three - two > 0
    assert height("word " * 100) == three


@pytest.mark.parametrize(
    ("count", "titles", "columns", "cell"), [(0, 0, 1, 50), (2, 1, 1, 50), (1, 1, 0, 50), (1, 1, 1, 5)]
)
def test_contact_sheet_refuses_senseless_calls(count: int, titles: int, columns: int, cell: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        contact_sheet([tissue(9, 9)] * count, ["t"] * titles, columns, cell)


def test_save_png_round_trips_and_leaves_no_neighbour(tmp_path) -> None:
    image = np.random.default_rng(2).integers(0, 256, (13, 29, 3), np.uint8)
    save_png(tmp_path / "deep" / "a.png", image)
    assert np.array_equal(np.array(Image.open(tmp_path / "deep" / "a.png")), image)
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["a.png"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.png"
    save_png(path, tissue(4, 7))
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="no space"):
            save_png(path, tissue(5, 3))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
    save_png(path, tissue(5, 3))
    assert np.array_equal(np.array(Image.open(path)), tissue(5, 3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_a_picture_that_cannot_be_encoded_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "a.png"
    save_png(path, tissue(4, 7))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="RGB uint8"):
        save_png(path, np.zeros((4, 7), np.float32))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_jpeg_keeps_thin_contours_coloured() -> None:
    image = tissue(64, 96)
    image[:, 48] = TRUTH_RGB
    stem = tuple(int(value) for value in np.array(Image.open(_stream(encode_jpeg(image))))[32, 48])
    assert np.abs(np.array(stem) - TRUTH_RGB).max() < 40
    assert np.array_equal(np.array(Image.open(_stream(encode_png(image)))), image)


def _stream(content: bytes):
    import io

    return io.BytesIO(content)
