"""Regions of a TIFF, one decoded segment (strip or tile) at a time.

Read are classic and BigTIFF, strips and tiles, interleaved samples, separate planes, three single-band pages and three
colours stacked under one page. Which page is the image and which kinds are read stands in
`histofold.imaging.tiff.pages`, which codecs in `histofold.imaging.tiff.codecs`, and what other readers are asked for in
`histofold.imaging.tiff.foreign`.
A tile that the file leaves out (no bytes at no place) is black; a strip that it leaves out is refused.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np

from histofold.core.faults import ImageError, image_fault
from histofold.imaging.samples import SampleRangeError, axis_overlaps, paste_rgb
from histofold.imaging.tiff.directories import TIFF_COPY_AGAIN
from histofold.imaging.tiff.foreign import ForeignReader, open_foreign_tiff
from histofold.imaging.tiff.header import TiffImage, TiffPlane, read_tiff_header
from histofold.imaging.tiff.segments import SegmentCache

_TIFF_BLOCK_BYTES = 16 << 20  # read at a time where nothing needs decoding
_TIFF_THREADS = 2  # that decode the segments of one region
_TIFF_RANGE_REMEDY = "scale the samples to 0 to 1, or save them as 8-bit RGB"

SegmentKey = tuple[int, int]
"""Number of a plane and of a segment in it."""
Part = tuple[slice, slice]
"""Rows and columns."""


class TiffReader:
    """An opened TIFF; see `histofold.imaging.slide.SlideReader`."""

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
        planes = self._image.planes
        parts = list(self._overlaps(canvas_HWC.shape[:2], y, x))
        wanted: list[tuple[SegmentKey, np.ndarray, Part]] = []
        for index, plane in enumerate(planes):
            colour = slice(None) if len(planes) == 1 else slice(index, index + 1)
            for number, inside, outside in parts:
                target_HWC = canvas_HWC[(*outside, colour)]
                if plane.counts[number] == 0:
                    target_HWC[...] = 0
                elif self._image.layout.is_plain:
                    self._paste_plain(target_HWC, plane, number, inside)
                else:
                    wanted.append(((index, number), target_HWC, inside))
        with closing(self._decoded([key for key, _, _ in wanted])) as segments:
            for (key, target_HWC, inside), segment_HWS in zip(wanted, segments, strict=True):
                samples_HWS = segment_HWS[inside]
                if samples_HWS.shape[:2] != target_HWC.shape[:2]:
                    raise self._segment_fault(key[1], "it decodes to fewer pixels than the header says")
                self._paste(target_HWC, samples_HWS)

    def _overlaps(self, extent_hw: tuple[int, int], y: int, x: int) -> Iterator[tuple[int, Part, Part]]:
        """The segments of a region: number, part within the segment, part within the region."""
        height, width = self._image.layout.size_hw
        across = self._image.layout.down_across[1]
        columns = list(axis_overlaps(x, x + extent_hw[1], width))
        for down, inside_y, outside_y in axis_overlaps(y, y + extent_hw[0], height):
            for right, inside_x, outside_x in columns:
                yield down * across + right, (inside_y, inside_x), (outside_y, outside_x)

    def _decoded(self, keys: list[SegmentKey]) -> Generator[np.ndarray, None, None]:
        """The decoded segments (h, w, S) of a region, in their order; threads decode those that are not cached.

        The threads live as long as the region is read, so that none is left to a forked process. They run a few
        segments ahead and no more, so that memory stays flat.
        """
        needed = set(keys)
        absent = [key for key in keys if key not in self._cache]
        if len(absent) < 2:
            for key in keys:
                cached = self._cache.get(key)
                yield self._kept(key, needed, self._decode(key)) if cached is None else cached
            return
        with ThreadPoolExecutor(_TIFF_THREADS, "histofold-tiff") as pool:
            rest = iter(absent)
            ahead = deque(pool.submit(self._decode, key) for key in islice(rest, _TIFF_THREADS + 1))
            for key in keys:
                cached = self._cache.get(key)
                if cached is not None:
                    yield cached
                    continue
                segment_HWS = ahead.popleft().result()
                ahead.extend(pool.submit(self._decode, later) for later in islice(rest, 1))
                yield self._kept(key, needed, segment_HWS)

    def _kept(self, key: SegmentKey, needed: set[SegmentKey], segment_HWS: np.ndarray) -> np.ndarray:
        """A copy of the segment, now cached."""
        segment_HWS = np.array(segment_HWS)  # among the short-lived buffers of its thread it would keep theirs alive
        self._cache.put(key, segment_HWS, needed, len(needed) * segment_HWS.nbytes)
        return segment_HWS

    def _decode(self, key: SegmentKey) -> np.ndarray:
        """Read and decode one segment (h, w, S); called from several threads at once."""
        plane, number = self._image.planes[key[0]], key[1]
        assert plane.decode is not None
        try:
            data = os.pread(self._file, int(plane.counts[number]), int(plane.offsets[number]))
            return plane.decode(data, plane.first + number)
        except Exception as error:  # every codec has its own exception
            raise self._segment_fault(number, str(error)) from error

    def _paste_plain(self, target_HWC: np.ndarray, plane: TiffPlane, number: int, inside: Part) -> None:
        """Copy a part of an uncompressed segment, reading only the rows (and, where narrow, the columns) needed."""
        layout = self._image.layout
        rows, columns = inside
        pixel_bytes = layout.samples_per_pixel * layout.dtype.itemsize
        width = columns.stop - columns.start
        if width * 2 >= layout.size_hw[1]:  # reading full rows at once is cheaper than reading each row's part
            width, left = layout.size_hw[1], 0
        else:
            left = columns.start
        kept = slice(columns.start - left, columns.stop - left)
        step = max(1, _TIFF_BLOCK_BYTES // (width * pixel_bytes))
        for top in range(rows.start, rows.stop, step):
            bottom = min(top + step, rows.stop)
            block = np.empty((bottom - top, width, layout.samples_per_pixel), layout.dtype)
            offset = int(plane.offsets[number]) + top * layout.row_bytes + left * pixel_bytes
            self._fill_rows(block, offset)
            self._paste(target_HWC[top - rows.start : bottom - rows.start], block[:, kept])

    def _paste(self, target_HWC: np.ndarray, samples_HWS: np.ndarray) -> None:
        """Samples into their place as RGB."""
        try:
            paste_rgb(target_HWC, samples_HWS, self._image.inverted, self._image.palette)
        except SampleRangeError as error:
            raise image_fault(self._path, str(error), _TIFF_RANGE_REMEDY) from None

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


def open_tiff(path: Path, max_pixels: int, max_segment_bytes: int, cache_bytes: int) -> TiffReader | ForeignReader:
    """Read and check the header of a TIFF and return its reader; nothing is decoded yet.

    Our own decoding comes first. What it does not cover is left to rasterio, then to OpenCV for plain 8-bit RGB only.

    Raises:
        ImageError: If the header is broken, claims more than the file can hold or a limit allows, or describes a kind
            of image that is not read.
    """
    image = read_tiff_header(path, max_pixels, max_segment_bytes)
    if image.foreign:
        return open_foreign_tiff(path, image, max_segment_bytes)
    return TiffReader(path, image, cache_bytes)
