"""Files that nobody should trust: each class of fault is refused in words and in little memory, or normalised."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from histofold.core.faults import ImageError
from histofold.imaging.slide import open_slide
from imaging.slide_files import CODECS, jpeg_bytes, png_bytes, small_files, texture, tiny_tiff

# -- refused at open ---------------------------------------------------------------------------------------------------


REFUSED = {
    "empty": (b"", "empty"),
    "text": (b"id,rle\n1,2 3\n", "not a TIFF, PNG or JPEG"),
    "header only": (b"II*\0\x08\0\0\0", "truncated"),
    "no page": (b"II*\0\0\0\0\0", "TIFF"),
    "zero height": (tiny_tiff(1, (0, 10), b""), "0 x 10"),
    "no data": (tiny_tiff(1, (10, 10), b"", t279=0, t273=0), "without data"),
    "none too short": (tiny_tiff(1, (10, 10), bytes(299)), "needs at least 300"),
    "lzw bomb": (tiny_tiff(5, (2, 250_000_000), b"\x80\x0b\x60\x50" * 10), "needs at least"),
    "deflate bomb": (tiny_tiff(8, (30_000, 30_000), zlib.compress(bytes(9000))), "needs at least"),
    "jpeg in tiff bomb": (tiny_tiff(7, (30_000, 30_000), jpeg_bytes(8, 8)), "needs at least"),
    "too many pixels": (tiny_tiff(8, (60_000, 60_000), bytes(10)), r"more than 2,400,000,000"),
    "huge sides": (tiny_tiff(8, (2**32 - 1, 2**32 - 1), bytes(10)), "more than"),
    "beyond the file": (tiny_tiff(1, (10, 10), bytes(300), t273=200), "truncated: segment 0 ends at byte 500"),
    "far beyond": (tiny_tiff(1, (10, 10), bytes(300), t273=2**32 - 1, t279=2**32 - 1), "truncated"),
    "unknown codec": (tiny_tiff(12345, (10, 10), bytes(300)), "not decoded here"),
    "old jpeg": (tiny_tiff(6, (10, 10), bytes(300)), "old-style JPEG"),
    "1 bit": (tiny_tiff(1, (10, 10), bytes(300), t258=1, t262=1, t277=1), "samples of 1 bits"),
    "12 bits": (tiny_tiff(1, (10, 10), bytes(450), t258=12), "samples of 12 bits"),
    "24 bit float": (tiny_tiff(1, (10, 10), bytes(900), t258=24, t339=3), "samples of 24 bits"),
    "signed": (tiny_tiff(1, (10, 10), bytes(600), t258=16, t339=2), "signed samples"),
    "ycbcr": (tiny_tiff(1, (10, 10), bytes(300), t262=6), "YCBCR"),
    "aperio's ycbcr of 16 bits": (tiny_tiff(33003, (10, 10), bytes(300), t258=16), "YCbCr of 16 bits"),
    "float jpeg 2000": (tiny_tiff(34712, (10, 10), bytes(300), t258=32, t339=3), "codec for whole numbers"),
    "cielab": (tiny_tiff(1, (10, 10), bytes(300), t262=8), "CIELAB"),
    "palette without colours": (tiny_tiff(1, (10, 10), bytes(100), t262=3, t277=1), "palettes"),
    "rgb of two samples": (tiny_tiff(1, (10, 10), bytes(200), t277=2), "two samples"),
    "predictor without codec": (tiny_tiff(1, (10, 10), bytes(300), t317=2), "predictor"),
    "predictor of floats": (tiny_tiff(8, (10, 10), bytes(300), t317=3), "predictor"),
    "unknown predictor": (tiny_tiff(8, (10, 10), bytes(300), t317=77), "predictor"),
    "no width": (tiny_tiff(1, (10, 10), bytes(300), t256=None), "10 x 0 pixels"),
    "no height": (tiny_tiff(1, (10, 10), bytes(300), t257=None), "0 x 10 pixels"),
    "no bits": (tiny_tiff(1, (10, 10), bytes(300), t258=None), "samples of 1 bits"),
    "no colours": (tiny_tiff(1, (10, 10), bytes(300), t262=None), "PhotometricInterpretation"),
    "no offsets": (tiny_tiff(1, (10, 10), bytes(300), t273=None), "without data"),
    "no counts": (tiny_tiff(8, (10, 10), zlib.compress(bytes(300)), t279=None), "ByteCounts is missing|truncated"),
    "fewer strips": (tiny_tiff(1, (10, 10), bytes(300), t278=5), "1 strips or tiles where its size needs 2"),
    "no rows in a strip": (tiny_tiff(1, (10, 10), bytes(300), t278=0), "strips or tiles of"),
    "volume": (tiny_tiff(1, (10, 10), bytes(300), t32997=2), "2 deep"),
    "on the header": (tiny_tiff(1, (10, 10), bytes(300), t273=3), "first bytes of the file"),
    "strip of no bytes": (tiny_tiff(8, (10, 10), bytes(300), t279=0), "without data|needs at least"),
    "directories in a loop": (tiny_tiff(1, (10, 10), bytes(300), link=8), "loop"),
    "directory beyond the file": (tiny_tiff(1, (10, 10), bytes(300), link=5000), "truncated"),
    "big endian, beyond": (tiny_tiff(1, (10, 10), bytes(300), order=">", t273=200), "truncated: segment 0"),
    "strip bomb": (tiny_tiff(34712, (30_000, 16_000), bytes(900)), "raise max_segment_bytes"),
    "zstd bomb": (tiny_tiff(50000, (30_000, 16_000), bytes(900)), "needs at least"),
    "big tiff of nothing": (b"II+\0\x08\0\0\0" + bytes(8), "no page"),
    "big tiff, far": (b"II+\0\x08\0\0\0" + b"\xff" * 8, "truncated"),
    "cmyk": (tiny_tiff(1, (10, 10), bytes(400), t262=5, t277=4), "SEPARATED"),
    "five samples": (tiny_tiff(1, (10, 10), bytes(500), t277=5), "5 samples"),
    "png bomb": (png_bytes(40_000, 40_000, zlib.compress(bytes(9))), "cannot hold"),
    "png large": (png_bytes(60_000, 60_000, zlib.compress(bytes(9))), "more than 2,400,000,000"),
    "png without data": (png_bytes(10, 10, b""), "without data"),
    "png truncated": (png_bytes(10, 10, zlib.compress(bytes(310)))[:-20], "truncated"),
    "png header cut": (png_bytes(10, 10, b"x")[:20], "header|truncated"),
    "jpeg bomb": (jpeg_bytes(40_000, 40_000), "cannot hold a JPEG"),
    "jpeg header only": (jpeg_bytes(8, 8)[:300], "header|truncated"),
    "jpeg cut": (jpeg_bytes(8, 8)[:-2], "does not reach its end"),
    "jpeg of no pixels": (jpeg_bytes(8, 0), "8 x 0|header"),
    "png of no pixels": (png_bytes(0, 10, b"x"), "0 x 10|header"),
    "gif": (b"GIF89a" + bytes(50), "not a TIFF, PNG or JPEG"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_open(tmp_path: Path, name: str) -> None:
    content, words = REFUSED[name]
    path = tmp_path / "bad.img"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=words) as caught:
        open_slide(path)
    assert str(path) in str(caught.value)
    assert caught.value.rule
    assert caught.value.remedy


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        open_slide(tmp_path / "none.tif")
    with pytest.raises(ImageError, match="folder"):
        open_slide(tmp_path)


# -- bombs and memory --------------------------------------------------------------------------------------------------


def overlapping_tiles(compression: int, data: bytes) -> bytes:
    """A tiled TIFF of 16384 x 16384 pixels whose tiles of 512 x 512 all lie on the same bytes."""
    number = 32 * 32
    content = tiny_tiff(
        compression, (16384, 16384), b"", t273=None, t278=None, t279=None, t322=512, t323=512, t324=0, t325=0
    )
    tags = struct.unpack_from("<H", content, 8)[0]
    lists = 8 + 2 + 12 * tags + 4
    damaged = bytearray(content)
    for index in range(tags):
        place = 10 + 12 * index
        tag = struct.unpack_from("<H", damaged, place)[0]
        if tag in (324, 325):
            struct.pack_into("<HHII", damaged, place, tag, 4, number, lists + (tag - 324) * 4 * number)
    offset = lists + 8 * number
    return bytes(damaged) + struct.pack("<I", offset) * number + struct.pack("<I", len(data)) * number + data


def test_tiles_that_lie_on_each_other_are_refused(tmp_path: Path) -> None:
    content = overlapping_tiles(1, bytes(512 * 512 * 3))
    assert len(content) < 10**6
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ImageError, match="805,306,368 bytes of samples: strips or tiles lie on each other"):
        open_slide(tmp_path / "a.tif")


BOMBS = {
    "deflate": tiny_tiff(8, (30_000, 16_000), zlib.compress(bytes(10**5)), t278=30_000),
    "lzw": tiny_tiff(5, (30_000, 16_000), b"\x80\x0b\x60\x50" * 100),
    "jpeg in tiff": tiny_tiff(7, (30_000, 16_000), jpeg_bytes(30_000, 16_000)[:800]),
    "zstd": tiny_tiff(50000, (30_000, 16_000), bytes(900)),
    "jpeg 2000": tiny_tiff(34712, (30_000, 16_000), bytes(900)),
    "none": tiny_tiff(1, (30_000, 16_000), bytes(900)),
    "one strip of many tags": tiny_tiff(1, (30_000, 16_000), bytes(900), t278=1),
    "png": png_bytes(30_000, 16_000, zlib.compress(bytes(10**5))),
    "jpeg": jpeg_bytes(30_000, 16_000),
}
OPEN_ALL = """
import sys
from pathlib import Path
from histofold.core.faults import ImageError
from histofold.imaging.slide import open_slide

