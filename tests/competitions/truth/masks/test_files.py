"""Masks of every kind that is read, and the words for those that are not."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from histofold.competitions.truth.masks.files import decode_mask
from histofold.competitions.truth.masks.values import MaskReading
from histofold.core.faults import ImageError

SHAPE = (23, 38)


def read_mask(path, shape_hw):
    return MaskReading().read(decode_mask(path, shape_hw))[0]


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    made = rng.integers(0, 3, SHAPE)
    made[0, 0] = made[-1, -1] = 1
    return made


@pytest.mark.parametrize("dtype", [bool, "u1", "i1", "u2", "i4", "u4", "f4", "f8", "u8"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "zlib", "tile": (16, 16)}])
def test_tiff_of_any_type_keeps_its_small_labels(tmp_path, labels, dtype, options):
    if dtype is bool and "tile" in options:
        options = {}
    tifffile.imwrite(tmp_path / "m.tif", labels.astype(dtype), photometric="minisblack", **options)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif", SHAPE), labels > 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "LA", "RGB", "RGBA"])
def test_png_of_any_colour_type(tmp_path, labels, mode):
    if mode == "I;16":
        image = Image.fromarray(labels.astype(np.uint16))
    elif mode == "P":
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette([0, 0, 0] + [9, 9, 9] * 255)
    elif mode == "1":
        image = Image.fromarray(labels > 0)
    else:
        image = Image.fromarray(labels.astype(np.uint8)).convert(mode)
    image.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", SHAPE), labels > 0)


def test_planes_apart_and_one_colour_count(tmp_path, labels):
    planes = np.zeros((3, *SHAPE), np.uint8)
    planes[2] = labels
    tifffile.imwrite(tmp_path / "m.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif", SHAPE), labels > 0)


def test_a_png_beyond_pillows_own_limit_is_read(tmp_path, monkeypatch, labels):
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "m.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", SHAPE), labels > 0)


def bomb_png(path):
    """A header of 100000 x 100000 pixels over a few bytes of data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def test_another_size_is_refused_before_decoding(tmp_path, labels, monkeypatch):
    tifffile.imwrite(tmp_path / "m.tif", labels.T.astype(np.int32))
    monkeypatch.setattr(tifffile.TiffPage, "asarray", None)
    with pytest.raises(ImageError, match="mask is") as caught:
        read_mask(tmp_path / "m.tif", SHAPE)
    assert caught.value.file == str(tmp_path / "m.tif")
    assert caught.value.rule
    assert caught.value.remedy


def test_what_cannot_be_a_mask_is_refused_in_words(tmp_path, labels):
    small = labels.astype(np.uint8)
    bomb_png(tmp_path / "bomb.png")
    Image.fromarray(small).save(tmp_path / "gif.png", format="GIF")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.tif").write_bytes(b"II*\0\x08")
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([small] * 4), photometric="minisblack")
    tifffile.imwrite(tmp_path / "white.tif", small, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "nan.tif", np.where(labels > 0, 1.0, np.nan))
    tifffile.imwrite(tmp_path / "broken.tif", small, compression="zlib")
    with tifffile.TiffFile(tmp_path / "broken.tif") as tiff:
        offset = tiff.pages[0].dataoffsets[0]
    data = bytearray((tmp_path / "broken.tif").read_bytes())
    data[offset : offset + 8] = b"\xff" * 8
    (tmp_path / "broken.tif").write_bytes(data)
    Image.fromarray(small).save(tmp_path / "whole.png")
    (tmp_path / "short.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-30])
    said = {}
    for path in sorted(tmp_path.iterdir()):
        if path.name != "whole.png":
            with pytest.raises(ImageError) as caught:
                read_mask(path, SHAPE)
            said[path.stem] = caught.value.rule
    assert all(said.values()), said
    assert "more than" in said["bomb"]
    assert "no PNG, TIFF, BMP or JPEG" in said["gif"]
    assert "stack" in said["stack"]
    assert "white" in said["white"]
    assert "NaN" in said["nan"]


def test_a_header_that_lies_about_its_data_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "m.tif", np.zeros((64, 64), np.uint8), compression="lzw", rowsperstrip=64)
    with tifffile.TiffFile(tmp_path / "m.tif", mode="r+b") as tiff:
        for name in ("ImageLength", "ImageWidth", "RowsPerStrip"):
            tiff.pages[0].tags[name].overwrite(30_000)
    with pytest.raises(ImageError, match="cannot hold"):
        read_mask(tmp_path / "m.tif", (30_000, 30_000))


def test_memory_errors_become_words(tmp_path, labels, monkeypatch):
    def no_memory(*_, **__):
        raise MemoryError

    tifffile.imwrite(tmp_path / "m.tif", labels.astype(np.uint8))
    monkeypatch.setattr(tifffile.TiffPage, "asarray", no_memory)
    with pytest.raises(ImageError, match="MemoryError"):
        read_mask(tmp_path / "m.tif", SHAPE)


@pytest.mark.parametrize(("share", "words"), [(0, "without data"), (0.5, "cannot be"), (1e6, "truncated")])
def test_a_strip_that_lacks_data_is_not_read_as_background(tmp_path, share, words):
    values = np.random.default_rng(0).integers(0, 2, (200, 100)).astype(np.int32)
    tifffile.imwrite(tmp_path / "m.tif", values, compression="lzw", rowsperstrip=50)
    with tifffile.TiffFile(tmp_path / "m.tif", mode="r+b") as tiff:
        counts = list(tiff.pages[0].databytecounts)
        counts[1] = min(65535, int(counts[1] * share))
        tiff.pages[0].tags["StripByteCounts"].overwrite(counts)
    with pytest.raises(ImageError, match=words):
        read_mask(tmp_path / "m.tif", (200, 100))


def test_a_mask_with_exchanged_sides_is_named_as_such(tmp_path, labels):
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "m.png")
    for shape_hw, words in ((SHAPE[::-1], "sides are exchanged"), ((SHAPE[0] + 1, SHAPE[1]), "at the image's size")):
        with pytest.raises(ImageError, match=words):
            decode_mask(tmp_path / "m.png", shape_hw)
