"""The contact sheet of training tiles shows what the loader gives."""

import numpy as np
import pandas as pd
import pytest
import torch

from histofold.predict.views import normalise_tiles
from histofold.report.pictures.overlays import TRUTH_RGB, contact_sheet
from histofold.report.pictures.views import draw_view_sheet, network_picture, spread_tiles
from histofold.schema.preprocessing import Preprocessing

SIDE = 48
PLAIN = Preprocessing(normalise="none")


@pytest.fixture(autouse=True)
def short_titles(monkeypatch):
    """Titles of one line, so that where a picture lies does not depend on them."""
    monkeypatch.setattr("histofold.report.pictures.overlays._TITLE_LINES", 1)


class Tiles:
    """Tiles of noise; a draw is told by its numbers."""

    def __init__(self, bits=0, side=SIDE):
        self.bits, self.side, self.asked = bits, side, []

    def read(self, tile):
        rng = np.random.default_rng(tile)
        bits_HW = np.zeros((self.side, self.side), np.uint8)
        bits_HW[10:30, 12:36] = self.bits
        return rng.integers(60, 200, (self.side, self.side, 3), np.uint8), bits_HW

    def __getitem__(self, draw):
        self.asked.append(draw)
        image_HWC, bits_HW = self.read(sum(draw))
        return {
            "image": torch.from_numpy(image_HWC),
            "mask": torch.from_numpy(bits_HW),
            "organ": torch.tensor(draw[0] - 1),
            "log_zoom": torch.tensor(0.1 * draw[2]),
        }


def cells_of(sheet_HWC, rows, columns, cell):
    """The pictures of a sheet, found by laying the same sheet out with pictures of one colour each."""
    flat = [np.full((cell, cell, 3), 1 + number, np.uint8) for number in range(rows * columns)]
    layout_HW = contact_sheet(flat, [""] * len(flat), columns, cell)[..., 0]
    assert layout_HW.shape == sheet_HWC.shape[:2]
    return [sheet_HWC[layout_HW == 1 + number].reshape(cell, cell, 3) for number in range(rows * columns)]


@pytest.mark.parametrize("normalise", ["none", "imagenet", "dataset"])
def test_each_cell_is_what_the_loader_gives(normalise):
    tiles = Tiles()
    preprocessing = Preprocessing(normalise=normalise, mean=(0.7, 0.5, 0.6), std=(0.1, 0.2, 0.3))
    sheet_HWC = draw_view_sheet(tiles, [4, 0], preprocessing, draws=2, cell=SIDE)
    cells = cells_of(sheet_HWC, 2, 3, SIDE)
    assert tiles.asked == [(4, 0, 0), (4, 0, 1), (0, 0, 2), (0, 0, 3)]
    for cell, source in zip(cells, (4, 4, 5, 0, 2, 3), strict=True):
        assert (cell == Tiles().read(source)[0]).all()


def test_classes_are_outlined_and_ignored_pixels_greyed():
    image_HWC = Tiles().read(0)[0]
    for bits in (1, 2, 64):
        cell = cells_of(draw_view_sheet(Tiles(bits), [0], PLAIN, draws=1, cell=SIDE), 1, 2, SIDE)[0]
        line_HW = (cell == TRUTH_RGB).all(axis=2)
        assert line_HW[10, 12:36].all()
        assert line_HW[10:30, 35].all()
        assert (cell == image_HWC)[~line_HW].all()
    ignored, both = (
        cells_of(draw_view_sheet(Tiles(bits), [0], PLAIN, draws=1, cell=SIDE), 1, 2, SIDE)[0] for bits in (128, 129)
    )
    changed_HW = (ignored != image_HWC).any(axis=2)
    assert changed_HW[10:30, 12:36].mean() > 0.95
    assert not changed_HW[:10].any()
    assert not changed_HW[30:].any()
    assert (both[10, 12:36] == TRUTH_RGB).all()


def test_a_mask_of_one_pixel_shows_on_a_small_picture():
    tiles = Tiles(side=192)
    image_HWC, bits_HW = tiles.read(0)
    bits_HW[191, 0] = 1
    tiles.read = lambda tile: (image_HWC, bits_HW)
    cell = cells_of(draw_view_sheet(tiles, [0], PLAIN, draws=1, cell=32), 1, 2, 32)[0]
    assert (cell[31, 0] == TRUTH_RGB).all()


def test_own_moments_show_no_colour_of_their_own():
    image_HWC = Tiles().read(1)[0]
    per_image = Preprocessing(normalise="per_image")
    picture_HWC = network_picture(image_HWC, per_image)
    darker_HWC = (image_HWC // 2 + 20).astype(np.uint8)
    assert np.abs(network_picture(darker_HWC, per_image).astype(int) - picture_HWC).max() <= 3
    values = (
        normalise_tiles(torch.from_numpy(image_HWC)[None].permute(0, 3, 1, 2), per_image)[0].permute(1, 2, 0).numpy()
    )
    inside_HW = (np.abs(values) < 2).all(axis=2)
    assert np.abs((values * 0.2 + 0.5) * 255 - picture_HWC)[inside_HW].max() <= 0.51
    assert network_picture(np.full((8, 8, 3), 244, np.uint8), per_image).shape == (8, 8, 3)


def test_tiles_with_structures_of_all_organs_come_first():
    index = pd.DataFrame(
        {"bin": ["none"] * 20 + ["small"] * 9 + ["large"], "organ": ["lung"] * 28 + ["kidney", "spleen"]}
    )
    chosen = spread_tiles(index, 5)
    assert set(index["organ"].iloc[chosen[:3]]) == {"lung", "kidney", "spleen"}
    assert (index["bin"].iloc[chosen] != "none").all()
    assert len(set(chosen)) == 5
    assert spread_tiles(index, 5) == chosen
    assert sorted(spread_tiles(index, 100)) == list(range(30))
