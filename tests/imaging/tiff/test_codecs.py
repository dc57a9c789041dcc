"""Codecs of strips and tiles, with imagecodecs and without it, against independent peers."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from histofold.core.faults import ImageError
from histofold.imaging.slide import open_slide
from imaging.slide_files import CODECS, check_regions, small_files, smooth, texture, tiny_tiff


@pytest.fixture(params=[False, True], ids=["imagecodecs", "no imagecodecs"])
def without_imagecodecs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param:
        for module in ("tiff.codecs", "tiff.pages"):
            monkeypatch.setattr(f"histofold.imaging.{module}.has_imagecodecs", lambda: False)
    return request.param


def test_every_layout_is_the_same_without_imagecodecs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = list(small_files(tmp_path))
    assert len(files) > 30
    whole = {}
    for name, path in files:
        with open_slide(path) as slide:
            whole[name] = slide.read_all()
    for module in ("tiff.codecs", "tiff.pages"):
        monkeypatch.setattr(f"histofold.imaging.{module}.has_imagecodecs", lambda: False)
    for name, path in files:
        with open_slide(path) as slide:
            np.testing.assert_array_equal(slide.read_all(), whole[name], err_msg=name)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("samples", [1, 3])
def test_float_differences_equal_tifffile(
    tmp_path: Path, byteorder: str, dtype: str, samples: int, without_imagecodecs: bool
) -> None:
    stored = np.random.default_rng(0).random((37, 53, samples)).astype(dtype)
    photometric = "rgb" if samples == 3 else "minisblack"
    options = {"photometric": photometric, "byteorder": byteorder, "rowsperstrip": 9}
    tifffile.imwrite(tmp_path / "a.tif", stored, compression="zlib", predictor=3, **options)
    peer = tifffile.imread(tmp_path / "a.tif").reshape(37, 53, samples)
    expected_HWC = np.broadcast_to(np.rint(peer.astype(np.float64) * 255), (37, 53, 3))
    with open_slide(tmp_path / "a.tif") as slide:
        difference = np.abs(slide.read_all().astype(int) - expected_HWC)
    assert difference.max() <= (1 if dtype == "f4" else 0)  # float32 rounds v * 255 itself
    assert np.count_nonzero(difference) <= 3


# -- JPEG 2000 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [33005, 34712])
@pytest.mark.parametrize("geometry", [{"tile": (64, 64)}, {"rowsperstrip": 32}, {}], ids=str)
def test_jpeg2000_equals_tifffile(tmp_path: Path, compression: int, geometry: dict, without_imagecodecs: bool) -> None:
    options = {"photometric": "rgb", "compression": compression, "compressionargs": {"level": 0}, **geometry}
    tifffile.imwrite(tmp_path / "a.tif", smooth(), **options)
    peer_HWC = tifffile.imread(tmp_path / "a.tif")
    check_regions(tmp_path / "a.tif", peer_HWC)
    np.testing.assert_array_equal(peer_HWC, smooth())


def test_jpeg2000_grey(tmp_path: Path, without_imagecodecs: bool) -> None:
    grey_HW = np.ascontiguousarray(smooth()[:, :, 0])
    tifffile.imwrite(tmp_path / "a.tif", grey_HW, compression="jpeg2000", tile=(64, 64))
    check_regions(tmp_path / "a.tif", np.repeat(tifffile.imread(tmp_path / "a.tif")[:, :, np.newaxis], 3, axis=2))


def test_jpeg2000_of_16_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep_HWC = texture(101, 133, 3, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", deep_HWC, photometric="rgb", compression="jpeg2000", tile=(64, 64))
    check_regions(tmp_path / "a.tif", np.rint(tifffile.imread(tmp_path / "a.tif") / 257).astype(np.uint8))
    for module in ("tiff.codecs", "tiff.pages"):
        monkeypatch.setattr(f"histofold.imaging.{module}.has_imagecodecs", lambda: False)
    with pytest.raises(ImageError, match="JPEG2000 of 16 bits without imagecodecs"):
        open_slide(tmp_path / "a.tif")


def aperio_tiff(path: Path, codestream: bytes, height: int, width: int) -> None:
    """A TIFF of one strip that calls its codestream YCbCr, as Aperio's scanners do (33003)."""
    path.write_bytes(tiny_tiff(33003, (height, width), codestream, t262=6))


def test_aperio_ycbcr_becomes_rgb(tmp_path: Path, without_imagecodecs: bool) -> None:
    ycbcr_HWC = np.asarray(Image.fromarray(smooth()).convert("YCbCr"))
    codestream = imagecodecs.jpeg2k_encode(ycbcr_HWC, level=0, codecformat="j2k", mct=False)
    aperio_tiff(tmp_path / "a.tif", codestream, 101, 133)
    luma_HW, blue_HW, red_HW = np.moveaxis(ycbcr_HWC.astype(np.float64), 2, 0)  # JFIF 1.02, page 3
    blue_HW, red_HW = blue_HW - 128, red_HW - 128
    green_HW = luma_HW - 0.344136 * blue_HW - 0.714136 * red_HW
    expected_HWC = np.dstack([luma_HW + 1.402 * red_HW, green_HW, luma_HW + 1.772 * blue_HW]).clip(0, 255)
    with open_slide(tmp_path / "a.tif") as slide:
        assert np.abs(slide.read_all() - expected_HWC).max() <= 1


