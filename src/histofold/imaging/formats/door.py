"""Which reader opens which further format: `use_formats` makes `open_slide` ask here first.

Folders of the user's are read so; a kernel, whose hidden images are TIFF, does without.
"""

from __future__ import annotations

import os
from pathlib import Path

from histofold.core.faults import InputError
from histofold.imaging.formats.bitmap import open_bitmap
from histofold.imaging.formats.png_rows import open_png_rows
from histofold.imaging.formats.stated import open_stated_range
from histofold.imaging.formats.vendor import OPENSLIDE_SUFFIXES, UNREAD_SUFFIXES, open_vendor, refuse_format
from histofold.imaging.raster import open_raster
from histofold.imaging.slide import MAX_SEGMENT_BYTES, OTHER_FORMATS, SLIDE_CACHE_BYTES, SlideReader

FORMAT_SUFFIXES = (".bmp", ".svs", *OPENSLIDE_SUFFIXES, *UNREAD_SUFFIXES)
"""Suffixes of images beside those of TIFF, PNG and JPEG; some are refused with the remedy."""
WHOLE_PNG_BYTES = 100_000_000
"""A PNG that takes more, decoded as a whole, is read by rows."""
LIMIT_VARIABLE = "HISTOFOLD_IMAGE_MB"
"""Megabytes that one JPEG, which only decodes as a whole, may take; an environment variable."""


def use_formats() -> None:
    """Have `open_slide` read further formats in this process; calling it again changes nothing."""
    if open_format not in OTHER_FORMATS:
        OTHER_FORMATS.append(open_format)


def open_format(path: Path, magic: bytes, max_pixels: int, max_segment_bytes: int) -> SlideReader | None:
    """The reader of a file of a further format; None leaves it to the readers of TIFF, PNG and JPEG.

    Raises:
        ImageError: If it is of such a format and cannot be read; the text names file, rule and remedy.
    """
    suffix = path.suffix.lower()
    if suffix in OPENSLIDE_SUFFIXES:
        return open_vendor(path, max_pixels)
    if suffix in UNREAD_SUFFIXES:
        refuse_format(path)
    if magic.startswith(b"BM"):
        return open_bitmap(path, max_pixels)
    if magic.startswith(b"\x89PNG"):
        most = min(max_segment_bytes, WHOLE_PNG_BYTES)
        return open_png_rows(path) if _is_for_rows(path, max_pixels, most) else None
    if magic.startswith(b"\xff\xd8\xff"):
        limit = image_limit_bytes()
        is_raised = limit is not None and max_segment_bytes >= MAX_SEGMENT_BYTES
        return open_raster(path, max_pixels, limit) if limit is not None and is_raised else None
    if magic.startswith((b"II", b"MM")):
        return open_stated_range(path, max_pixels, max_segment_bytes, SLIDE_CACHE_BYTES)
    return None


def image_limit_bytes() -> int | None:
    """What `LIMIT_VARIABLE` says, in bytes; None where it is not set.

    Raises:
        InputError: If it is no positive number.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{LIMIT_VARIABLE}={text!r}: write a whole number of megabytes, such as 1000")
    return int(text) * 1_000_000


def _is_for_rows(path: Path, max_pixels: int, max_bytes: int) -> bool:
    """Whether a PNG, by its first chunk, is within the limit of pixels and, decoded whole, beyond that of bytes."""
    with open(path, "rb") as file:
        head = file.read(26)
    if len(head) < 26:
        return False
    pixels = int.from_bytes(head[16:20], "big") * int.from_bytes(head[20:24], "big")
    depth, colour = head[24], head[25]
    pixel_bytes = (8 if depth == 16 else 4) if colour in (2, 4, 6) else max(1, depth // 8)
    return 0 < pixels <= max_pixels and pixels * pixel_bytes > max_bytes