def peak_kb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])

before = peak_kb()
for path in sys.argv[1:]:
    try:
        open_slide(path)
    except ImageError:
        continue
    raise SystemExit(f"{path} was opened")
print(peak_kb() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_bombs_of_1_4_gb_in_1_kb_are_refused_in_little_memory(tmp_path: Path) -> None:
    paths = []
    for name, content in BOMBS.items():
        assert len(content) < 1500, name
        paths.append(tmp_path / name)
        paths[-1].write_bytes(content)
    command = [sys.executable, "-c", OPEN_ALL, *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 40 * 1024  # kilobytes: tifffile's and Pillow's own modules


def test_limits_are_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histofold.imaging.slide.OTHER_FORMATS", [])
    Image.fromarray(texture(101, 133, 3)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", texture(101, 133, 3), photometric="rgb", compression="zlib", rowsperstrip=101)
    for name in ("a.png", "a.tif"):
        with pytest.raises(ImageError, match="raise max_pixels"):
            open_slide(tmp_path / name, max_pixels=101 * 133 - 1)
        with pytest.raises(ImageError, match="raise max_segment_bytes"):
            open_slide(tmp_path / name, max_segment_bytes=101 * 133 * 3 - 1)
        open_slide(tmp_path / name, max_pixels=101 * 133).close()


def test_stacks_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", texture(2, 20, 30, 3), photometric="rgb")
    with pytest.raises(ImageError, match="2 pages"):
        open_slide(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", texture(5, 20, 30), photometric="minisblack", metadata=None)
    with pytest.raises(ImageError, match="5 pages"):
        open_slide(tmp_path / "b.tif")


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_every_truncation_is_found(tmp_path: Path, codec: dict) -> None:
    whole = tmp_path / "a.tif"
    tifffile.imwrite(whole, texture(101, 133, 3), photometric="rgb", rowsperstrip=16, **codec)
    content = whole.read_bytes()
    for kept in (len(content) - 1, len(content) // 2, len(content) // 9, 100, 9):
        (tmp_path / "cut.tif").write_bytes(content[:kept])
        with pytest.raises(ImageError):
            open_slide(tmp_path / "cut.tif")


@pytest.mark.parametrize(
    "options", [{}, {"metadata": None}, {"metadata": None, "bigtiff": True}, {"imagej": True}], ids=str
)
def test_three_pages_cut_short_never_pass_for_grey(tmp_path: Path, options: dict) -> None:
    whole = tmp_path / "a.tif"
    tifffile.imwrite(whole, texture(3, 101, 133), photometric="minisblack", **options)
    content = whole.read_bytes()
    with open_slide(whole) as slide:
        whole_HWC = slide.read_all()
    refused = 0
    for kept in range(100, len(content), 997):
        (tmp_path / "cut.tif").write_bytes(content[:kept])
        try:
            with open_slide(tmp_path / "cut.tif") as slide:
                np.testing.assert_array_equal(slide.read_all(), whole_HWC)  # only bytes beside the pixels were cut off
        except ImageError:
            refused += 1
    assert refused >= 40


# -- found at read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["zlib", "lzw", "jpeg"])
@pytest.mark.parametrize("without_imagecodecs", [False, True])
def test_damaged_segment_is_found_at_read(
    tmp_path: Path, codec: str, without_imagecodecs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, texture(101, 133, 3), photometric="rgb", compression=codec, rowsperstrip=32)
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[1], tiff.pages[0].databytecounts[1]
    content = bytearray(path.read_bytes())
    content[offset + count // 2 : offset + count] = bytes(count - count // 2)
    path.write_bytes(content)
    if without_imagecodecs:
        monkeypatch.setattr("histofold.imaging.tiff.codecs.has_imagecodecs", lambda: False)
    with open_slide(path) as slide:
        assert slide.read(slice(0, 32), slice(0, 133)).shape == (32, 133, 3)
        with pytest.raises(ImageError, match="segment 1 cannot be decoded") as caught:
            slide.read_all()
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("without_imagecodecs", [False, True])
def test_segments_larger_than_declared_are_never_allocated(
    tmp_path: Path, without_imagecodecs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if without_imagecodecs:
        monkeypatch.setattr("histofold.imaging.tiff.codecs.has_imagecodecs", lambda: False)
    path = tmp_path / "a.tif"
    for compression, data in ((8, zlib.compress(bytes(10**8))), (7, jpeg_bytes(60_000, 60_000))):
        path.write_bytes(tiny_tiff(compression, (8, 8), data))
        with open_slide(path) as slide, pytest.raises(ImageError, match=r"longer|frame"):
            slide.read_all()


def test_damaged_png_is_found_at_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(20, 30, b"not deflate at all"))
    with open_slide(path) as slide, pytest.raises(ImageError, match="decoded"):
        slide.read_all()


# -- random damage -----------------------------------------------------------------------------------------------------


def damaged_copies(content: bytes, rng: np.random.Generator, number: int) -> Iterator[bytes]:
    """Copies with bytes overwritten in the header or anywhere, cut short, or with one bit flipped."""
    for trial in range(number):
        copy = bytearray(content)
        if trial % 4 == 0:
            for place in rng.integers(0, min(len(copy), 300), 2):
                copy[place] = rng.integers(0, 256)
        elif trial % 4 == 1:
            for place in rng.integers(0, len(copy), 3):
                copy[place] = rng.integers(0, 256)
        elif trial % 4 == 2:
            copy = copy[: rng.integers(0, len(copy))]
        else:
            copy[rng.integers(0, len(copy))] ^= 1 << int(rng.integers(0, 8))
        yield bytes(copy)


@pytest.mark.parametrize("without_imagecodecs", [False, True])
def test_random_damage_never_escapes_as_another_error(
    tmp_path: Path, without_imagecodecs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    files = list(small_files(tmp_path))
    if without_imagecodecs:
        for module in ("tiff.codecs", "tiff.pages"):
            monkeypatch.setattr(f"histofold.imaging.{module}.has_imagecodecs", lambda: False)
    opened = 0
    refused: list[ImageError] = []
    path = tmp_path / "damaged.img"
    for _, whole in files:
        for copy in damaged_copies(whole.read_bytes(), rng, 16):
            path.write_bytes(copy)
            try:
                with open_slide(path, max_pixels=10**6) as slide:
                    assert slide.read_all().shape == (*slide.shape_hw, 3)
                    opened += 1
            except ImageError as error:
                refused.append(error)
    assert opened > 80
    assert len(refused) > 200
    assert all(error.file == str(path) and error.rule and error.remedy for error in refused)


def test_lossless_codecs_with_a_checksum_never_give_wrong_pixels(tmp_path: Path) -> None:
    """A flipped bit in the pixels of PNG, deflate or LZMA is found, or changes nothing."""
    rng = np.random.default_rng(4)
    path = tmp_path / "damaged.img"
    refused = 0
    for name, whole in small_files(tmp_path):
        if not any(word in name for word in ("zlib", "deflate", "lzma", "png")):
            continue
        content = whole.read_bytes()
        with open_slide(whole) as slide:
            pixels_HWC = slide.read_all()
        for _ in range(12):
            copy = bytearray(content)
            copy[rng.integers(len(copy) // 2, len(copy) - 60)] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(copy)
            try:
                with open_slide(path) as slide:
                    np.testing.assert_array_equal(slide.read_all(), pixels_HWC, err_msg=name)
            except ImageError:
                refused += 1
    assert refused > 50