def halved_colours(planes: list[np.ndarray]) -> bytes:
    """One lossless codestream of a full and two half-sized components, spliced from three grey ones.

    In the order component, position, resolution, layer (CPRL) the packets of each component stand together, and a grey
    codestream of one tile and one precinct a resolution holds just those.
    """
    streams = [
        imagecodecs.jpeg2k_encode(plane, level=0, codecformat="j2k", mct=False, resolutions=3) for plane in planes
    ]
    heads, packets = [], []
    for stream in streams:
        data = stream.index(b"\xff\x93") + 2
        heads.append(stream[: stream.index(b"\xff\x90")])
        packets.append(stream[data : stream.rindex(b"\xff\xd9")])
    size = heads[0].index(b"\xff\x51") + 2
    coding = heads[0].index(b"\xff\x52")
    components = b"".join(struct.pack(">3B", 7, step, step) for step in (1, 2, 2))
    siz = struct.pack(">H", 38 + 9) + heads[0][size + 2 : size + 36] + struct.pack(">H", 3) + components
    rest = bytearray(heads[0][coding:])
    rest[5] = 4  # CPRL
    body = b"".join(packets)
    tile = struct.pack(">HHHIBB", 0xFF90, 10, 0, 14 + len(body), 0, 1) + b"\xff\x93" + body
    return b"\xff\x4f\xff\x51" + siz + bytes(rest) + tile + b"\xff\xd9"


def test_aperio_ycbcr_with_colours_at_half_size(tmp_path: Path, without_imagecodecs: bool) -> None:
    ycbcr_HWC = np.asarray(Image.fromarray(smooth(96, 128)).convert("YCbCr"))
    planes = [np.ascontiguousarray(ycbcr_HWC[:, :, 0])]
    planes += [np.ascontiguousarray(ycbcr_HWC[::2, ::2, channel]) for channel in (1, 2)]
    aperio_tiff(tmp_path / "a.tif", halved_colours(planes), 96, 128)
    full = [planes[0], *(plane.repeat(2, 0).repeat(2, 1) for plane in planes[1:])]
    expected_HWC = np.asarray(Image.merge("YCbCr", [Image.fromarray(plane) for plane in full]).convert("RGB"))
    with open_slide(tmp_path / "a.tif") as slide:
        np.testing.assert_array_equal(slide.read_all(), expected_HWC)
    (tmp_path / "b.tif").write_bytes(tiny_tiff(33005, (96, 128), halved_colours(planes)))
    with open_slide(tmp_path / "b.tif") as slide, pytest.raises(ImageError, match="different sizes"):
        slide.read_all()


def j2k(height: int = 101, width: int = 133, dtype: type = np.uint8) -> bytes:
    return imagecodecs.jpeg2k_encode(texture(height, width, 3, dtype=dtype), level=0, codecformat="j2k")


DAMAGED_JPEG2000: dict[str, tuple[Callable[[], bytes], str]] = {
    "larger frame": (lambda: j2k(102), "frame is"),
    "wider frame": (lambda: j2k(101, 134), "frame is"),
    "smaller frame": (lambda: j2k(100), "fewer pixels|reshape"),
    "grey": (lambda: imagecodecs.jpeg2k_encode(texture(101, 133), level=0, codecformat="j2k"), "frame is"),
    "16 bit": (lambda: j2k(dtype=np.uint16), "not of 8 bits"),
    "cut header": (lambda: j2k()[:45], "cut short"),
    "cut": (lambda: j2k()[:20_000], "decoded"),
    "none": (lambda: bytes(500), "no header"),
}


@pytest.mark.parametrize("name", DAMAGED_JPEG2000)
def test_damaged_jpeg2000(tmp_path: Path, name: str, without_imagecodecs: bool) -> None:
    make, words = DAMAGED_JPEG2000[name]
    (tmp_path / "a.tif").write_bytes(tiny_tiff(34712, (101, 133), make()))
    with open_slide(tmp_path / "a.tif") as slide, pytest.raises(ImageError, match=words) as caught:
        slide.read_all()
    assert caught.value.file == str(tmp_path / "a.tif")


# -- strips that lie ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "lzma", "jpeg"])
def test_swapped_strips_are_refused_or_read_as_they_lie(
    tmp_path: Path, compression: str, without_imagecodecs: bool
) -> None:
    """Offsets that point into the middle of another strip never give pixels of the right one."""
    path = tmp_path / "a.tif"
    image_HWC = smooth()
    tifffile.imwrite(path, image_HWC, photometric="rgb", compression=compression, rowsperstrip=32)
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags[273]
        where = tag.valueoffset
        wanted = struct.pack("<I", tag.value[1] + 7)
    content = bytearray(path.read_bytes())
    content[where + 4 : where + 8] = wanted
    path.write_bytes(content)
    with open_slide(path) as slide:
        first = slide.read(slice(0, 32), slice(0, 133))
        assert np.abs(first.astype(int) - image_HWC[:32]).mean() < 3
        with pytest.raises(ImageError, match="segment 1 cannot be decoded"):
            slide.read(slice(32, 64), slice(0, 133))


def test_pillow_and_imagecodecs_give_the_same_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "JPEG", quality=80)
    data = buffer.getvalue()
    (tmp_path / "a.tif").write_bytes(tiny_tiff(7, (101, 133), data, t262=6))
    peer_HWC = np.asarray(Image.open(io.BytesIO(data)))
    check_regions(tmp_path / "a.tif", peer_HWC)
    monkeypatch.setattr("histofold.imaging.tiff.codecs.has_imagecodecs", lambda: False)
    check_regions(tmp_path / "a.tif", peer_HWC)


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
from histofold.imaging.slide import open_slide
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
