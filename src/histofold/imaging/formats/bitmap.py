"""BMP files: header checked against the size of the file, rows read where they are asked for.

Read are 1, 4 and 8 bits with a palette, 16, 24 and 32 bits, rows from the bottom up or from the top down; a fourth
channel is dropped. Run-length coding, and JPEG or PNG within a BMP, are refused.
Microsoft, "Bitmap Storage", https://learn.microsoft.com/windows/win32/gdi/bitmap-storage
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histofold.core.faults import image_fault

_BMP_FILE_HEADER, _BMP_OLD_HEADER, _BMP_HEADER = 14, 12, 40  # bytes
_BMP_PLAIN, _BMP_MASKED = 0, (3, 6)
_BMP_COMPRESSIONS = {1: "8-bit run lengths", 2: "4-bit run lengths", 4: "a JPEG inside", 5: "a PNG inside"}
_BMP_MASKS = {16: (0x7C00, 0x03E0, 0x001F), 32: (0xFF0000, 0xFF00, 0xFF)}  # red, green, blue where none are stored
_BMP_BLOCK_PIXELS = 1 << 22
_BMP_REMEDY = "save it as PNG or TIFF, or as a BMP without compression"


@dataclass(frozen=True, kw_only=True)
class BmpHeader:
    """What the header says of the pixels."""

    shape_hw: tuple[int, int]
    """Height and width in pixels."""
    bits: int
    """Bits of a pixel: 1, 4, 8, 16, 24 or 32."""
    first_byte: int
    """Where the rows begin."""
    is_top_down: bool
    """Whether the first stored row is the uppermost."""
    palette_L3: np.ndarray | None  # noqa: N815
    """uint8 RGB colours (256, 3) of the values, or None."""
    masks: tuple[int, int, int]
    """Bits of red, green and blue in a pixel of 16 or 32 bits."""
    pixels_per_metre: tuple[int, int]
    """Of x and y; 0 where nothing is said."""

    @property
    def row_bytes(self) -> int:
        """Stored bytes of a row: a multiple of four."""
        return (self.shape_hw[1] * self.bits + 31) // 32 * 4


class BmpReader:
    """A BMP; see `histofold.imaging.slide.SlideReader`."""

    def __init__(self, path: Path, header: BmpHeader) -> None:
        self.shape_hw = header.shape_hw
        self._path, self._header = path, header

    def read_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        """Fill the canvas with the region at (y, x)."""
        rows = max(1, _BMP_BLOCK_PIXELS // self.shape_hw[1])
        with open(self._path, "rb") as file:
            for top in range(0, len(canvas_HWC), rows):
                part_HWC = canvas_HWC[top : top + rows]
                stored = self._stored_rows(file.fileno(), y + top, len(part_HWC))
                part_HWC[...] = self._colours(stored)[:, x : x + canvas_HWC.shape[1]]

    def close(self) -> None:
        """Nothing is kept open."""

    def _stored_rows(self, file: int, y: int, rows: int) -> np.ndarray:
        """Rows from y on, the uppermost first, as uint8 (rows, row_bytes)."""
        header = self._header
        first = y if header.is_top_down else self.shape_hw[0] - y - rows
        data = os.pread(file, rows * header.row_bytes, header.first_byte + first * header.row_bytes)
        if len(data) < rows * header.row_bytes:
            raise image_fault(self._path, "the file became shorter while it was read", "copy it again")
        stored = np.frombuffer(data, np.uint8).reshape(rows, header.row_bytes)
        return stored if header.is_top_down else stored[::-1]

    def _colours(self, stored: np.ndarray) -> np.ndarray:
        """Stored rows as uint8 RGB (h, W, 3)."""
        header, width = self._header, self.shape_hw[1]
        if header.palette_L3 is not None:
            return header.palette_L3[_indices(stored, header.bits)[:, :width]]
        if header.bits == 24:
            return stored[:, : 3 * width].reshape(len(stored), width, 3)[:, :, ::-1]
        values = np.ascontiguousarray(stored).view(f"<u{header.bits // 8}")[:, :width].astype(np.uint64)
        shifts = [(mask & -mask).bit_length() - 1 for mask in header.masks]
        planes = [
            ((values & mask) >> shift) * 255 // (mask >> shift)
            for mask, shift in zip(header.masks, shifts, strict=True)
        ]
        return np.stack(planes, axis=2).astype(np.uint8)


def _indices(stored: np.ndarray, bits: int) -> np.ndarray:
    """The values of 1, 4 or 8 bits, the first in the highest bits of a byte."""
    if bits == 8:
        return stored
    if bits == 1:
        return np.unpackbits(stored, axis=1)
    return np.stack([stored >> 4, stored & 15], axis=2).reshape(len(stored), -1)


def open_bitmap(path: Path, max_pixels: int) -> BmpReader:
    """Check the header of a BMP and return its reader; nothing is decoded yet.

    Raises:
        ImageError: If it is broken, cut short, over the limit, or of a kind that is not read.
    """
    header = read_bmp_header(path)
    height, width = header.shape_hw
    if height * width > max_pixels:
        rule = f"{height} x {width} pixels are more than {max_pixels:,}"
        raise image_fault(path, rule, "save it smaller, or raise max_pixels")
    end, size = header.first_byte + height * header.row_bytes, os.path.getsize(path)
    if end > size:
        rule = f"truncated: its rows end at byte {end} and the file at {size}"
        raise image_fault(path, rule, "copy or export the file again")
    return BmpReader(path, header)


def read_bmp_header(path: Path) -> BmpHeader:
    """The header of a BMP.

    Raises:
        ImageError: If it is broken or of a kind that is not read.
    """
    with open(path, "rb") as file:
        head = file.read(_BMP_FILE_HEADER + 124 + 1024)
    try:
        return _parsed_header(path, head)
    except struct.error:
        raise image_fault(path, "the BMP header is cut short", "copy or export the file again") from None


def _parsed_header(path: Path, head: bytes) -> BmpHeader:
    first_byte, header_bytes = struct.unpack_from("<II", head, 10)
    compression, colours, density = _BMP_PLAIN, 0, (0, 0)
    if header_bytes == _BMP_OLD_HEADER:
        width, height, _, bits = struct.unpack_from("<HHHH", head, 18)
    elif header_bytes >= _BMP_HEADER:
        width, height, _, bits, compression, _, *density_xy, colours = struct.unpack_from("<iiHHIIiiI", head, 18)
        density = (density_xy[0], density_xy[1])
    else:
        raise image_fault(path, f"a BMP header of {header_bytes} bytes is not known", _BMP_REMEDY)
    if width < 1 or height == 0:
        raise image_fault(path, f"the image is {abs(height)} x {width} pixels", "export the image with its pixels")
    is_masked = compression in _BMP_MASKED and bits in _BMP_MASKS
    if bits not in (1, 4, 8, 16, 24, 32) or not (compression == _BMP_PLAIN or is_masked):
        rule = (
            f"a BMP of {bits} bits with {_BMP_COMPRESSIONS.get(compression, f'compression {compression}')} is not read"
        )
        raise image_fault(path, rule, _BMP_REMEDY)
    masks = struct.unpack_from("<III", head, _BMP_FILE_HEADER + _BMP_HEADER) if is_masked else _BMP_MASKS.get(bits)
    if masks is not None and not all(masks):
        raise image_fault(path, "a colour of the BMP has no bits", _BMP_REMEDY)
    is_old = header_bytes == _BMP_OLD_HEADER
    palette = (
        _palette(head, _BMP_FILE_HEADER + header_bytes, 3 if is_old else 4, colours or 1 << bits) if bits <= 8 else None
    )
    return BmpHeader(
        shape_hw=(abs(height), width),
        bits=bits,
        first_byte=first_byte,
        is_top_down=height < 0,
        palette_L3=palette,
        masks=masks or (0, 0, 0),
        pixels_per_metre=density,
    )


def _palette(head: bytes, start: int, entry_bytes: int, count: int) -> np.ndarray:
    """The colours of 256 values, uint8 (256, 3); values without an entry are black."""
    entries = np.frombuffer(head[start : start + min(count, 256) * entry_bytes], np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    known = len(entries) // entry_bytes
    palette[:known] = entries[: known * entry_bytes].reshape(known, entry_bytes)[:, 2::-1]
    return palette
