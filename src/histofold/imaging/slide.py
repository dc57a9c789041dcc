"""Slides: any supported image file as lazily read regions of uint8 RGB.

Opening reads only the header; nothing that a header claims is allocated before it has been checked against the size of
the file. Which pixels come out is stated once, here:

- alpha is dropped, grey is repeated to three channels, a palette is looked up, white-is-zero TIFFs are inverted;
- 16-bit samples become round(v / 257) and 32-bit ones round(v / 16843009), so that the type's range becomes 0 to 255;
- floating samples range from 0 to 1 and become round(v * 255); what does not round into 0 to 255 is refused when read;
- signed samples, CMYK and other colours that need a profile, and YCbCr other than in JPEG are refused;
- of several pages the one of most pixels is the image (`histofold.imaging.tiff.pages`);
- a sparse tile of a TIFF is black; what else a file lacks is refused;
- the pixels stand as the file stores them: an EXIF or TIFF orientation is ignored, since masks and run lengths are
  drawn on the stored rows and columns; colour profiles and gamma are ignored too.

Our own decoding comes first, with imagecodecs or without it; for what it does not cover, rasterio, then OpenCV for
plain 8-bit RGB only (`histofold.imaging.tiff.foreign`). BMP and scanners' formats are read where
`histofold.imaging.formats.door` is in use, which no kernel reaches.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from histofold.core.faults import ImageError, image_fault
from histofold.imaging.raster import open_raster
from histofold.imaging.tiff.reader import open_tiff
from histofold.schema.sample import Sample

MAX_PIXELS = 40_000 * 60_000
"""Largest image that is opened unless the caller says otherwise, in pixels."""
MAX_SEGMENT_BYTES = 500_000_000
"""Most that is decoded in one piece (a strip or tile; a whole PNG or JPEG), in bytes."""
SLIDE_CACHE_BYTES = 16 << 20
"""Decoded strips or tiles that a slide keeps, in bytes."""

_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CLOSING_S = 2.0
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"


class SlideReader(Protocol):
    """What a file format provides to `Slide`."""

    shape_hw: tuple[int, int]
    """Height and width in pixels."""

    def read_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        """Fill a uint8 (h, w, 3) canvas with the region whose first pixel is (y, x); the region lies inside."""

    def close(self) -> None:
        """Give back the file and the memory."""


OTHER_FORMATS: list[Callable[[Path, bytes, int, int], SlideReader | None]] = []
"""Asked before our own readers, with path, first bytes and both limits: `histofold.imaging.formats.door` fills it."""


Neighbour = tuple[int, int, Path]
"""A tile of the same slide: y and x of its first pixel, counted from the tile that it is a neighbour of; its file."""


class Slide:
    """One opened image, a context manager. Several threads may read it in turn; to read at once, open it twice."""

    path: Path
    """The file."""
    neighbours: tuple[Neighbour, ...] = ()
    """Tiles around it, where it is a tile itself and they are known."""
    organ: str = ""
    """What it shows, where that is known."""

    def __init__(self, path: Path, reader: SlideReader) -> None:
        self.path = path
        self._reader: SlideReader | None = reader
        self._lock = threading.Lock()
        self._shape_hw = reader.shape_hw

    @property
    def shape_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._shape_hw

    def read(self, y: slice, x: slice, channels: int = 3) -> np.ndarray:
        """Read a region, decoding no more than the strips or tiles that it touches.

        Args:
            y: Rows, inside the image; an open end means the image's border.
            x: Columns, likewise.
            channels: Planes of a volume to see; pictures have 3.

        Returns:
            A fresh C-contiguous uint8 array (h, w, channels), RGB.

        Raises:
            ImageError: If the data of the region cannot be decoded.
            ValueError: If the region is empty or leaves the image, or the slide is closed.
        """
        rows = slide_range(y, self._shape_hw[0], "y")
        columns = slide_range(x, self._shape_hw[1], "x")
        with self._lock:
            if self._reader is None:
                raise ValueError(f"{self.path}: the slide is closed: read inside its `with` block")
            canvas_HWC = np.empty((len(rows), len(columns), channels), np.uint8)
            self._reader.read_into(canvas_HWC, rows.start, columns.start)
        return canvas_HWC

    def read_all(self) -> np.ndarray:
        """Read the whole image as uint8 (H, W, 3)."""
        return self.read(slice(None), slice(None))

    def close(self) -> None:
        """Close the file and drop what was cached; closing twice is harmless.

        While another thread reads, it waits; a read that hangs keeps the file open, which is better than to hang too.
        """
        if not self._lock.acquire(timeout=CLOSING_S):
            return
        try:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
        finally:
            self._lock.release()

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def slide_range(region: slice, length: int, axis: str) -> range:
    """A slice of one axis as a range, refused where it is empty, strided or outside [0, length).

    Raises:
        ValueError: With the slice, the axis and its length.
    """
    start = 0 if region.start is None else int(region.start)
    stop = length if region.stop is None else int(region.stop)
    if region.step not in (None, 1) or not 0 <= start < stop <= length:
        raise ValueError(f"{axis}={region}: give a slice of step 1 with 0 <= start < stop <= {length}")
    return range(start, stop)


def open_slide(
    path: str | os.PathLike[str],
    max_pixels: int = MAX_PIXELS,
    max_segment_bytes: int = MAX_SEGMENT_BYTES,
    cache_bytes: int = SLIDE_CACHE_BYTES,
) -> Slide:
    """Open a TIFF, PNG, JPEG or one of `OTHER_FORMATS` after checking its header against the size of the file.

    Args:
        path: The file; its kind is known by its first bytes, not by its name.
        max_pixels: Larger images are refused.
        max_segment_bytes: A TIFF whose compressed strips or tiles decode to more is refused, and a PNG or JPEG that
            does so as a whole.
        cache_bytes: Decoded strips or tiles that are kept; a read whose own rows need more gets up to twelve times it.

    Raises:
        ImageError: If the file is missing, empty, truncated, over a limit, or of a kind that is not read; the text
            names file, rule and remedy.

    Example:
        >>> import cv2
        >>> cv2.imwrite("slide.png", np.full((300, 400, 3), 240, np.uint8))
        True
        >>> with open_slide("slide.png") as slide:
        ...     slide.shape_hw, slide.read(slice(0, 64), slice(0, 32)).shape
        ((300, 400), (64, 32, 3))
    """
    path = Path(path)
    magic = _slide_magic(path)
    for opener in OTHER_FORMATS:
        other = opener(path, magic, max_pixels, max_segment_bytes)
        if other is not None:
            return Slide(path, other)
    reader: SlideReader
    if magic.startswith(_TIFF_MAGICS):
        reader = open_tiff(path, max_pixels, max_segment_bytes, cache_bytes)
    elif magic.startswith((_PNG_MAGIC, _JPEG_MAGIC)):
        reader = open_raster(path, max_pixels, max_segment_bytes)
    else:
        raise image_fault(path, f"not a TIFF, PNG or JPEG (it begins with {magic!r})", "save the image as one of them")
    return Slide(path, reader)


def open_sample(sample: Sample, max_segment_bytes: int = MAX_SEGMENT_BYTES) -> Slide:
    """Open the image of a sample as its adapter means it: its file, or whatever `opened_by` makes of it.

    Raises:
        ImageError: As `open_slide`.
    """
    slide: Slide
    if sample.opened_by is not None:
        slide = sample.opened_by(sample)
    else:
        slide = open_slide(sample.image_path, max_segment_bytes=max_segment_bytes)
    slide.organ = sample.organ
    return slide


def _slide_magic(path: Path) -> bytes:
    """The first bytes of a file that exists, can be read and is not empty."""
    try:
        with open(path, "rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise _unopened_slide(path, error) from None
    if not magic:
        raise image_fault(path, "the file is empty", "download or export it again")
    return magic


def _unopened_slide(path: Path, error: OSError) -> ImageError:
    """The words for a file that the system does not open."""
    if isinstance(error, FileNotFoundError):
        return image_fault(path, "no such file", "check the folder and the name, or download the file again")
    if isinstance(error, IsADirectoryError):
        return image_fault(path, "is a folder", "give the image file inside it")
    return image_fault(path, f"cannot be opened ({error.strerror})", "check its permissions and the disk")
