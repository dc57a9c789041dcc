"""The header of a TIFF: read with tifffile, checked against the size of the file before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile

from histoseg.imaging.errors import ImageError, image_fault
from histoseg.imaging.samples import DEFLATE_RATIO, JPEG_PIXELS_PER_BYTE
from histoseg.imaging.segments import (
    TIFF_DEFLATE,
    TIFF_JPEG,
    TIFF_LZW,
    TIFF_NONE,
    TIFF_OLD_DEFLATE,
    TIFF_PACKBITS,
    SegmentDecoder,
    SegmentLayout,
    segment_decoder,
)

TIFF_COPY_AGAIN = "copy or download the file again"

# The most decoded bytes that one stored byte can yield. LZW: a full cycle of codes of 9 to 12 bits before the table
# must be cleared; JPEG: three bytes a pixel; PackBits: 128 bytes for two.
_TIFF_RATIOS = {
    TIFF_NONE: 1,
    TIFF_LZW: 1365,
    TIFF_JPEG: 3 * JPEG_PIXELS_PER_BYTE,
    TIFF_DEFLATE: DEFLATE_RATIO,
    TIFF_OLD_DEFLATE: DEFLATE_RATIO,
    TIFF_PACKBITS: 64,
}
_TIFF_WHITE_IS_ZERO, _TIFF_BLACK_IS_ZERO, _TIFF_RGB, _TIFF_YCBCR = 0, 1, 2, 6
_TIFF_PAGES = 64  # pages looked at for being as large as the first one
_TIFF_SAVE_AGAIN = "save it as 8-bit RGB, tiled, with deflate or without compression"


@dataclass(frozen=True)
class TiffPlane:
    """Where the segments of an image, or of one of its three planes, lie.

    Attributes:
        offsets: First byte of each segment, uint64.
        counts: Stored bytes of each segment, uint64.
        first: Number of the first of them in the page's own list.
        decode: The page's decoder.
    """

    offsets: np.ndarray
    counts: np.ndarray
    first: int
    decode: SegmentDecoder


@dataclass(frozen=True)
class TiffImage:
    """What the header says of the image that is read.

    Attributes:
        layout: Layout of the segments, the same for all planes.
        planes: One with all samples interleaved, or three of one colour each.
        inverted: Whether zero means white.
    """

    layout: SegmentLayout
    planes: tuple[TiffPlane, ...]
    inverted: bool


def read_tiff_header(path: Path, max_pixels: int, max_segment_bytes: int) -> TiffImage:
    """Read and check the header of a TIFF.

    Args:
        path: The file.
        max_pixels: Larger images are refused.
        max_segment_bytes: Compressed segments that decode to more are refused; uncompressed ones are read in parts.

    Raises:
        ImageError: If the header is broken, claims more than the file can hold or a limit allows, or describes a kind
            of image that is not read.
    """
    try:
        _check_tiff_chain(path)
        with tifffile.TiffFile(path) as tiff:
            pages = _tiff_image_pages(path, tiff)
            for page in pages:
                _check_tiff_page(path, page, max_pixels)
            layout = _tiff_layout(pages[0])
            planes = _tiff_planes(path, pages, layout)
            file_bytes = tiff.filehandle.size
    except ImageError:
        raise
    except Exception as error:  # a broken header makes tifffile raise TiffFileError, struct.error, IndexError and more
        raise image_fault(path, f"the TIFF header cannot be read ({error})", TIFF_COPY_AGAIN) from error
    for plane in planes:
        _check_tiff_segments(path, plane, layout, file_bytes)
    segment_bytes = layout.rows_of(0) * layout.row_bytes
    if not layout.is_plain and segment_bytes > max_segment_bytes:
        rule = f"a strip or tile of {layout.size_hw} pixels decodes to more than {max_segment_bytes:,} bytes"
        raise image_fault(path, rule, "save it with smaller tiles, or raise max_segment_bytes")
    return TiffImage(layout, planes, pages[0].photometric == _TIFF_WHITE_IS_ZERO)


def _check_tiff_chain(path: Path) -> None:
    """Follow the chain of pages to its end, which tifffile leaves early where a file is cut.

    Three single-band pages of which the last two are cut off would else pass for one grey page.

    Raises:
        ImageError: If a page's directory, or the link to the next one, lies beyond the end of the file.
    """
    with open(path, "rb") as file:
        order: Literal["little", "big"] = "little" if file.read(2) == b"II" else "big"
        is_big = int.from_bytes(file.read(2), order) == 43
        count_bytes, entry_bytes, link_bytes = (8, 20, 8) if is_big else (2, 12, 4)
        file.seek(8 if is_big else 4)
        link = file.read(link_bytes)
        for _ in range(_TIFF_PAGES):
            position = int.from_bytes(link, order)
            if position == 0:
                break
            file.seek(position)
            entries = int.from_bytes(file.read(count_bytes), order)
            file.seek(position + count_bytes + entries * entry_bytes)
            link = file.read(link_bytes)
            if len(link) < link_bytes:
                raise image_fault(path, f"truncated: the directory at byte {position} is cut", TIFF_COPY_AGAIN)


def _tiff_image_pages(path: Path, tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The one page of the image, or its three single-band pages.

    Raises:
        ImageError: If there is no page, or as many of one size as make a stack and no image.
    """
    if len(tiff.pages) == 0:
        raise image_fault(path, "the TIFF has no page", _TIFF_SAVE_AGAIN)
    first = tiff.pages[0]
    shape_hw = (first.imagelength, first.imagewidth)
    pages = [first]
    for index in range(1, min(len(tiff.pages), _TIFF_PAGES)):
        page = tiff.pages[index]
        if page.imagelength > shape_hw[0] or page.imagewidth > shape_hw[1]:
            raise image_fault(path, f"page {index} is larger than the first one", "save the image as the first page")
        if (page.imagelength, page.imagewidth) == shape_hw:
            pages.append(page)
    if len(pages) not in (1, 3) or (len(pages) == 3 and any(page.samplesperpixel != 1 for page in pages)):
        rule = f"it holds {len(pages)} pages of {shape_hw} pixels: a stack, not one image"
        raise image_fault(path, rule, "save each page as a file of its own")
    if len(tiff.pages) == 1 and (tiff.is_imagej or tiff.is_shaped) and tiff.series[0].size > first.size:
        rule = f"its one page stands for an array of shape {tiff.series[0].shape}"
        raise image_fault(path, rule, _TIFF_SAVE_AGAIN)
    kinds = {(page.samplesperpixel, page.dtype, page.compression, page.predictor, page.is_tiled) for page in pages}
    sizes = {(page.tilewidth, page.tilelength, page.rowsperstrip, page.photometric) for page in pages}
    if len(kinds) > 1 or len(sizes) > 1:
        raise image_fault(path, "its three pages are stored in different ways", _TIFF_SAVE_AGAIN)
    return pages


