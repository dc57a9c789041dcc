"""Large PNG files row by row: memory for what is asked, and for the rows that were read last.

A PNG is one deflate stream with a filter on each row: rows are had in their order alone. Reads that go down the image,
as bands and rows of tiles do, decode it once; one that goes back above what is kept begins again at the top. The sums
of chunks and of the stream are verified on the way. PNG 3.0, https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import zlib
from collections.abc import Generator
from pathlib import Path

import numpy as np

from histofold.core.faults import image_fault
from histofold.core.jit import njit
from histofold.imaging.raster import PngHeader, check_png, png_chunks
from histofold.imaging.samples import paste_rgb

_ROWS_BLOCK_BYTES = 8 << 20  # decoded at a time
_ROWS_KEPT_BYTES = 128 << 20
_ROWS_PIECE_BYTES = 1 << 20
_PNG_INDEXED = 3  # colour type
_ROWS_REMEDY = "copy or export the file again"


class PngRowsReader:
    """A PNG that is never held as a whole; see `histofold.imaging.slide.SlideReader`."""

    def __init__(self, path: Path, header: PngHeader) -> None:
        self.shape_hw = (header.height, header.width)
        self._path, self._header = path, header
        self._palette = _png_palette(path)
        self._rows: Generator[np.ndarray, None, None] | None = None
        self._kept = np.empty((0, header.width, 3), np.uint8)
        self._next = 0  # the row after those kept

    def read_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        """Fill the canvas with the region at (y, x)."""
        columns = slice(x, x + canvas_HWC.shape[1])
        if self._rows is None or y < self._next - len(self._kept):
            self.close()
            self._rows = _png_blocks(self._path, self._header, self._palette is not None)
        done = 0
        try:
            while True:
                first = self._next - len(self._kept)
                start, stop = max(y + done, first), min(y + len(canvas_HWC), self._next)
                if start < stop:
                    canvas_HWC[start - y : stop - y] = self._kept[start - first : stop - first, columns]
                    done = stop - y
                if done == len(canvas_HWC):
                    return
                self._advance(y)
        except (ValueError, zlib.error) as error:
            self.close()
            raise image_fault(self._path, f"the pixels cannot be decoded ({error})", _ROWS_REMEDY) from error

    def close(self) -> None:
        """Drop what was decoded."""
        if self._rows is not None:
            self._rows.close()
        self._rows, self._next, self._kept = None, 0, self._kept[:0].copy()

    def _advance(self, wanted: int) -> None:
        """Decode the next block; of the earlier rows those from `wanted` on are kept, as far as they fit."""
        assert self._rows is not None
        samples_HWS = next(self._rows)
        block_HWC = np.empty((*samples_HWS.shape[:2], 3), np.uint8)
        paste_rgb(block_HWC, samples_HWS, palette_LC=self._palette)
        most = max(0, _ROWS_KEPT_BYTES // max(1, block_HWC[0].nbytes) - len(block_HWC))
        kept = max(0, min(most, self._next - wanted, len(self._kept)))
        self._kept = np.concatenate([self._kept[len(self._kept) - kept :], block_HWC])
        self._next += len(block_HWC)


def open_png_rows(path: Path) -> PngRowsReader | None:
    """The reader of a PNG by rows; None where it is interlaced, whose rows are not stored in their order.

    Raises:
        ImageError: If its chunks are cut short or hold too little for its size.
    """
    header = check_png(path)
    return None if header.is_interlaced else PngRowsReader(path, header)


def _png_palette(path: Path) -> np.ndarray | None:
    """The palette of indices as uint8 (256, 3), values without an entry black; None where values are colours."""
    with open(path, "rb") as file:
        if file.read(26)[25] != _PNG_INDEXED:
            return None
    palette = np.zeros((256, 3), np.uint8)
    for kind, start, length in png_chunks(path):
        if kind == b"PLTE":
            with open(path, "rb") as file:
                file.seek(start)
                entries = np.frombuffer(file.read(min(length, 768)), np.uint8)
            palette[: len(entries) // 3] = entries[: len(entries) // 3 * 3].reshape(-1, 3)
    return palette


def _png_blocks(path: Path, header: PngHeader, is_indexed: bool) -> Generator[np.ndarray, None, None]:
    """Blocks of rows from the top as samples (h, W, S), uint8 or uint16.

    Raises:
        ValueError: If a sum is wrong, a filter unknown, or the data end too early.
        zlib.error: If the stream is damaged.
    """
    stride = 1 + header.row_bytes(header.width)
    rows = max(1, _ROWS_BLOCK_BYTES // stride)
    above_B = np.zeros(stride - 1, np.uint8)
    pixel_bytes = max(1, header.depth * header.channels // 8)
    pending = bytearray()
    left = header.height
    pieces = _inflated(path)
    for piece in pieces:
        pending += piece
        ready = min(left, len(pending) // stride)
        if ready and (ready >= rows or ready == left):
            block = np.frombuffer(bytes(pending[: ready * stride]), np.uint8).reshape(ready, stride).copy()
            del pending[: ready * stride]
            if not _undo_filters(block, above_B, pixel_bytes):
                raise ValueError("a row has a filter that is none")
            above_B = block[-1, 1:].copy()
            left -= ready
            for _ in pieces if not left else ():
                pass  # so that the sums up to the end are verified before the last rows are believed
            yield _samples(block[:, 1:], header, is_indexed)
    if left:
        raise ValueError(f"its data end {left - len(pending) // stride} rows too early")


def _inflated(path: Path) -> Generator[bytes, None, None]:
    """The data of all IDAT chunks, inflated piece by piece, their sums verified."""
    stream = zlib.decompressobj()
    with open(path, "rb") as file:
        for kind, start, length in png_chunks(path):
            if kind != b"IDAT":
                continue
            file.seek(start)
            total = zlib.crc32(kind)
            while length:
                data = file.read(min(length, _ROWS_PIECE_BYTES))
                length -= len(data)
                total = zlib.crc32(data, total)
                while data:
                    yield stream.decompress(data, _ROWS_BLOCK_BYTES)
                    data = stream.unconsumed_tail
            if file.read(4) != total.to_bytes(4, "big"):
                raise ValueError("the sum of a chunk is wrong")


def _samples(rows_HB: np.ndarray, header: PngHeader, is_indexed: bool) -> np.ndarray:
    """Unfiltered rows as samples (h, W, S); grey of fewer than 8 bits is stretched, indices are not."""
    if header.depth == 16:
        values = np.ascontiguousarray(rows_HB).view(">u2").astype(np.uint16)
        return values.reshape(len(rows_HB), header.width, header.channels)
    if header.depth == 8:
        return rows_HB.reshape(len(rows_HB), header.width, header.channels)
    bits = np.unpackbits(rows_HB, axis=1).reshape(len(rows_HB), -1, header.depth)
    values = (bits << np.arange(header.depth - 1, -1, -1, dtype=np.uint8)).sum(axis=2, dtype=np.uint8)
    most = 1 if is_indexed else 255 // ((1 << header.depth) - 1)
    return values[:, : header.width, np.newaxis] * np.uint8(most)


@njit
def _undo_filters(rows_HB: np.ndarray, above_B: np.ndarray, pixel_bytes: int) -> bool:
    """Undo the filters of rows that begin with the number of theirs, in place; False where one is unknown."""
    for row in range(rows_HB.shape[0]):
        kind = rows_HB[row, 0]
        if kind > 4:
            return False
        for place in range(1, rows_HB.shape[1]):
            up = int(above_B[place - 1]) if row == 0 else int(rows_HB[row - 1, place])
            left, corner = 0, 0
            if place > pixel_bytes:
                left = int(rows_HB[row, place - pixel_bytes])
                corner = (
                    int(above_B[place - 1 - pixel_bytes]) if row == 0 else int(rows_HB[row - 1, place - pixel_bytes])
                )
            if kind == 0:
                guess = 0
            elif kind == 1:
                guess = left
            elif kind == 2:
                guess = up
            elif kind == 3:
                guess = (left + up) // 2
            else:
                by_left, by_up, by_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
                is_left = by_left <= by_up and by_left <= by_corner
                guess = left if is_left else (up if by_up <= by_corner else corner)
            rows_HB[row, place] = (int(rows_HB[row, place]) + guess) & 255
    return True
