"""BMP files of every usual depth: the same pixels as Pillow's, region by region, and refused in words."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from histofold.core.faults import ImageError
from histofold.imaging.formats.bitmap import open_bitmap

HEIGHT, WIDTH = 13, 21


def picture(mode):
    rng = np.random.default_rng(3)
    image_HWC = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return Image.fromarray(image_HWC).convert(mode)


def saved(path, image):
    image.save(path, "BMP")
    return np.asarray(Image.open(path).convert("RGB"))


def read_all(path):
    reader = open_bitmap(path, 10**6)
    canvas_HWC = np.zeros((*reader.shape_hw, 3), np.uint8)
    reader.read_into(canvas_HWC, 0, 0)
    return canvas_HWC


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_depths_that_pillow_writes(tmp_path, mode):
    expected_HWC = saved(tmp_path / "a.bmp", picture(mode))
    np.testing.assert_array_equal(read_all(tmp_path / "a.bmp"), expected_HWC)
    region = np.zeros((5, 7, 3), np.uint8)
    open_bitmap(tmp_path / "a.bmp", 10**6).read_into(region, 4, 11)
    np.testing.assert_array_equal(region, expected_HWC[4:9, 11:18])


def bmp_bytes(rows, bits, palette=b"", height=HEIGHT, compression=0, masks=b"", width=WIDTH):
    first = 14 + 40 + len(masks) + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, len(palette) // 4, 0)
    return struct.pack("<2sIHHI", b"BM", first + len(rows), 0, 0, first) + info + masks + palette + rows


def test_four_bits_with_a_palette(tmp_path):
    indices = np.random.default_rng(0).integers(0, 16, (HEIGHT, WIDTH))
    colours = np.random.default_rng(1).integers(0, 256, (16, 4), np.uint8)
    padded = np.zeros((HEIGHT, 24), np.uint8)
    padded[:, :WIDTH] = indices
    packed = (padded[:, ::2] << 4 | padded[:, 1::2])[::-1]
    (tmp_path / "a.bmp").write_bytes(bmp_bytes(packed.tobytes(), 4, colours.tobytes()))
    np.testing.assert_array_equal(read_all(tmp_path / "a.bmp"), colours[indices][:, :, 2::-1])


def test_rows_from_the_top_down_and_an_old_header(tmp_path):
    image_HWC = np.asarray(picture("RGB"))
    rows = np.zeros((HEIGHT, 64), np.uint8)
    rows[:, : 3 * WIDTH] = image_HWC[:, :, ::-1].reshape(HEIGHT, -1)
    (tmp_path / "a.bmp").write_bytes(bmp_bytes(rows.tobytes(), 24, height=-HEIGHT))
    np.testing.assert_array_equal(read_all(tmp_path / "a.bmp"), image_HWC)
    old = struct.pack("<2sIHHIIHHHH", b"BM", 26 + rows.size, 0, 0, 26, 12, WIDTH, HEIGHT, 1, 24)
    (tmp_path / "b.bmp").write_bytes(old + rows[::-1].tobytes())
    np.testing.assert_array_equal(read_all(tmp_path / "b.bmp"), image_HWC)


def test_sixteen_bits_with_masks(tmp_path):
    rng = np.random.default_rng(2)
    red, green, blue = rng.integers(0, 32, (3, HEIGHT, WIDTH))
    green = green * 2 + 1
    rows = np.zeros((HEIGHT, 22), "<u2")
    rows[:, :WIDTH] = red << 11 | green << 5 | blue
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    (tmp_path / "a.bmp").write_bytes(bmp_bytes(rows[::-1].tobytes(), 16, compression=3, masks=masks))
    expected = np.stack([red * 255 // 31, green * 255 // 63, blue * 255 // 31], axis=2)
    np.testing.assert_array_equal(read_all(tmp_path / "a.bmp"), expected)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bmp_bytes(bytes(999), 8, bytes(1024), compression=1), "8-bit run lengths"),
        (bmp_bytes(bytes(999), 4, bytes(64), compression=2), "4-bit run lengths"),
        (bmp_bytes(bytes(99), 24), "truncated"),
        (bmp_bytes(b"", 24, width=2**30, height=2**30), "more than"),
        (bmp_bytes(bytes(999), 2), "2 bits"),
        (bmp_bytes(bytes(999), 24, width=0), "0 pixels"),
        (b"BM" + bytes(14), "cut short"),
        (b"BM" + bytes(60), "header of 0 bytes"),
    ],
)
def test_others_are_refused_in_words(tmp_path, data, words):
    (tmp_path / "a.bmp").write_bytes(data)
    with pytest.raises(ImageError, match=words):
        open_bitmap(tmp_path / "a.bmp", 10**6)


def test_pillow_agrees_on_every_width(tmp_path):
    for width in range(1, 9):
        image = Image.fromarray(np.random.default_rng(width).integers(0, 256, (3, width, 3), np.uint8))
        stream = io.BytesIO()
        image.convert("1").save(stream, "BMP")
        (tmp_path / "a.bmp").write_bytes(stream.getvalue())
        np.testing.assert_array_equal(read_all(tmp_path / "a.bmp"), np.asarray(image.convert("1").convert("RGB")))
