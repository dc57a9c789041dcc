"""PNG and JPEG of every colour type against Pillow, OpenCV and the rows themselves; damage is found."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from histofold.core.faults import ImageError
from histofold.imaging.slide import open_slide
from imaging.slide_files import check_regions, png_bytes, png_rows, smooth, texture

CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # of the colour types of PNG


def expected_rgb(stored_HWS: np.ndarray) -> np.ndarray:
    """Alpha dropped, grey repeated, 16 bits rounded."""
    colours = stored_HWS[:, :, :3] if stored_HWS.shape[2] > 2 else np.repeat(stored_HWS[:, :, :1], 3, axis=2)
    return colours if colours.dtype == np.uint8 else np.rint(colours / 257).astype(np.uint8)


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize("colour", CHANNELS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_of_every_colour_type(tmp_path: Path, interlace: int, colour: int, dtype: type) -> None:
    stored_HWS = texture(101, 133, CHANNELS[colour], dtype=dtype)
    data = zlib.compress(png_rows(stored_HWS, bool(interlace)))
    (tmp_path / "a.png").write_bytes(png_bytes(101, 133, data, 8 * dtype().itemsize, colour, interlace))
    check_regions(tmp_path / "a.png", expected_rgb(stored_HWS))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_png_modes_equal_pillow(tmp_path: Path, mode: str) -> None:
    stored = Image.fromarray(texture(101, 133, 3)).convert(mode)
    stored.save(tmp_path / "a.png", **({"transparency": bytes(range(256))} if mode == "P" else {}))
    check_regions(tmp_path / "a.png", np.asarray(stored.convert("RGB")))


@pytest.mark.parametrize("colours", [2, 4, 16])
def test_png_of_few_colours(tmp_path: Path, colours: int) -> None:
    stored = Image.fromarray(smooth()).quantize(colours)
    stored.save(tmp_path / "a.png", bits=(colours - 1).bit_length())
    assert (tmp_path / "a.png").read_bytes()[24] == (colours - 1).bit_length()
    check_regions(tmp_path / "a.png", np.asarray(stored.convert("RGB")))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_of_16_bit_equals_opencv(tmp_path: Path, channels: int) -> None:
    stored = texture(101, 133, channels, dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), stored)
    colours = stored[:, :, 2::-1] if channels > 1 else np.repeat(stored, 3, axis=2)
    check_regions(tmp_path / "a.png", np.rint(colours / 257).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}, {"restart_marker_rows": 1}])
def test_jpeg_is_read_as_stored_whatever_its_orientation(tmp_path: Path, mode: str, options: dict) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth()).convert(mode).save(tmp_path / "a.jpg", exif=exif, **options)
    with Image.open(tmp_path / "a.jpg") as image:
        check_regions(tmp_path / "a.jpg", np.asarray(image.convert("RGB")))


def test_jpeg_of_adobe_rgb(tmp_path: Path) -> None:
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", keep_rgb=True, quality=95)
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()[:200]
    with Image.open(tmp_path / "a.jpg") as image:
        peer_HWC = np.asarray(image)
    assert np.abs(peer_HWC.astype(int) - smooth()).mean() < 3
    check_regions(tmp_path / "a.jpg", peer_HWC)


def test_jpeg_of_cmyk_is_refused(tmp_path: Path) -> None:
    Image.fromarray(smooth()).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="CMYK is not read: convert it to RGB"):
        open_slide(tmp_path / "a.jpg")


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.97])
def test_png_of_too_few_rows_is_refused(tmp_path: Path, interlace: int, dtype: type, kept: float) -> None:
    """Its stream is whole and its checksums are right: Pillow would leave the rest black without a word."""
    rows = png_rows(texture(40, 50, 3, dtype=dtype), bool(interlace))
    data = zlib.compress(rows[: int(kept * len(rows))])
    (tmp_path / "a.png").write_bytes(png_bytes(40, 50, data, 8 * dtype().itemsize, 2, interlace))
    with open_slide(tmp_path / "a.png") as slide, pytest.raises(ImageError, match="decoded"):
        slide.read_all()


def test_png_that_is_black_is_read(tmp_path: Path) -> None:
    for shape in ((40, 50, 3), (1, 1, 3)):
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "a.png")
        with open_slide(tmp_path / "a.png") as slide:
            assert not slide.read_all().any()


@pytest.mark.parametrize("place", ["data", "sum"])
@pytest.mark.parametrize("depth", [8, 16])
def test_png_with_a_flipped_bit_is_refused(tmp_path: Path, place: str, depth: int) -> None:
    stored = texture(40, 50, 3, dtype=np.uint16 if depth == 16 else np.uint8)
    content = bytearray(png_bytes(40, 50, zlib.compress(png_rows(stored), 0), depth))
    content[300 if place == "data" else -16] ^= 4
    (tmp_path / "a.png").write_bytes(content)
    with open_slide(tmp_path / "a.png") as slide, pytest.raises(ImageError, match="decoded"):
        slide.read_all()


def test_jpeg_cut_anywhere_is_refused_at_open(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "JPEG")
    content = buffer.getvalue()
    for kept in (len(content) - 1, len(content) // 2, 700, 300, 20, 3):
        (tmp_path / "a.jpg").write_bytes(content[:kept])
        with pytest.raises(ImageError, match=r"truncated|header|cannot hold"):
            open_slide(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(content + bytes(1000))  # some cameras write more after the end
    with open_slide(tmp_path / "a.jpg") as slide:
        assert slide.read_all().shape == (101, 133, 3)


def test_an_end_within_a_thumbnail_is_not_the_end(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "JPEG")
    content = buffer.getvalue()
    extra = b"\xff\xe1" + struct.pack(">H", 2 + len(content[:500]) + 2) + content[:500] + b"\xff\xd9"
    whole = content[:2] + extra + content[2:]
    (tmp_path / "a.jpg").write_bytes(whole)
    with open_slide(tmp_path / "a.jpg") as slide:
        assert slide.shape_hw == (101, 133)
    (tmp_path / "a.jpg").write_bytes(whole[:-400])
    with pytest.raises(ImageError, match="does not reach its end"):
        open_slide(tmp_path / "a.jpg")


def test_jpeg_whose_tables_are_gone_is_found_at_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    table = content.index(b"\xff\xc4")
    content[table + 5 : table + 21] = b"\xff" * 16
    (tmp_path / "a.jpg").write_bytes(content)
    with open_slide(tmp_path / "a.jpg") as slide, pytest.raises(ImageError, match="decoded"):
        slide.read_all()
