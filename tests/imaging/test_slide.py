"""Slides: every supported layout gives the same pixels, whatever region is read."""

from __future__ import annotations

import subprocess
import sys
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from histofold.imaging.slide import open_slide
from imaging.slide_files import CODECS, GEOMETRIES, check_regions, small_files, texture


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
            patch.setattr("histofold.imaging.tiff.codecs.has_imagecodecs", lambda: False)
        slide = open_slide(tmp_path / "a.tif")
    with slide:
        difference_HWC = np.abs(slide.read_all().astype(int) - peer_HWC)
    assert difference_HWC.mean() < 1  # GDAL interpolates chroma in its own way
    assert difference_HWC.max() < 16


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


def test_random_regions_equal_the_whole_in_every_layout(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for name, path in small_files(tmp_path):
        with open_slide(path) as slide:
            whole_HWC = slide.read_all()
        height, width = whole_HWC.shape[:2]
        assert height != width
        with open_slide(path, cache_bytes=3000) as slide:  # so small that segments come and go
            for _ in range(25):
                top, bottom = np.sort(rng.choice(height + 1, 2, replace=False))
                left, right = np.sort(rng.choice(width + 1, 2, replace=False))
                region_HWC = slide.read(slice(top, bottom), slice(left, right))
                np.testing.assert_array_equal(region_HWC, whole_HWC[top:bottom, left:right], err_msg=name)


def test_a_sparse_tile_is_black(tmp_path: Path) -> None:
    image_HWC = texture(96, 128, 3)
    tiles = [image_HWC[y : y + 32, x : x + 64] for y in range(0, 96, 32) for x in range(0, 128, 64)]
    stored = iter([None if number in (1, 4) else tile for number, tile in enumerate(tiles)])
    options = {"shape": image_HWC.shape, "dtype": np.uint8, "photometric": "rgb", "tile": (32, 64)}
    tifffile.imwrite(tmp_path / "a.tif", stored, compression="zlib", **options)
    expected_HWC = image_HWC.copy()
    expected_HWC[0:32, 64:] = 0
    expected_HWC[64:, 0:64] = 0
    with open_slide(tmp_path / "a.tif") as slide:
        np.testing.assert_array_equal(slide.read_all(), expected_HWC)


def test_missing_byte_counts_of_plain_strips_are_those_of_the_pixels(tmp_path: Path) -> None:
    image_HWC = texture(101, 133, 3)
    for geometry in ({"rowsperstrip": 16}, {"rowsperstrip": 101}, {"tile": (32, 64)}):
        tifffile.imwrite(tmp_path / "a.tif", image_HWC, photometric="rgb", metadata=None, **geometry)
        with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
            tags = tiff.pages[0].tags
            offset = tags[325 if "tile" in geometry else 279].offset
        content = bytearray((tmp_path / "a.tif").read_bytes())
        content[offset : offset + 2] = (65000).to_bytes(2, "little")  # a private tag in its place
        (tmp_path / "a.tif").write_bytes(content)
        check_regions(tmp_path / "a.tif", image_HWC)


@pytest.mark.parametrize("rows", [101, 102, 65535, 2**32 - 1])
def test_rows_per_strip_beyond_the_image(tmp_path: Path, rows: int) -> None:
    image_HWC = texture(101, 133, 3)
    for codec in ({}, {"compression": "zlib"}, {"compression": "lzw", "predictor": 2}):
        tifffile.imwrite(tmp_path / "a.tif", image_HWC, photometric="rgb", rowsperstrip=101, **codec)
        with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
            tiff.pages[0].tags["RowsPerStrip"].overwrite(rows, dtype="I")
        check_regions(tmp_path / "a.tif", image_HWC)


STREAM = """
import sys
from pathlib import Path
from histofold.imaging.slide import open_slide

with open_slide(sys.argv[1]) as slide:
    height, width = slide.shape_hw
    for y in range(0, height, 512):
        for x in range(0, width, 512):
            slide.read(slice(y, min(y + 512, height)), slice(x, min(x + 512, width)))
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(("codec", "geometry"), [("zlib", {"tile": (256, 256)}), (None, {"rowsperstrip": 16})], ids=str)
def test_memory_is_flat_in_the_height_of_a_slide(tmp_path: Path, geometry: dict, codec: str | None) -> None:
    tall, width = 16_384, 3000
    peaks_kb = []
    for height in (tall // 8, tall):
        size_hw = geometry.get("tile", (16, width))
        stored = texture(*size_hw, 3).tobytes()
        piece = zlib.compress(stored, 1) if codec else stored
        number = (height // size_hw[0]) * -(-width // size_hw[1])
        options = {"shape": (height, width, 3), "dtype": np.uint8, "photometric": "rgb", "compression": codec}
        tifffile.imwrite(tmp_path / "a.tif", iter([piece] * number), **options, **geometry)
        command = [sys.executable, "-c", STREAM, str(tmp_path / "a.tif")]
        peaks_kb.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks_kb[1] - peaks_kb[0] < 24 * 1024, "seven eighths of the tall slide are 129 MB"


def test_no_thread_outlives_a_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", texture(101, 133, 3), photometric="rgb", compression="zlib", rowsperstrip=8)
    before = threading.active_count()
    with open_slide(tmp_path / "a.tif") as slide:
        slide.read_all()
        assert threading.active_count() == before


@pytest.mark.parametrize("readers", [2, 5])
def test_readers_in_threads_agree(tmp_path: Path, readers: int) -> None:
    image_HWC = texture(301, 233, 3)
    tifffile.imwrite(tmp_path / "a.tif", image_HWC, photometric="rgb", compression="lzw", tile=(32, 32))
    wrong: list[int] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with open_slide(tmp_path / "a.tif", cache_bytes=20_000) as slide:
            for _ in range(15):
                top, left = int(rng.integers(0, 200)), int(rng.integers(0, 150))
                region_HWC = slide.read(slice(top, top + 100), slice(left, left + 80))
                if not np.array_equal(region_HWC, image_HWC[top : top + 100, left : left + 80]):
                    wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
