"""Small image files that the tests of slides share: honest ones of every kind, and headers that claim anything."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from histofold.imaging.slide import open_slide

CODECS = [
    {},
    {"compression": "zlib"},
    {"compression": "adobe_deflate", "predictor": 2},
    {"compression": "lzw"},
    {"compression": "lzw", "predictor": 2},
    {"compression": "packbits"},
    {"compression": "zstd"},
    {"compression": "lzma", "predictor": 2},
]
GEOMETRIES = [{}, {"rowsperstrip": 16}, {"rowsperstrip": 1}, {"tile": (32, 64)}, {"bigtiff": True}]
REGIONS = [
    (slice(0, 1), slice(0, 1)),
    (slice(100, 101), slice(132, 133)),
    (slice(0, 101), slice(0, 133)),
    (slice(30, 70), slice(5, 9)),
    (slice(15, 17), slice(40, 133)),
    (slice(63, 65), slice(63, 65)),
]


def texture(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    """Noise, darker at the top, with its corners set: compresses a little, and every place differs."""
    rng = np.random.default_rng(7)
    values = rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    values[..., :40, :] //= 4
    values.reshape(-1)[[0, -1]] = np.iinfo(dtype).max
    return values


def smooth(height: int = 101, width: int = 133) -> np.ndarray:
    """Blurred noise (H, W, 3), for lossy codecs."""
    return cv2.GaussianBlur(texture(height, width, 3), (0, 0), 3)


def check_regions(path: Path, expected_HWC: np.ndarray) -> None:
    """The slide's shape, its fixed regions and the whole of it equal the array (101, 133, 3)."""
    with open_slide(path) as slide:
        assert slide.shape_hw == expected_HWC.shape[:2]
        for y, x in REGIONS:
            region = slide.read(y, x)
            assert region.dtype == np.uint8
            assert region.flags.c_contiguous
            assert region.flags.owndata
            np.testing.assert_array_equal(region, expected_HWC[y, x])
        np.testing.assert_array_equal(slide.read_all(), expected_HWC)


def tiny_tiff(
    compression: int, shape_hw: tuple[int, int], data: bytes, order: str = "<", link: int = 0, **tags: int | None
) -> bytes:
    """A one-strip RGB TIFF whose header claims what it is told to: t256=7 sets tag 256, t256=None leaves it out."""
    height, width = shape_hw
    values = {256: width, 257: height, 258: 8, 259: compression, 262: 2, 273: 0, 277: 3, 278: height, 279: len(data)}
    told = values | {int(tag[1:]): value for tag, value in tags.items()}
    told = {tag: value for tag, value in told.items() if value is not None}
    if "t273" not in tags:
        told[273] = 14 + 12 * len(told)
    directory = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(told.items()))
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}2sHIH", mark, 42, 8, len(told))
    return head + directory + struct.pack(f"{order}I", link) + data


def jpeg_bytes(height: int, width: int) -> bytes:
    """A JPEG of 8 x 8 pixels whose frame claims another size."""
    encoded = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    frame = encoded.index(b"\xff\xc0")
    return encoded[: frame + 5] + struct.pack(">HH", height, width) + encoded[frame + 9 :]


def png_bytes(height: int, width: int, data: bytes, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    """A PNG of one chunk of data, of which nothing is checked."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    return b"\x89PNG\r\n\x1a\n" + header + (chunk(b"IDAT", data) if data else b"") + chunk(b"IEND", b"")


PNG_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png_rows(stored_HWS: np.ndarray, is_interlaced: bool = False) -> bytes:
    """The unfiltered rows of a PNG, in seven passes if interlaced."""
    passes = PNG_PASSES if is_interlaced else ((0, 0, 1, 1),)
    rows = []
    for top, left, down, right in passes:
        part = stored_HWS[top::down, left::right]
        big = part.astype(part.dtype.newbyteorder(">"))
        rows += [b"\0" + row.tobytes() for row in big if row.size]
    return b"".join(rows)


def _tiff_writer(stored: np.ndarray, **options: object) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, stored, **options)


def _raster_writer(stored: np.ndarray, mode: str, kind: str, **options: object) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(stored).convert(mode).save(path, kind, **options)


def small_files(folder: Path, height: int = 37, width: int = 53) -> Iterator[tuple[str, Path]]:
    """One small file of each layout, codec and format that is read: name and path."""
    rgb_HWC, deep_HWC = texture(height, width, 3), texture(height, width, 3, dtype=np.uint16)
    smooth_HWC = smooth(height, width)
    planes_CHW = np.ascontiguousarray(rgb_HWC.transpose(2, 0, 1))
    floats_HWC = rgb_HWC.astype(np.float32) / 255
    palette = texture(3, 256, dtype=np.uint16)
    tile = {"tile": (16, 32)}
    writers: dict[str, Callable[[Path], None]] = {
        f"rgb {codec} {geometry}": _tiff_writer(rgb_HWC, photometric="rgb", **codec, **geometry)
        for codec in CODECS
        for geometry in ({"rowsperstrip": 9}, tile)
    }
    writers |= {
        f"jpeg {geometry}": _tiff_writer(smooth_HWC, photometric="rgb", compression="jpeg", **geometry)
        for geometry in ({"rowsperstrip": 16}, {"tile": (16, 32)})
    }
    writers |= {
        "jpeg2000": _tiff_writer(smooth_HWC, photometric="rgb", compression="jpeg2000", tile=(32, 32)),
        "big endian 16 bit": _tiff_writer(deep_HWC, photometric="rgb", byteorder=">", compression="zlib", **tile),
        "float": _tiff_writer(floats_HWC, photometric="rgb", compression="zlib", predictor=3, rowsperstrip=9),
        "bigtiff": _tiff_writer(rgb_HWC, photometric="rgb", bigtiff=True, rowsperstrip=9),
        "planar": _tiff_writer(planes_CHW, photometric="rgb", planarconfig="separate", compression="lzw"),
        "three pages": _tiff_writer(planes_CHW, photometric="minisblack", metadata=None),
        "stacked": _tiff_writer(planes_CHW, photometric="minisblack", truncate=True),
        "imagej": _tiff_writer(planes_CHW, imagej=True),
        "grey": _tiff_writer(rgb_HWC[:, :, 0].copy(), photometric="minisblack", compression="packbits"),
        "palette": _tiff_writer(rgb_HWC[:, :, 0].copy(), photometric="palette", colormap=palette, compression="lzw"),
    }
    writers |= {f"png {mode}": _raster_writer(rgb_HWC, mode, "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "1")}
    writers |= {f"jpg {mode}": _raster_writer(smooth_HWC, mode, "JPEG") for mode in ("RGB", "L")}
    writers |= {"jpg progressive": _raster_writer(smooth_HWC, "RGB", "JPEG", progressive=True)}
    writers |= {
        "png 16": lambda path: path.write_bytes(png_bytes(height, width, zlib.compress(png_rows(deep_HWC)), 16))
    }
    for index, (name, write) in enumerate(writers.items()):
        path = folder / f"{index}.img"
        write(path)
        yield name, path
