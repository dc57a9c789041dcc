"""What our own decoding does not cover goes to rasterio, then to OpenCV for plain 8-bit RGB only, then is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import tifffile

from histofold.core.faults import ImageError
from histofold.imaging.slide import open_slide
from histofold.imaging.tiff.foreign import OpenCvReader, RasterioReader
from histofold.imaging.tiff.reader import TiffReader, open_tiff
from imaging.slide_files import check_regions, texture, tiny_tiff

LIMITS = {"max_pixels": 10**6, "max_segment_bytes": 10**6, "cache_bytes": 10**6}
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def reversed_bits_tiff(path: Path, image_HWC: np.ndarray, **tags: int) -> None:
    """A plain RGB TIFF that stores the lowest bit of each byte first: our own decoding leaves it to others."""
    path.write_bytes(tiny_tiff(1, image_HWC.shape[:2], image_HWC.tobytes().translate(_REVERSED), t266=2, **tags))


class FakeDataset:
    """Stands in for a dataset of rasterio; counts what it is asked for."""

    def __init__(self, log: list[str], values_SHW: np.ndarray) -> None:
        self.count, self.height, self.width = values_SHW.shape
        self.dtypes = [str(values_SHW.dtype)] * self.count
        self._values_SHW, self._log = values_SHW, log

    def read(self, bands: list[int], window: tuple[tuple[int, int], tuple[int, int]]) -> np.ndarray:
        (top, bottom), (left, right) = window
        self._log.append(f"read {bands} {window}")
        return self._values_SHW[np.array(bands) - 1, top:bottom, left:right]

    def close(self) -> None:
        self._log.append("close")


def fake_rasterio(log: list[str], values_SHW: np.ndarray | Exception) -> ModuleType:
    module = ModuleType("rasterio")

    class Env:
        def __init__(self, **settings: object) -> None:
            assert 0 < settings["GDAL_CACHEMAX"] <= 100 << 20

        def __enter__(self) -> None:
            log.append("enter")

        def __exit__(self, *_: object) -> None:
            log.append("exit")

    def fake_open(name: str, driver: str) -> FakeDataset:
        log.append(f"open {name.rsplit(':', 1)[0]} {driver}")
        if isinstance(values_SHW, Exception):
            raise values_SHW
        return FakeDataset(log, values_SHW)

    module.Env, module.open = Env, fake_open  # type: ignore[attr-defined]
    return module


@pytest.fixture
def no_rasterio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)  # importing it then raises ImportError


def test_what_we_decode_ourselves_is_asked_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setitem(sys.modules, "rasterio", fake_rasterio(log, texture(3, 101, 133)))
    for codec in ("zlib", "lzw", "jpeg", "jpeg2000", "zstd", "lzma", "packbits", None):
        tifffile.imwrite(tmp_path / "a.tif", texture(101, 133, 3), photometric="rgb", compression=codec)
        reader = open_tiff(tmp_path / "a.tif", **LIMITS)
        assert isinstance(reader, TiffReader)
        reader.close()
    assert log == []


def test_rasterio_comes_before_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_HWC, log = texture(101, 133, 3), []
    monkeypatch.setitem(sys.modules, "rasterio", fake_rasterio(log, np.moveaxis(image_HWC, 2, 0)))
    monkeypatch.setattr(cv2, "imread", lambda *_: pytest.fail("OpenCV was asked"))
    reversed_bits_tiff(tmp_path / "a.tif", image_HWC)
    assert log == []
    check_regions(tmp_path / "a.tif", image_HWC)
    assert log[1] == "open GTIFF_DIR:1 GTiff"
    assert log.count("close") == 1
    reads = [line for line in log if line.startswith("read")]
    assert reads[0] == "read [1, 2, 3] ((0, 1), (0, 1))", "only the region is read"
    assert log.count("enter") == log.count("exit") == 1 + len(reads)


@pytest.mark.parametrize("failure", [RuntimeError("no such codec"), None])
def test_opencv_serves_plain_rgb_where_rasterio_does_not(
    tmp_path: Path, failure: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", fake_rasterio([], failure) if failure else None)
    image_HWC = texture(101, 133, 3)
    reversed_bits_tiff(tmp_path / "a.tif", image_HWC)
    assert isinstance(open_tiff(tmp_path / "a.tif", **LIMITS), OpenCvReader)
    check_regions(tmp_path / "a.tif", image_HWC)
    with pytest.raises(ImageError, match="more than 40,000 bytes"):
        open_slide(tmp_path / "a.tif", max_segment_bytes=40_000)
    for orientation in range(2, 9):  # OpenCV would turn it
        reversed_bits_tiff(tmp_path / "a.tif", image_HWC, t274=orientation)
        with pytest.raises(ImageError, match="an orientation"):
            open_slide(tmp_path / "a.tif")


@pytest.mark.usefixtures("no_rasterio")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compression": "webp"}, "a codec that it may lack"),
        ({"compression": "jpegxl"}, "a codec that it may lack"),
        ({"compression": "lerc"}, "a codec that it may lack"),
    ],
    ids=str,
)
def test_refused_in_words_where_none_can(tmp_path: Path, options: dict, words: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", texture(64, 64, 3), photometric="rgb", **options)
    with pytest.raises(ImageError, match="is not decoded here, rasterio is not installed") as caught:
        open_slide(tmp_path / "a.tif")
    assert words in caught.value.rule
    assert "rasterio" in caught.value.remedy


@pytest.mark.usefixtures("no_rasterio")
@pytest.mark.parametrize("tags", [{"t262": 1, "t277": 1}, {"t262": 0, "t277": 1}, {"t277": 4}, {"t258": 16}], ids=str)
def test_opencv_is_asked_for_nothing_but_plain_rgb(tmp_path: Path, tags: dict) -> None:
    (tmp_path / "a.tif").write_bytes(tiny_tiff(1, (10, 10), bytes(800), t266=2, **tags))
    with pytest.raises(ImageError, match="anything but plain 8-bit RGB"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.usefixtures("no_rasterio")
@pytest.mark.parametrize("answer", [None, np.zeros((5, 5, 3), np.uint8), "error"])
def test_a_wrong_answer_of_opencv_is_an_image_error(
    tmp_path: Path, answer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def imread(*_: object) -> object:
        if isinstance(answer, str):
            raise cv2.error(answer)
        return answer

    monkeypatch.setattr(cv2, "imread", imread)
    reversed_bits_tiff(tmp_path / "a.tif", texture(20, 30, 3))
    with open_slide(tmp_path / "a.tif") as slide, pytest.raises(ImageError, match="OpenCV") as caught:
        slide.read_all()
    assert caught.value.file == str(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "values_SHW",
    [np.zeros((3, 20, 31), np.uint8), np.zeros((3, 20, 30), np.uint16), np.zeros((2, 20, 30), np.uint8)],
    ids=["size", "type", "bands"],
)
def test_what_rasterio_sees_is_held_to_the_header(
    tmp_path: Path, values_SHW: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    monkeypatch.setitem(sys.modules, "rasterio", fake_rasterio(log, values_SHW))
    reversed_bits_tiff(tmp_path / "a.tif", texture(20, 30, 3))
    with pytest.raises(ImageError, match="rasterio sees"):
        open_slide(tmp_path / "a.tif")
    assert log[-1] == "close"


def test_without_pillows_codecs_lzw_goes_on_and_never_to_a_wrong_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    monkeypatch.setattr("histofold.imaging.tiff.pages.has_imagecodecs", lambda: False)
    monkeypatch.setattr("histofold.imaging.tiff.pages.has_pillow_codec", lambda name: False)
    tifffile.imwrite(tmp_path / "a.tif", texture(101, 133, 3), photometric="rgb", compression="lzw")
    check_regions(tmp_path / "a.tif", texture(101, 133, 3))  # by OpenCV
    for codec in ("jpeg2000", "zstd", "lzma"):
        tifffile.imwrite(tmp_path / "a.tif", texture(101, 133, 3), photometric="rgb", compression=codec)
        with pytest.raises(ImageError, match="without imagecodecs"):
            open_slide(tmp_path / "a.tif")


# -- with the real rasterio --------------------------------------------------------------------------------------------

LOSSLESS_WEBP = {"compression": "webp", "compressionargs": {"lossless": True}}


@pytest.mark.parametrize(
    ("stored", "options"),
    [
        (texture(101, 133, 3), LOSSLESS_WEBP | {"photometric": "rgb", "tile": (32, 64)}),
        (texture(101, 133, 4), LOSSLESS_WEBP | {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (texture(101, 133, 3), {"compression": "lerc", "photometric": "rgb", "rowsperstrip": 16}),
        (texture(101, 133), {"compression": "lerc", "photometric": "miniswhite"}),
        (texture(101, 133, dtype=np.uint16), {"compression": "lerc", "photometric": "minisblack"}),
        (texture(3, 101, 133), {"compression": "lerc", "photometric": "minisblack"}),
        (texture(3, 101, 133), {"compression": "lerc", "photometric": "rgb", "planarconfig": "separate"}),
    ],
    ids=["webp", "webp with alpha", "lerc", "white is zero", "16 bit", "three pages", "planes"],
)
def test_rasterio_equals_tifffile(tmp_path: Path, stored: np.ndarray, options: dict) -> None:
    pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, **options)
    peer = tifffile.imread(path)
    if peer.dtype == np.uint16:
        peer = np.rint(peer / 257).astype(np.uint8)
    if options["photometric"] == "miniswhite":
        peer = 255 - peer
    peer = np.moveaxis(peer, 0, 2) if peer.shape[0] == 3 else peer
    peer_HWC = np.repeat(peer[:, :, np.newaxis], 3, axis=2) if peer.ndim == 2 else peer[:, :, :3]
    assert isinstance(open_tiff(path, **LIMITS), RasterioReader)
    check_regions(path, peer_HWC)


def test_rasterio_reads_the_largest_page_and_no_file_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    image_HWC = texture(101, 133, 3)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.ascontiguousarray(image_HWC[::2, ::2]), photometric="rgb", metadata=None, **LOSSLESS_WEBP)
        writer.write(image_HWC, photometric="rgb", metadata=None, **LOSSLESS_WEBP)
    tifffile.imwrite(tmp_path / "a.tif.ovr", np.zeros((51, 67, 3), np.uint8), photometric="rgb")
    check_regions(path, image_HWC)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rasterio_leaves_the_rows_as_stored(tmp_path: Path, orientation: int) -> None:
    pytest.importorskip("rasterio")
    image_HWC = texture(101, 133, 3)
    reversed_bits_tiff(tmp_path / "a.tif", image_HWC, t274=orientation)
    assert isinstance(open_tiff(tmp_path / "a.tif", **LIMITS), RasterioReader)
    check_regions(tmp_path / "a.tif", image_HWC)


def test_damage_found_by_rasterio_is_an_image_error(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, texture(101, 133, 3), photometric="rgb", rowsperstrip=32, **LOSSLESS_WEBP)
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[1], tiff.pages[0].databytecounts[1]
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    with open_slide(path) as slide:
        assert slide.read(slice(0, 32), slice(0, 133)).shape == (32, 133, 3)
        with pytest.raises(ImageError, match="rasterio cannot decode") as caught:
            slide.read_all()
    assert caught.value.file == str(path)
