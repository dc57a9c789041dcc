"""PNG and JPEG: header checked first, decoded once as a whole when first read, then cut.

Pillow decodes them, because it raises on truncated data where OpenCV returns wrong pixels in silence. The exception is
PNG with 16-bit colour, which Pillow would cut to its high byte: OpenCV reads it. A PNG's checksums are verified and its
rows counted by us, since Pillow passes over the sums of its pixels and leaves missing rows black. A JPEG has no sums:
that it reaches its end is all that can be known. CMYK is refused, for lack of the profile that its colours need.
Pillow's plugin classes are used directly: its global guard against large images would warn after ours has spoken.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from histofold.core.faults import image_fault
from histofold.imaging.samples import DEFLATE_RATIO, JPEG_PIXELS_PER_BYTE, paste_rgb

_RASTER_BLOCK_PIXELS = 1 << 22  # converted at a time, so that a large read needs no second copy of the image
_RASTER_DEEP_COLOUR = "RGB;16"  # our name for 16-bit PNG of several channels, which Pillow has no mode for
_RASTER_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I": 4, "LA": 4, "RGB": 4, "RGBA": 4, _RASTER_DEEP_COLOUR: 8}
_RASTER_REMEDY = "copy or export the file again"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# Where the first pixel of each pass of an interlaced PNG lies, and how far apart its pixels are: PNG 3.0, section 8.2.
_PNG_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_PNG_PLAIN = ((0, 0, 1, 1),)


class RasterReader:
    """A PNG or JPEG; see `histofold.imaging.slide.SlideReader`."""

    def __init__(self, path: Path, shape_hw: tuple[int, int], mode: str, png: PngHeader | None) -> None:
        self.shape_hw = shape_hw
        self._path = path
        self._mode = mode
        self._png = png
        self._image: Image.Image | None = None
        self._deep_HWC: np.ndarray | None = None

    def read_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        """Fill the canvas with the region at (y, x)."""
        self._decode_once()
        height, width = canvas_HWC.shape[:2]
        if self._deep_HWC is not None:
            paste_rgb(canvas_HWC, self._deep_HWC[y : y + height, x : x + width])
            return
        rows = max(1, _RASTER_BLOCK_PIXELS // width)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            paste_rgb(canvas_HWC[top:bottom], self._samples((x, y + top, x + width, y + bottom)))

    def close(self) -> None:
        """Drop the decoded image."""
        self._image = self._deep_HWC = None

    def _decode_once(self) -> None:
        if self._image is not None or self._deep_HWC is not None:
            return
        try:
            if self._png is not None:
                _verify_png(self._path)
            if self._mode == _RASTER_DEEP_COLOUR:
                self._deep_HWC = _decode_deep_png(self._path)
            else:
                with _open_raster_file(self._path) as image:  # closes the file; the pixels stay
                    image.load()
                image.info.pop("transparency", None)  # else Pillow warns when a palette is looked up
                self._image = image
            if self._png is not None and (self._png.is_interlaced or self._ends_black()):
                _check_png_rows(self._path, self._png)
        except Exception as error:  # a broken file makes Pillow raise OSError, SyntaxError, struct.error and more
            self.close()
            raise image_fault(self._path, f"the pixels cannot be decoded ({error})", _RASTER_REMEDY) from error

    def _ends_black(self) -> bool:
        """Whether the last row is all zero, as the rows are that a decoder found no data for."""
        height, width = self.shape_hw
        if self._deep_HWC is not None:
            return not self._deep_HWC[-1].any()
        return self._image is None or not np.asarray(self._image.crop((0, height - 1, width, height))).any()

    def _samples(self, box: tuple[int, int, int, int]) -> np.ndarray:
        """A block (h, w, S) of the decoded image; the box is (left, top, right, bottom)."""
        assert self._image is not None
        part = self._image.crop(box)
        if self._mode in ("I;16", "I"):
            return np.asarray(part).astype(np.uint16)[:, :, np.newaxis]
        return np.asarray(part if self._mode == "RGB" else part.convert("RGB"))


def open_raster(path: Path, max_pixels: int, max_bytes: int) -> RasterReader:
    """Check the header of a PNG or JPEG and return its reader; nothing is decoded yet.

    Raises:
        ImageError: If it is broken, over a limit, or of a colour type that is not read.
    """
    try:
        with _open_raster_file(path) as image:
            width, height = image.size
            mode = image.mode
            is_png = isinstance(image, PngImageFile)
    except Exception as error:  # a broken header makes Pillow raise OSError, SyntaxError, struct.error and more
        raise image_fault(path, f"the header cannot be read ({error})", _RASTER_REMEDY) from error
    if min(height, width) < 1:
        raise image_fault(path, f"the image is {height} x {width} pixels", "export the image with its pixels")
    if height * width > max_pixels:
        remedy = "save it smaller, or raise max_pixels"
        raise image_fault(path, f"{height} x {width} pixels are more than {max_pixels:,}", remedy)
    png = check_png(path) if is_png else None
    if png is not None and png.depth == 16 and png.channels > 1:
        mode = _RASTER_DEEP_COLOUR
    if png is None:
        _check_jpeg(path, height * width)
    if mode not in _RASTER_BYTES:
        raise image_fault(path, f"colour type {mode} is not read", "convert it to RGB or grey")
    if height * width * _RASTER_BYTES[mode] > max_bytes:
        rule = f"{height} x {width} pixels would be decoded in one piece of more than {max_bytes:,} bytes"
        raise image_fault(
            path, rule, "save it as a tiled TIFF, or raise max_segment_bytes: HISTOFOLD_IMAGE_MB=1000 histofold ..."
        )
    return RasterReader(path, (height, width), mode, png)


def _open_raster_file(path: Path) -> PngImageFile | JpegImageFile:
    """Pillow's image with its header read."""
    with open(path, "rb") as file:
        is_png = file.read(1) == b"\x89"
    return PngImageFile(path) if is_png else JpegImageFile(path)


