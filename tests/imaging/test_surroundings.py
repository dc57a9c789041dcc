"""Tiles of a slide and what lies around them come back as the slide shows it."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from histofold.core.faults import ImageError
from histofold.imaging import surroundings
from histofold.imaging.slide import open_slide
from histofold.imaging.surroundings import open_among, tile_neighbours, with_surroundings
from histofold.schema.sample import Sample

HEIGHT, WIDTH = 20, 28


@pytest.fixture
def tiles(tmp_path):
    """A slide of 3 x 3 tiles, and its tiles by place."""
    slide_HWC = np.random.default_rng(0).integers(0, 255, (3 * HEIGHT, 3 * WIDTH, 3), np.uint8)
    places = {}
    for y in range(0, 3 * HEIGHT, HEIGHT):
        for x in range(0, 3 * WIDTH, WIDTH):
            path = tmp_path / f"{y}_{x}.png"
            cv2.imwrite(str(path), slide_HWC[y : y + HEIGHT, x : x + WIDTH, ::-1])
            places["s", y, x] = path
    return slide_HWC, places


def opened(places, path):
    neighbours = tile_neighbours(places, 40)[path]
    return open_among(neighbours, Sample(id="t", image_path=path))


def test_the_middle_tile_sees_the_slide_around_it(tiles):
    slide_HWC, places = tiles
    with opened(places, places["s", HEIGHT, WIDTH]) as tile:
        assert tile.shape_hw == (HEIGHT, WIDTH)
        seen = with_surroundings(tile, 7)
        assert seen.shape_hw == (HEIGHT + 14, WIDTH + 14)
        whole_HWC = slide_HWC[HEIGHT - 7 : 2 * HEIGHT + 7, WIDTH - 7 : 2 * WIDTH + 7]
        np.testing.assert_array_equal(seen.read_all(), whole_HWC)
        np.testing.assert_array_equal(seen.read(slice(3, 9), slice(5, 30)), whole_HWC[3:9, 5:30])


def test_what_no_neighbour_shows_is_reflected(tiles, caplog):
    slide_HWC, places = tiles
    places["s", 0, WIDTH].write_bytes(b"broken")
    with opened(places, places["s", 0, 0]) as corner, caplog.at_level(logging.WARNING):
        seen_HWC = with_surroundings(corner, 6).read_all()
    own_HWC = slide_HWC[:HEIGHT, :WIDTH]
    reflected_HWC = np.pad(own_HWC, ((6, 6), (6, 6), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(seen_HWC[: HEIGHT + 6], reflected_HWC[: HEIGHT + 6])
    np.testing.assert_array_equal(seen_HWC[HEIGHT + 6 :, 6:], slide_HWC[HEIGHT : HEIGHT + 6, : WIDTH + 6])
    assert "what lies beside it is reflected" in caplog.text


def test_slides_without_neighbours_are_reflected_and_large_ones_refused(tiles, monkeypatch):
    _, places = tiles
    with open_slide(places["s", 0, 0]) as slide:
        seen_HWC = with_surroundings(slide, HEIGHT + 5).read_all()  # further than the tile reaches
        assert seen_HWC.shape == (3 * HEIGHT + 10, WIDTH + 2 * HEIGHT + 10, 3)
        monkeypatch.setattr(surroundings, "MOST_TILE_PIXELS", 100)
        with pytest.raises(ImageError, match="context_px"):
            with_surroundings(slide, 5)


def test_neighbours_are_of_one_slide_and_near():
    generator = np.random.default_rng(0)
    places = {("ab"[number % 2], *generator.integers(-50, 50, 2).tolist()): Path(str(number)) for number in range(60)}
    found = tile_neighbours(places, 13)
    for (slide, y, x), path in places.items():
        expected = {
            (top - y, left - x, other)
            for (name, top, left), other in places.items()
            if name == slide and other != path and abs(top - y) < 13 and abs(left - x) < 13
        }
        assert set(found[path]) == expected
