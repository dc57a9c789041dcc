"""Regions of a TIFF, one decoded segment (strip or tile) at a time.

Read are classic and BigTIFF, strips and tiles, interleaved samples, separate planes and three single-band pages, 8 and
16 bit, uncompressed, deflate, LZW, PackBits and JPEG, with or without horizontal differences. Pages smaller than the
first one (pyramid levels, thumbnails, labels) are left aside. A tile that the file leaves out is black.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from histoseg.imaging.errors import ImageError, image_fault
from histoseg.imaging.samples import axis_overlaps, paste_rgb
from histoseg.imaging.segments import SegmentCache
from histoseg.imaging.tiff_header import TIFF_COPY_AGAIN, TiffImage, TiffPlane, read_tiff_header

_TIFF_BLOCK_BYTES = 16 << 20  # read at a time where nothing needs decoding


class TiffReader:
    """An opened TIFF; see `histoseg.imaging.slide.SlideReader`."""

    def __init__(self, path: Path, image: TiffImage, cache_bytes: int) -> None:
        self._file = -1  # first, for __del__
        self._cache = SegmentCache(cache_bytes)
        self.shape_hw = image.layout.shape_hw
        self._path = path
        self._image = image
        self._file = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        """Close the file and drop the decoded segments."""
        self._cache.clear()
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __del__(self) -> None:
        self.close()

    def read_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        """Fill the canvas with the region at (y, x)."""
        layout, planes = self._image.layout, self._image.planes
        overlaps = list(self._overlaps(canvas_HWC.shape[:2], y, x))
        needed = {(plane, number) for plane in range(len(planes)) for number, _, _ in overlaps}
        for index, plane in enumerate(planes):
            colour = slice(None) if len(planes) == 1 else slice(index, index + 1)
            for number, inside, outside in overlaps:
                target_HWC = canvas_HWC[(*outside, colour)]
                if plane.counts[number] == 0:
                    target_HWC[...] = 0
                elif layout.is_plain:
                    self._paste_plain(target_HWC, plane, number, inside)
                else:
                    samples_HWS = self._decoded((index, number), needed)[inside]
                    if samples_HWS.shape[:2] != target_HWC.shape[:2]:
                        raise self._segment_fault(number, "it decodes to fewer pixels than the header says")
                    paste_rgb(target_HWC, samples_HWS, self._image.inverted)

    def _overlaps(
        self, extent_hw: tuple[int, int], y: int, x: int
    ) -> Iterator[tuple[int, tuple[slice, slice], tuple[slice, slice]]]:
        """The segments of a region: number, part (y, x) within the segment, part (y, x) within the region."""
        height, width = self._image.layout.size_hw
        across = self._image.layout.down_across[1]
        columns = list(axis_overlaps(x, x + extent_hw[1], width))
        for down, inside_y, outside_y in axis_overlaps(y, y + extent_hw[0], height):
            for right, inside_x, outside_x in columns:
                yield down * across + right, (inside_y, inside_x), (outside_y, outside_x)

    def _decoded(self, key: tuple[int, int], needed: set[tuple[int, int]]) -> np.ndarray:
        """One decoded segment (h, w, S), from the cache where it is there."""
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        plane, number = self._image.planes[key[0]], key[1]
        data = os.pread(self._file, int(plane.counts[number]), int(plane.offsets[number]))
        try:
            segment_HWS = plane.decode(data, plane.first + number)
        except Exception as error:  # every codec has its own exception
            raise self._segment_fault(number, str(error)) from error
        self._cache.put(key, segment_HWS, needed, len(needed) * segment_HWS.nbytes)
        return segment_HWS

    def _paste_plain(self, target_HWC: np.ndarray, plane: TiffPlane, number: int, inside: tuple[slice, slice]) -> None:
        """Copy a part of an uncompressed segment, reading only the rows (and, where narrow, the columns) needed."""
        layout = self._image.layout
        rows, columns = inside
        pixel_bytes = layout.samples * layout.dtype.itemsize
        width = columns.stop - columns.start
        if width * 2 >= layout.size_hw[1]:  # reading full rows at once is cheaper than reading each row's part
            width, left = layout.size_hw[1], 0
        else:
            left = columns.start
        kept = slice(columns.start - left, columns.stop - left)
        step = max(1, _TIFF_BLOCK_BYTES // (width * pixel_bytes))
        for top in range(rows.start, rows.stop, step):
            bottom = min(top + step, rows.stop)
            block = np.empty((bottom - top, width, layout.samples), layout.dtype)
            offset = int(plane.offsets[number]) + top * layout.row_bytes + left * pixel_bytes
            self._fill_rows(block, offset)
            target = target_HWC[top - rows.start : bottom - rows.start]
            paste_rgb(target, block[:, kept], self._image.inverted)

    def _fill_rows(self, block_HWS: np.ndarray, offset: int) -> None:
        """Fill a block whose first row lies at the offset: at once where its rows adjoin in the file."""
        stride = self._image.layout.row_bytes
        if block_HWS[0].nbytes == stride:
            self._fill(block_HWS.reshape(-1).view(np.uint8).data, offset)
            return
        for row_B in block_HWS.view(np.uint8).reshape(len(block_HWS), -1):
            self._fill(row_B.data, offset)
            offset += stride

    def _fill(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer from the file."""
        done = 0
        while done < len(buffer):
            count = os.preadv(self._file, [buffer[done:]], offset + done)
            if count == 0:
                raise image_fault(self._path, "the file became shorter while it was read", TIFF_COPY_AGAIN)
            done += count

    def _segment_fault(self, number: int, reason: str) -> ImageError:
        rule = f"segment {number} cannot be decoded ({reason})"
        return image_fault(self._path, rule, TIFF_COPY_AGAIN)


def open_tiff(path: Path, max_pixels: int, max_segment_bytes: int, cache_bytes: int) -> TiffReader:
    """Read and check the header of a TIFF and return its reader; nothing is decoded yet.

    Raises:
        ImageError: If the header is broken, claims more than the file can hold or a limit allows, or describes a kind
            of image that is not read.
    """
    return TiffReader(path, read_tiff_header(path, max_pixels, max_segment_bytes), cache_bytes)