def _check_jpeg(path: Path, pixels: int) -> None:
    """A JPEG must have room for its pixels and reach its end.

    Raises:
        ImageError: If it is cut short or claims more than it can hold.
    """
    size = os.path.getsize(path)
    if pixels > JPEG_PIXELS_PER_BYTE * size:
        raise image_fault(path, f"{size} bytes cannot hold a JPEG of {pixels:,} pixels", _RASTER_REMEDY)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position = 2
        while data[position : position + 1] == b"\xff" and data[position : position + 2] != b"\xff\xda":
            filler = data[position + 1 : position + 2] == b"\xff"
            position += 1 if filler else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if data.rfind(b"\xff\xd9", min(position, size)) < 0:  # found at once unless it is missing
            raise image_fault(path, "truncated: the JPEG does not reach its end", _RASTER_REMEDY)


class PngHeader(NamedTuple):
    """The fields of IHDR that say how many bytes the pixels take."""

    height: int
    width: int
    depth: int
    channels: int
    is_interlaced: bool

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of so many pixels, after the byte that names its filter."""
        return (width * self.depth * self.channels + 7) // 8

    def data_bytes(self) -> int:
        """Bytes of all rows, with their filters."""
        total = 0
        for top, left, down, right in _PNG_PASSES if self.is_interlaced else _PNG_PLAIN:
            rows, columns = -(-(self.height - top) // down), -(-(self.width - left) // right)
            if rows > 0 and columns > 0:
                total += rows * (1 + self.row_bytes(columns))
        return total


def png_chunks(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte and length of the body of each chunk, up to the last one.

    Raises:
        ImageError: If a chunk leaves the file.
    """
    size = os.path.getsize(path)
    position, kind = 8, b""
    with open(path, "rb") as file:
        while kind != b"IEND":
            file.seek(position)
            head = file.read(8)
            length, kind = struct.unpack(">I4s", head) if len(head) == 8 else (0, b"")
            if not kind or position + 12 + length > size:
                raise image_fault(path, f"truncated: a chunk ends beyond the {size} bytes", _RASTER_REMEDY)
            yield kind, position + 8, length
            position += 12 + length


def check_png(path: Path) -> PngHeader:
    """Walk the chunks of a PNG: they must lie in the file and hold enough data.

    Raises:
        ImageError: If the file is cut short, has no data, or too little for its size.
    """
    header: PngHeader | None = None
    data_bytes = 0
    for kind, start, length in png_chunks(path):
        if kind == b"IHDR" and length == 13:
            with open(path, "rb") as file:
                file.seek(start)
                width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", file.read(13))
            header = PngHeader(height, width, depth, _PNG_CHANNELS.get(colour, 1), interlace == 1)
        data_bytes += length if kind == b"IDAT" else 0
    if data_bytes == 0 or header is None:
        raise image_fault(path, "a header without data", _RASTER_REMEDY)
    if header.data_bytes() > DEFLATE_RATIO * data_bytes:
        rule = f"{data_bytes} bytes of data cannot hold {header.height} x {header.width} pixels"
        raise image_fault(path, rule, _RASTER_REMEDY)
    return header


def _verify_png(path: Path) -> None:
    """Verify the checksum of every chunk; Pillow raises where one is wrong."""
    with PngImageFile(path) as image:
        image.verify()


def _check_png_rows(path: Path, header: PngHeader) -> None:
    """Inflate the data once more and count them.

    Raises:
        ValueError: If there are fewer than the rows need.
    """
    stream, found, wanted = zlib.decompressobj(), 0, header.data_bytes()
    with open(path, "rb") as file:
        for kind, start, length in png_chunks(path):
            if kind != b"IDAT":
                continue
            file.seek(start)
            data = file.read(length)
            while data and found < wanted:
                found += len(stream.decompress(data, 1 << 20))
                data = stream.unconsumed_tail
    if found < wanted:
        raise ValueError(f"its data end after {found} of {wanted} bytes")


def _decode_deep_png(path: Path) -> np.ndarray:
    """A 16-bit colour PNG as uint16 (H, W, S), RGB order."""
    values: np.ndarray | None = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise ValueError("OpenCV cannot decode it")
    return values[:, :, np.newaxis] if values.ndim == 2 else values[:, :, 2::-1]
