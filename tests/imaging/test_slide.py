"""Slides: every supported layout gives the same pixels, and every broken file is refused in words."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from histoseg.imaging.errors import ImageError
from histoseg.imaging.slide import open_slide

REGIONS = [
    (slice(0, 1), slice(0, 1)),
    (slice(100, 101), slice(132, 133)),
    (slice(0, 101), slice(0, 133)),
    (slice(30, 70), slice(5, 9)),
    (slice(15, 17), slice(40, 133)),
    (slice(63, 65), slice(63, 65)),
]
CODECS = [
    {},
    {"compression": "zlib"},
    {"compression": "adobe_deflate", "predictor": 2},
    {"compression": "lzw"},
    {"compression": "lzw", "predictor": 2},
    {"compression": "packbits"},
]
GEOMETRIES = [{}, {"rowsperstrip": 16}, {"rowsperstrip": 1}, {"tile": (32, 64)}, {"bigtiff": True}]


def texture(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    """Blurred noise with its corners set: compresses a little, and every place differs."""
    rng = np.random.default_rng(7)
    values = rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    values[..., :40, :] //= 4
    values.reshape(-1)[[0, -1]] = np.iinfo(dtype).max
    return values


def check_regions(path: Path, expected_HWC: np.ndarray) -> None:
    with open_slide(path) as slide:
        assert slide.shape_hw == expected_HWC.shape[:2]
        for y, x in REGIONS:
            region = slide.read(y, x)
            assert region.dtype == np.uint8
            assert region.flags.c_contiguous
            assert region.flags.owndata
            np.testing.assert_array_equal(region, expected_HWC[y, x])
        np.testing.assert_array_equal(slide.read_all(), expected_HWC)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_lossless_rgb_equals_the_array(tmp_path: Path, codec: dict, geometry: dict) -> None:
    image_HWC = texture(101, 133, 3)
    tifffile.imwrite(tmp_path / "a.tif", image_HWC, photometric="rgb", **codec, **geometry)
    check_regions(tmp_path / "a.tif", image_HWC)


@pytest.mark.parametrize("codec", CODECS, ids=str)
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("geometry", [{"rowsperstrip": 16}, {"tile": (32, 64)}], ids=str)
def test_16_bit_is_scaled_by_257(tmp_path: Path, codec: dict, byteorder: str, geometry: dict) -> None:
    image_HWC = texture(101, 133, 3, dtype=np.uint16)
    options = dict(photometric="rgb", byteorder=byteorder, **codec, **geometry)
    tifffile.imwrite(tmp_path / "a.tif", image_HWC, **options)
    check_regions(tmp_path / "a.tif", np.rint(image_HWC / 257).astype(np.uint8))


def test_16_bit_rule_for_every_value(tmp_path: Path) -> None:
    values_HW = np.arange(65536, dtype=np.uint16).reshape(128, 512)
    tifffile.imwrite(tmp_path / "a.tif", values_HW)
    with open_slide(tmp_path / "a.tif") as slide:
        np.testing.assert_array_equal(slide.read_all()[:, :, 1], np.rint(values_HW / 257).astype(np.uint8))


@pytest.mark.parametrize("codec", [{}, {"compression": "zlib"}], ids=str)
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((101, 133), {"photometric": "minisblack"}),
        ((101, 133), {"photometric": "miniswhite"}),
        ((101, 133, 2), {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]}),
        ((101, 133, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        ((101, 133, 3), {"photometric": "minisblack", "planarconfig": "contig"}),
        ((3, 101, 133), {"photometric": "rgb", "planarconfig": "separate"}),
        ((3, 101, 133), {"photometric": "rgb", "planarconfig": "separate", "tile": (32, 64)}),
        ((4, 101, 133), {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unassalpha"]}),
        ((3, 101, 133), {"photometric": "minisblack"}),
        ((1, 1, 3, 101, 133), {"photometric": "rgb", "planarconfig": "separate"}),
        ((1, 1, 3, 101, 133), {"photometric": "minisblack", "tile": (32, 64)}),
        ((1, 1, 3, 101, 133), {"photometric": "minisblack", "rowsperstrip": 7}),
    ],
    ids=str,
)
def test_layouts(tmp_path: Path, shape: tuple[int, ...], options: dict, codec: dict) -> None:
    stored = texture(*shape)
    tifffile.imwrite(tmp_path / "a.tif", stored, **options, **codec)
    plain = stored.reshape(shape[-3:]) if len(shape) > 2 else stored[:, :, np.newaxis]
    if options["photometric"] == "miniswhite":
        plain = 255 - plain
    if plain.shape[0] in (3, 4):
        plain = plain.transpose(1, 2, 0)
    expected_HWC = plain[:, :, :3] if plain.shape[2] > 2 else np.repeat(plain[:, :, :1], 3, axis=2)
    check_regions(tmp_path / "a.tif", expected_HWC)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("geometry", [{"tile": (64, 64)}, {"rowsperstrip": 32}], ids=str)
def test_jpeg_with_chroma_subsampling(tmp_path: Path, subsampling: tuple[int, int], geometry: dict) -> None:
    image_HWC = cv2.GaussianBlur(texture(101, 133, 3), (0, 0), 3)
    options = {"photometric": "rgb", "compression": "jpeg", "subsampling": subsampling, **geometry}
    tifffile.imwrite(tmp_path / "a.tif", image_HWC, **options)
    expected_HWC = tifffile.imread(tmp_path / "a.tif")
    assert np.abs(expected_HWC.astype(int) - image_HWC).mean() < 2
    check_regions(tmp_path / "a.tif", expected_HWC)


@pytest.mark.parametrize("photometric", ["ycbcr", "rgb"])
@pytest.mark.parametrize("without_imagecodecs", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_jpeg_tables_of_libtiff(
    tmp_path: Path, photometric: str, without_imagecodecs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rasterio = pytest.importorskip("rasterio")
    image_HWC = cv2.GaussianBlur(texture(101, 133, 3), (0, 0), 3)
    profile = {"driver": "GTiff", "height": 101, "width": 133, "count": 3, "dtype": "uint8", "photometric": photometric}
    profile |= {"compress": "jpeg", "tiled": True, "blockxsize": 64, "blockysize": 64, "interleave": "pixel"}
    transform = rasterio.transform.from_origin(0, 0, 1, 1)
    with rasterio.open(tmp_path / "a.tif", "w", transform=transform, **profile) as file:
        file.write(image_HWC.transpose(2, 0, 1))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages[0].jpegtables
    with rasterio.open(tmp_path / "a.tif") as file:
        peer_HWC = file.read().transpose(1, 2, 0)
    with monkeypatch.context() as patch:
        if without_imagecodecs:
            patch.setattr("histoseg.imaging.segments._has_imagecodecs", lambda: False)
        slide = open_slide(tmp_path / "a.tif")
    with slide:
        difference_HWC = np.abs(slide.read_all().astype(int) - peer_HWC)
    assert difference_HWC.mean() < 1  # GDAL interpolates chroma in its own way
    assert difference_HWC.max() < 16


def test_pyramid_gives_its_first_level(tmp_path: Path) -> None:
    image_HWC = texture(101, 133, 3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(image_HWC, photometric="rgb", tile=(32, 32))
        writer.write(np.ascontiguousarray(image_HWC[::2, ::2]), photometric="rgb", tile=(32, 32), subfiletype=1)
    check_regions(tmp_path / "a.tif", image_HWC)


def test_padded_last_strip_is_read(tmp_path: Path) -> None:
    image_HWC = texture(101, 133, 3)
    padded = np.vstack([image_HWC[96:], np.zeros((27, 133, 3), np.uint8)])
    strips = [zlib.compress(image_HWC[top : top + 32].tobytes()) for top in (0, 32, 64)] + [
        zlib.compress(padded.tobytes())
    ]
    tifffile.imwrite(
        tmp_path / "a.tif", iter(strips), shape=image_HWC.shape, dtype=np.uint8, photometric="rgb", rowsperstrip=32,
        compression="zlib",
    )  # fmt: skip
    check_regions(tmp_path / "a.tif", image_HWC)


def test_each_strip_is_decoded_once_along_a_row_of_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_HWC = texture(96, 400, 3)
    tifffile.imwrite(tmp_path / "a.tif", image_HWC, photometric="rgb", rowsperstrip=4, compression="zlib")
    with open_slide(tmp_path / "a.tif", cache_bytes=8000) as slide:
        plane = slide._reader._image.planes[0]  # type: ignore[union-attr]
        numbers: list[int] = []
        decode = plane.decode
        object.__setattr__(plane, "decode", lambda data, number: (numbers.append(number), decode(data, number))[1])
        for y in range(0, 96, 32):
            for x in range(0, 400, 50):
                region = slide.read(slice(y, y + 32), slice(x, x + 50))
                np.testing.assert_array_equal(region, image_HWC[y : y + 32, x : x + 50])
    assert sorted(numbers) == list(range(24))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_png_modes(tmp_path: Path, mode: str) -> None:
    image_HWC = texture(101, 133, 3)
    stored = Image.fromarray(image_HWC).convert(mode)
    stored.save(tmp_path / "a.png", **({"transparency": bytes(range(256))} if mode == "P" else {}))
    check_regions(tmp_path / "a.png", np.asarray(stored.convert("RGB")))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_of_16_bit(tmp_path: Path, channels: int) -> None:
    stored = texture(101, 133, channels, dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), stored)
    colours = stored[:, :, 2::-1] if channels > 1 else np.repeat(stored, 3, axis=2)
    check_regions(tmp_path / "a.png", np.rint(colours / 257).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_is_read_as_stored_whatever_its_orientation(tmp_path: Path, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(texture(101, 133, 3)).convert(mode).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        check_regions(tmp_path / "a.jpg", np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("shape_hw", [(1, 1), (1, 50), (50, 1)])
@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_one_pixel_sides(tmp_path: Path, shape_hw: tuple[int, int], suffix: str) -> None:
    image_HWC = texture(*shape_hw, 3)
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, image_HWC, photometric="rgb", compression="lzw")
    else:
        Image.fromarray(image_HWC).save(path)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_all(), image_HWC)


@pytest.mark.parametrize("y", [slice(0, 0), slice(-1, 5), slice(0, 102), slice(0, 10, 2), slice(5, 3)])
def test_regions_outside_are_the_callers_fault(tmp_path: Path, y: slice) -> None:
    tifffile.imwrite(tmp_path / "a.tif", texture(101, 133, 3), photometric="rgb")
    with open_slide(tmp_path / "a.tif") as slide, pytest.raises(ValueError, match="0 <= start < stop <= 101"):
        slide.read(y, slice(0, 5))


def test_closed_slide_says_so(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", texture(101, 133, 3), photometric="rgb")
    slide = open_slide(tmp_path / "a.tif")
    slide.close()
    slide.close()
    assert slide.shape_hw == (101, 133)
    with pytest.raises(ValueError, match="closed"):
        slide.read_all()


# -- refused at open ---------------------------------------------------------------------------------------------------


def tiny_tiff(compression: int, shape_hw: tuple[int, int], data: bytes, **tags: int) -> bytes:
    """A one-strip RGB TIFF whose header claims what it is told to."""
    height, width = shape_hw
    values = {256: width, 257: height, 258: 8, 259: compression, 262: 2, 273: 0, 277: 3, 278: height, 279: len(data)}
    values |= {int(tag[1:]): value for tag, value in tags.items()}
    values[273] = tags.get("t273", 14 + 12 * len(values))
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(values.items()))
    return struct.pack("<2sHIH", b"II", 42, 8, len(values)) + directory + bytes(4) + data


def jpeg_bytes(height: int, width: int) -> bytes:
    encoded = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    frame = encoded.index(b"\xff\xc0")
    return encoded[: frame + 5] + struct.pack(">HH", height, width) + encoded[frame + 9 :]


def png_bytes(height: int, width: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + (chunk(b"IDAT", data) if data else b"") + chunk(b"IEND", b"")


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
    "jpeg 2000": (tiny_tiff(34712, (10, 10), bytes(300)), "JPEG2000"),
    "float": (tiny_tiff(1, (10, 10), bytes(1200), t258=32, t339=3), "32 bits"),
    "cmyk": (tiny_tiff(1, (10, 10), bytes(400), t262=5, t277=4), "SEPARATED"),
    "five samples": (tiny_tiff(1, (10, 10), bytes(500), t277=5), "5 samples"),
    "png bomb": (png_bytes(40_000, 40_000, zlib.compress(bytes(9))), "cannot hold"),
    "png large": (png_bytes(60_000, 60_000, zlib.compress(bytes(9))), "more than 2,400,000,000"),
    "png without data": (png_bytes(10, 10, b""), "without data"),
    "png truncated": (png_bytes(10, 10, zlib.compress(bytes(310)))[:-20], "truncated"),
    "png header cut": (png_bytes(10, 10, b"x")[:20], "header|truncated"),
    "jpeg bomb": (jpeg_bytes(40_000, 40_000), "cannot hold a JPEG"),
    "jpeg header only": (jpeg_bytes(8, 8)[:300], "header"),
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


def test_limits_are_the_callers(tmp_path: Path) -> None:
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
        monkeypatch.setattr("histoseg.imaging.segments._has_imagecodecs", lambda: False)
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
        monkeypatch.setattr("histoseg.imaging.segments._has_imagecodecs", lambda: False)
    path = tmp_path / "a.tif"
    for compression, data in ((8, zlib.compress(bytes(10**8))), (7, jpeg_bytes(60_000, 60_000))):
        path.write_bytes(tiny_tiff(compression, (8, 8), data))
        with open_slide(path) as slide, pytest.raises(ImageError, match=r"longer|frame"):
            slide.read_all()


def test_damaged_png_and_jpeg_are_found_at_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(20, 30, b"not deflate at all"))
    with open_slide(path) as slide, pytest.raises(ImageError, match="decoded"):
        slide.read_all()
    Image.fromarray(texture(101, 133, 3)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with open_slide(tmp_path / "a.jpg") as slide, pytest.raises(ImageError, match="decoded"):
        slide.read_all()


def test_random_damage_never_escapes_as_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    path = tmp_path / "a.tif"
    contents = []
    for options in ({"compression": "zlib", "tile": (32, 32)}, {"compression": "jpeg"}, {"rowsperstrip": 9}):
        tifffile.imwrite(path, texture(50, 70, 3), photometric="rgb", **options)
        contents.append(path.read_bytes())
    opened = refused = 0
    for trial in range(240):
        content = bytearray(contents[trial % 3])
        for place in rng.integers(4, min(len(content), 400), 3):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            with open_slide(path, max_pixels=10**6) as slide:
                assert slide.read_all().shape == (*slide.shape_hw, 3)
                opened += 1
        except ImageError:
            refused += 1
    assert opened > 0
    assert refused > 0


# -- without imagecodecs -----------------------------------------------------------------------------------------------

WITHOUT_IMAGECODECS = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("imagecodecs", "rasterio"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocker())
import warnings
warnings.simplefilter("error")
import numpy as np
from histoseg.imaging.slide import open_slide
for path in sys.argv[1:]:
    with open_slide(path) as slide:
        image = slide.read_all()
        part = slide.read(slice(30, 70), slice(5, 9))
    assert (image[30:70, 5:9] == part).all()
    np.save(path + ".npy", image)
"""


