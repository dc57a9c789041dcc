"""How the strips or tiles of a TIFF are laid out, and a bounded cache of decoded ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

TIFF_NONE, TIFF_LZW, TIFF_JPEG, TIFF_DEFLATE, TIFF_OLD_DEFLATE, TIFF_PACKBITS = 1, 5, 7, 8, 32946, 32773
TIFF_LZMA, TIFF_ZSTD = 34925, 50000
TIFF_APERIO_YCBCR = 33003
TIFF_JPEG2000 = (TIFF_APERIO_YCBCR, 33005, 34712)
"""Values of a TIFF's Compression."""
OWN_COMPRESSIONS = frozenset(
    {
        *(TIFF_NONE, TIFF_LZW, TIFF_DEFLATE, TIFF_OLD_DEFLATE, TIFF_PACKBITS, TIFF_LZMA, TIFF_ZSTD),
        *(TIFF_JPEG, *TIFF_JPEG2000),
    }
)
"""Those that `histofold.imaging.tiff.codecs` decodes."""
SegmentDecoder = Callable[[bytes, int], np.ndarray]
"""From the stored bytes of a segment and its number in the page to samples (h, w, S) in native byte order."""


@dataclass(frozen=True)
class SegmentLayout:
    """How the segments of one page are stored."""

    shape_hw: tuple[int, int]
    """Height and width of the page in pixels."""
    size_hw: tuple[int, int]
    """Height and width of a segment; a strip is as wide as the page."""
    is_tiled: bool
    """Whether segments at the border are stored in full size (tiles) or cut (strips)."""
    samples_per_pixel: int
    """Interleaved samples of a pixel within a segment."""
    dtype: np.dtype[Any]
    """Stored samples, in the file's byte order."""
    compression: int
    """The TIFF tag's value."""
    predictor: int
    """1 (none), 2 (differences along the row) or 3 (those of the bytes of floating samples)."""
    is_ycbcr: bool
    """Whether a JPEG stores YCbCr."""

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
        return self.size_hw[1] * self.samples_per_pixel * self.dtype.itemsize

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

    def __contains__(self, key: Hashable) -> bool:
        return key in self._arrays

    def get(self, key: Hashable) -> np.ndarray | None:
        """The segment of this key, now the most recently used, or None."""
        if key in self._arrays:
            self._arrays.move_to_end(key)
        return self._arrays.get(key)

    def put(self, key: Hashable, segment: np.ndarray, needed: Container[Hashable], needed_bytes: int) -> None:
        """Keep a segment; others give way, but none of those that the current read needs.

        A striped slide is read tile by tile along a row of tiles, and each tile needs the same strips. Dropping the
        oldest of them would decode every strip anew for every tile, so a read may hold up to twelve times the capacity
        for its own segments, and beyond that the first ones stay and later ones are not kept.
        """
        budget = max(self.capacity_bytes, min(needed_bytes, 12 * self.capacity_bytes))
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