def _check_tiff_page(path: Path, page: tifffile.TiffPage, max_pixels: int) -> None:
    """Refuse sizes and kinds that are not read.

    Raises:
        ImageError: With what the header says.
    """
    height, width = page.imagelength, page.imagewidth
    if min(height, width) < 1 or page.imagedepth != 1:
        rule = f"the image is {height} x {width} pixels, {page.imagedepth} deep"
        raise image_fault(path, rule, "export the image with its pixels")
    if height * width > max_pixels:
        rule = f"{height} x {width} pixels are more than {max_pixels:,}"
        raise image_fault(path, rule, "save it smaller, or raise max_pixels")
    if not page.dataoffsets or not any(page.databytecounts):
        raise image_fault(path, "a header without data", TIFF_COPY_AGAIN)
    is_jpeg = page.compression == TIFF_JPEG
    photometrics = {_TIFF_WHITE_IS_ZERO, _TIFF_BLACK_IS_ZERO, _TIFF_RGB} | ({_TIFF_YCBCR} if is_jpeg else set())
    is_separate = page.planarconfig == 2 and page.samplesperpixel > 1
    unread = {
        f"samples of {page.bitspersample} bits, type {page.dtype}": (page.dtype, page.bitspersample)
        not in ((np.uint8, 8), (np.uint16, 16)),
        f"compression {page.compression!r}": page.compression not in _TIFF_RATIOS or page.jpegheader is not None,
        f"predictor {page.predictor!r}": page.predictor not in (1, 2),
        f"colours {page.photometric!r}": page.photometric not in photometrics,
        f"{page.samplesperpixel} samples a pixel": page.samplesperpixel
        not in ((3, 4) if is_separate else (1, 2, 3, 4)),
        "reversed bits": page.fillorder != 1,
        "JPEG of 16 bit": is_jpeg and page.bitspersample != 8,
    }
    faults = [kind for kind, is_unread in unread.items() if is_unread]
    if faults:
        raise image_fault(path, f"{' and '.join(faults)} are not read", _TIFF_SAVE_AGAIN)