def test_without_imagecodecs_the_pixels_are_the_same(tmp_path: Path) -> None:
    smooth_HWC = cv2.GaussianBlur(texture(101, 133, 3), (0, 0), 3)
    deep_HWC = texture(101, 133, 3, dtype=np.uint16)
    grey_HW = np.ascontiguousarray(smooth_HWC[:, :, 0])
    cases = []
    for codec in CODECS:
        for geometry in ({"rowsperstrip": 16}, {"tile": (32, 64)}):
            cases.append((smooth_HWC, dict(photometric="rgb", **codec, **geometry)))
            cases.append((deep_HWC, dict(photometric="rgb", byteorder=">", **codec, **geometry)))
    for geometry in ({"rowsperstrip": 32}, {"tile": (64, 64)}):
        jpeg = {"compression": "jpeg", **geometry}
        for subsampling in ((1, 1), (2, 1), (2, 2)):
            cases.append((smooth_HWC, {"photometric": "rgb", "subsampling": subsampling, **jpeg}))
        cases.append((smooth_HWC, {"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}, **jpeg}))
        cases.append((grey_HW, {"photometric": "minisblack", **jpeg}))
    paths = []
    for index, (image, options) in enumerate(cases):
        paths.append(str(tmp_path / f"{index}.tif"))
        tifffile.imwrite(paths[-1], image, **options)
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_IMAGECODECS, *paths], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    for path, (_, options) in zip(paths, cases, strict=True):
        with open_slide(path) as slide:
            np.testing.assert_array_equal(np.load(path + ".npy"), slide.read_all(), err_msg=str(options))
