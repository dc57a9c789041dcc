"""PNG files by rows: what Pillow decodes as a whole, in whatever order regions are read."""

import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from histofold.core.faults import ImageError
from histofold.imaging.formats import png_rows
from histofold.imaging.formats.png_rows import open_png_rows

HEIGHT, WIDTH = 47, 29


def smooth(shape, seed=0):
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=shape), (0, 0), 3)
    return np.clip(128 + 400 * noise, 0, 255).astype(np.uint8)


def written(path, mode):
    image = Image.fromarray(smooth((HEIGHT, WIDTH, 3)))
    image = image.quantize(13) if mode == "P4" else image.convert(mode)
    image.save(path, **({"bits": 4} if mode == "P4" else {}))
    return np.asarray(Image.open(path).convert("RGB"))


def read_all(path):
    reader = open_png_rows(path)
    canvas_HWC = np.zeros((*reader.shape_hw, 3), np.uint8)
    reader.read_into(canvas_HWC, 0, 0)
    return canvas_HWC


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(png_rows, "_ROWS_BLOCK_BYTES", 300)
    monkeypatch.setattr(png_rows, "_ROWS_KEPT_BYTES", 900)
    monkeypatch.setattr(png_rows, "_ROWS_PIECE_BYTES", 50)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "P4", "RGB", "RGBA"])
def test_every_colour_type(tmp_path, mode):
    expected_HWC = written(tmp_path / "a.png", mode)
    np.testing.assert_array_equal(read_all(tmp_path / "a.png"), expected_HWC)


def test_sixteen_bits(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), values)
    np.testing.assert_array_equal(read_all(tmp_path / "a.png"), np.rint(values[:, :, ::-1] / 257).astype(np.uint8))


def test_regions_in_any_order(tmp_path):
    expected_HWC = written(tmp_path / "a.png", "RGB")
    reader = open_png_rows(tmp_path / "a.png")
    rng = np.random.default_rng(1)
    for _ in range(60):
        y, x = int(rng.integers(HEIGHT)), int(rng.integers(WIDTH))
        region = np.zeros((int(rng.integers(1, HEIGHT - y + 1)), int(rng.integers(1, WIDTH - x + 1)), 3), np.uint8)
        reader.read_into(region, y, x)
        np.testing.assert_array_equal(region, expected_HWC[y : y + region.shape[0], x : x + region.shape[1]])
        assert reader._kept.nbytes <= 900 + 300


def test_all_filters_are_undone(tmp_path):
    """Each row with another filter, made by the definitions of the standard."""
    image_HWC = smooth((HEIGHT, WIDTH, 3), 2)
    rows, above = b"", np.zeros(WIDTH * 3, int)
    for number, row in enumerate(image_HWC.reshape(HEIGHT, -1).astype(int)):
        left = np.concatenate([[0] * 3, row[:-3]])
        corner = np.concatenate([[0] * 3, above[:-3]])
        guess = left + above - corner
        by = np.abs(np.stack([guess - left, guess - above, guess - corner]))
        paeth = np.choose(by.argmin(axis=0), [left, above, corner])
        kind = number % 5
        filtered = row - [np.zeros_like(row), left, above, (left + above) // 2, paeth][kind]
        rows += bytes([kind]) + (filtered % 256).astype(np.uint8).tobytes()
        above = row
    write_png(tmp_path / "a.png", rows)
    np.testing.assert_array_equal(read_all(tmp_path / "a.png"), image_HWC)


def write_png(path, rows, spoil=False):
    def chunk(kind, data):
        total = zlib.crc32(kind + data) ^ (spoil and kind == b"IDAT")
        return len(data).to_bytes(4, "big") + kind + data + total.to_bytes(4, "big")

    size = WIDTH.to_bytes(4, "big") + HEIGHT.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("rows", "spoil", "words"),
    [
        (bytes((3 * WIDTH + 1) * (HEIGHT - 2)), False, "2 rows too early"),
        (b"\5" * (3 * WIDTH + 1) * HEIGHT, False, "filter that is none"),
        (bytes((3 * WIDTH + 1) * HEIGHT), True, "sum of a chunk"),
    ],
)
def test_damage_is_named(tmp_path, rows, spoil, words):
    write_png(tmp_path / "a.png", rows, spoil)
    with pytest.raises(ImageError, match=words):
        read_all(tmp_path / "a.png")


def test_interlaced_ones_are_left_to_others(tmp_path):
    write_png(tmp_path / "a.png", bytes((3 * WIDTH + 1) * HEIGHT))
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[28] = 1
    (tmp_path / "a.png").write_bytes(bytes(data))
    assert open_png_rows(tmp_path / "a.png") is None