def _tiff_layout(page: tifffile.TiffPage) -> SegmentLayout:
    """Layout of the segments of a checked page."""
    size_hw = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    return SegmentLayout(
        shape_hw=(page.imagelength, page.imagewidth),
        size_hw=size_hw,
        is_tiled=page.is_tiled,
        samples=page.samplesperpixel if page.planarconfig == 1 else 1,
        dtype=np.dtype(page.dtype).newbyteorder(page.parent.byteorder),
        compression=int(page.compression),
        predictor=int(page.predictor),
        is_ycbcr=page.photometric == _TIFF_YCBCR,
    )


def _tiff_planes(path: Path, pages: list[tifffile.TiffPage], layout: SegmentLayout) -> tuple[TiffPlane, ...]:
    """The segments of each plane.

    Raises:
        ImageError: If a page lists fewer segments than its size needs.
    """
    if min(layout.size_hw) < 1:
        raise image_fault(path, f"strips or tiles of {layout.size_hw} pixels", TIFF_COPY_AGAIN)
    number = layout.down_across[0] * layout.down_across[1]
    is_separate = len(pages) == 1 and pages[0].planarconfig == 2 and pages[0].samplesperpixel > 1
    planes = []
    for page in pages:
        decode = segment_decoder(page, layout)
        for first in (0, number, 2 * number) if is_separate else (0,):
            offsets = np.array(page.dataoffsets[first : first + number], np.uint64)
            counts = np.array(page.databytecounts[first : first + number], np.uint64)
            if len(offsets) != number or len(counts) != number:
                rule = (
                    f"the header lists {min(len(offsets), len(counts))} strips or tiles where its size needs {number}"
                )
                raise image_fault(path, rule, TIFF_COPY_AGAIN)
            planes.append(TiffPlane(offsets, counts, first, decode))
    return tuple(planes)


def _check_tiff_segments(path: Path, plane: TiffPlane, layout: SegmentLayout, file_bytes: int) -> None:
    """Every segment must lie in the file and hold as many bytes as its pixels need at the codec's very best.

    Raises:
        ImageError: With the first segment at fault.
    """
    is_absent = (plane.counts == 0) & (plane.offsets == 0) if layout.is_tiled else np.zeros(len(plane.counts), bool)
    size = np.uint64(file_bytes)
    is_beyond = (plane.offsets > size) | (plane.counts > size)
    is_beyond |= plane.offsets + np.where(is_beyond, 0, plane.counts).astype(np.uint64) > size
    if is_beyond.any():
        index = int(is_beyond.argmax())
        end = int(plane.offsets[index]) + int(plane.counts[index])
        rule = f"truncated: segment {index} ends at byte {end} and the file at {file_bytes}"
        raise image_fault(path, rule, TIFF_COPY_AGAIN)
    # In Python's integers: a header that lies may claim more than 64 bits of bytes.
    needs = [-(-layout.rows_of(row) * layout.row_bytes // _TIFF_RATIOS[layout.compression]) for row in (0, -1)]
    least = np.full(len(plane.counts), min(needs[0], file_bytes + 1), np.uint64)
    least[-1] = min(needs[1], file_bytes + 1)
    is_short = (plane.counts < least) & ~is_absent
    if is_short.any():
        index = int(is_short.argmax())
        rule = f"segment {index} has {plane.counts[index]} bytes and needs at least {least[index]} for its pixels"
        raise image_fault(path, rule, TIFF_COPY_AGAIN)
