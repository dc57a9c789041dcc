"""PNG and JPEG: header checked first, decoded once as a whole when first read, then cut.

Pillow decodes them, because it raises on truncated data where OpenCV returns wrong pixels in silence. The exception is
PNG with 16-bit colour, which Pillow would cut to its high byte: OpenCV reads it after every checksum was verified.
Pillow's plugin classes are used directly: its global guard against large images would warn after ours has spoken.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from histoseg.imaging.errors import image_fault
from histoseg.imaging.samples import DEFLATE_RATIO, JPEG_PIXELS_PER_BYTE, paste_rgb

_RASTER_BLOCK_PIXELS = 1 << 22  # converted at a time, so that a large read needs no second copy of the image
_RASTER_DEEP_COLOUR = "RGB;16"  # our name for 16-bit PNG of several channels, which Pillow has no mode for
_RASTER_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I": 4, "LA": 4, "RGB": 4, "RGBA": 4, _RASTER_DEEP_COLOUR: 8}
_RASTER_REMEDY = "copy or export the file again"


class RasterReader:
    """A PNG or JPEG; see `histoseg.imaging.slide.SlideReader`."""

    def __init__(self, path: Path, shape_hw: tuple[int, int], mode: str) -> None:
        self.shape_hw = shape_hw
        self._path = path
        self._mode = mode
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
            if self._mode == _RASTER_DEEP_COLOUR:
                self._deep_HWC = _decode_deep_png(self._path)
            else:
                with _open_raster_file(self._path) as image:  # closes the file; the pixels stay
                    image.load()
                image.info.pop("transparency", None)  # else Pillow warns when a palette is looked up
                self._image = image
        except Exception as error:  # a broken file makes Pillow raise OSError, SyntaxError, struct.error and more
            raise image_fault(self._path, f"the pixels cannot be decoded ({error})", _RASTER_REMEDY) from error

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
    if is_png and _check_png(path, height):
        mode = _RASTER_DEEP_COLOUR
    if not is_png and height * width > JPEG_PIXELS_PER_BYTE * os.path.getsize(path):
        rule = f"{os.path.getsize(path)} bytes cannot hold a JPEG of {height} x {width} pixels"
        raise image_fault(path, rule, _RASTER_REMEDY)
    if mode not in _RASTER_BYTES:
        raise image_fault(path, f"colour type {mode} is not read", "save it as RGB or grey")
    if height * width * _RASTER_BYTES[mode] > max_bytes:
        rule = f"{height} x {width} pixels would be decoded in one piece of more than {max_bytes:,} bytes"
        raise image_fault(path, rule, "save it as a tiled TIFF, or raise max_segment_bytes")
    return RasterReader(path, (height, width), mode)


def _open_raster_file(path: Path) -> PngImageFile | JpegImageFile:
    """Pillow's image with its header read."""
    with open(path, "rb") as file:
        is_png = file.read(1) == b"\x89"
    return PngImageFile(path) if is_png else JpegImageFile(path)


def _check_png(path: Path, height: int) -> bool:
    """Walk the chunks of a PNG: they must lie in the file and hold enough data. True for 16-bit colour.

    Raises:
        ImageError: If the file is cut short, has no data, or too little for its size.
    """
    size = os.path.getsize(path)
    data_bytes = 0
    position, kind = 8, b""
    depth = channels = width = 0
    with open(path, "rb") as file:
        while kind != b"IEND":
            file.seek(position)
            head = file.read(8)
            length, kind = struct.unpack(">I4s", head) if len(head) == 8 else (0, b"")
            if not kind or position + 12 + length > size:
                raise image_fault(path, f"truncated: a chunk ends beyond the {size} bytes", _RASTER_REMEDY)
            if kind == b"IHDR":
                width, _, depth, colour = struct.unpack(">IIBB", file.read(10))
                channels = {2: 3, 4: 2, 6: 4}.get(colour, 1)
            data_bytes += length if kind == b"IDAT" else 0
            position += 12 + length
    if data_bytes == 0:
        raise image_fault(path, "a header without data", _RASTER_REMEDY)
    if height * ((width * depth * channels + 7) // 8) > DEFLATE_RATIO * data_bytes:
        rule = f"{data_bytes} bytes of data cannot hold {height} x {width} pixels"
        raise image_fault(path, rule, _RASTER_REMEDY)
    return depth == 16 and channels > 1


def _decode_deep_png(path: Path) -> np.ndarray:
    """A 16-bit colour PNG as uint16 (H, W, S), RGB order, its checksums verified before."""
    with PngImageFile(path) as image:
        image.verify()
    values: np.ndarray | None = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise ValueError("OpenCV cannot decode it")
    return values[:, :, np.newaxis] if values.ndim == 2 else values[:, :, 2::-1]
