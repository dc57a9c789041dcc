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
    def is_plain(self) -> bool:
        """Whether pixels can be read from the file without decoding a segment."""
        return self.compression == TIFF_NONE and self.predictor == 1

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
    tables = page.jpegtables
    theirs = _tifffile_segment_decoder(page) if _has_imagecodecs() else None

    def decode_jpeg(data: bytes, number: int) -> np.ndarray:
        _check_jpeg_segment(data, layout)
        return theirs(data, number) if theirs else _pillow_jpeg_segment(data, tables, layout)

    def decode_packed(data: bytes, number: int) -> np.ndarray:
        return _packed_segment(data, number, layout)

    def decode_deflate(data: bytes, number: int) -> np.ndarray:
        try:
            return theirs(data, number) if theirs else decode_packed(data, number)
        except Exception:  # libdeflate refuses a last strip that was padded to full height; zlib tells it from damage
            return decode_packed(data, number)

    if layout.compression == TIFF_JPEG:
        return decode_jpeg
    if layout.compression in (TIFF_DEFLATE, TIFF_OLD_DEFLATE):
        return decode_deflate
    return theirs or decode_packed


def _has_imagecodecs() -> bool:
    """Whether imagecodecs is installed, with all codecs that are wanted of it."""
    try:
        import imagecodecs
    except ImportError:
        return False
    return bool(imagecodecs.LZW.available and imagecodecs.JPEG8.available and imagecodecs.DEFLATE.available)


def _tifffile_segment_decoder(page: tifffile.TiffPage) -> SegmentDecoder:
    """tifffile's decoder of a page, resolved once; it needs the open file no more."""
    decode, tables = page.decode, page.jpegtables

    def decode_segment(data: bytes, number: int) -> np.ndarray:
        samples_HWS: np.ndarray = decode(data, number, jpegtables=tables)[0][0]
        return samples_HWS

    return decode_segment


def _packed_segment(data: bytes, number: int, layout: SegmentLayout) -> np.ndarray:
    """A losslessly packed segment as samples (h, w, S): unpacked by zlib or libtiff, un-predicted here."""
    rows = layout.rows_of(number)
    size = rows * layout.row_bytes
    if layout.compression in (TIFF_DEFLATE, TIFF_OLD_DEFLATE):
        data = inflate_bounded(data, layout.size_hw[0] * layout.row_bytes)
    elif layout.compression != TIFF_NONE:
        data = _libtiff_bytes(data, layout.compression, layout.row_bytes, rows)
    if len(data) < size:
        raise ValueError(f"its data end after {len(data)} of {size} bytes")
    stored = np.frombuffer(data, layout.dtype, size // layout.dtype.itemsize)
    samples_HWS = stored.reshape(rows, layout.size_hw[1], layout.samples).astype(layout.dtype.newbyteorder("="))
    # Differences wrap around, as the type's own sum does.
    return np.cumsum(samples_HWS, axis=1, dtype=samples_HWS.dtype) if layout.predictor == 2 else samples_HWS


def inflate_bounded(data: bytes, limit: int) -> bytes:
    """Decompress a zlib stream of at most `limit` bytes, its checksum verified.

    Raises:
        ValueError: If the stream is damaged, cut short, or longer than the limit.
    """
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(f"its deflate stream is damaged ({error})") from error
    if len(inflated) > limit:
        raise ValueError(f"its deflate stream is longer than the {limit} bytes of a segment")
    if not stream.eof:
        raise ValueError("its deflate stream is cut short")
    return inflated


def _libtiff_bytes(data: bytes, compression: int, row_bytes: int, rows: int) -> bytes:
    """Unpack LZW or PackBits with Pillow's libtiff, by wrapping the data as a grey image of one strip."""
    tags = {256: row_bytes, 257: rows, 258: 8, 259: compression, 262: 1, 273: 0, 277: 1, 278: rows, 279: len(data)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4  # the strip follows the header, the directory and its end
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + directory + bytes(4)
    with TiffImageFile(io.BytesIO(header + data)) as image:
        return image.tobytes()


def _check_jpeg_segment(data: bytes, layout: SegmentLayout) -> None:
    """Refuse what libjpeg would fill with grey (no end) or would allocate for (a frame larger than the segment)."""
    height, width, components = jpeg_frame(data)
    if height > layout.size_hw[0] or width > layout.size_hw[1] or components != layout.samples:
        stored = (*layout.size_hw, layout.samples)
        raise ValueError(f"its JPEG frame is {(height, width, components)} where the TIFF header says {stored}")
    if data.rfind(b"\xff\xd9") < data.find(b"\xff\xda"):
        raise ValueError("its JPEG data are cut short")


def jpeg_frame(data: bytes) -> tuple[int, int, int]:
    """Height, width and components that the frame header of a JPEG states.

    Raises:
        ValueError: If there is no frame header before the image data.
    """
    position = 2 if data[:2] == b"\xff\xd8" else len(data)
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack(">HHB", data[position + 5 : position + 10])
        elif marker in (0xD9, 0xDA):
            break
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise ValueError("its JPEG data have no frame header")


def _pillow_jpeg_segment(data: bytes, tables: bytes | None, layout: SegmentLayout) -> np.ndarray:
    """A JPEG segment decoded by Pillow, its shared tables and its colour space spliced in front."""
    adobe = struct.pack(">2sH5sHHHB", b"\xff\xee", 14, b"Adobe", 100, 0, 0, int(layout.is_ycbcr))
    shared = tables[2:-2] if tables else b""
    stream = data[:2] + (adobe if layout.samples == 3 else b"") + shared + data[2:]
    with JpegImageFile(io.BytesIO(stream)) as image:
        samples = np.asarray(image)
    return samples[:, :, np.newaxis] if samples.ndim == 2 else samples
