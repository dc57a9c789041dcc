"""The header of a TIFF: read with tifffile, checked against the size of the file before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from histofold.core.faults import ImageError, image_fault
from histofold.imaging.samples import DEFLATE_RATIO, JPEG_PIXELS_PER_BYTE
from histofold.imaging.tiff.codecs import segment_decoder
from histofold.imaging.tiff.directories import TIFF_COPY_AGAIN, check_tiff_chain
from histofold.imaging.tiff.pages import (
    TIFF_YCBCR,
    WHITE_IS_ZERO,
    check_tiff_page,
    foreign_reason,
    is_planar,
    stacked_offset,
    tiff_image_pages,
    tiff_palette,
)
from histofold.imaging.tiff.segments import (
    TIFF_DEFLATE,
    TIFF_JPEG,
    TIFF_LZMA,
    TIFF_LZW,
    TIFF_NONE,
    TIFF_OLD_DEFLATE,
    TIFF_PACKBITS,
    TIFF_ZSTD,
    SegmentDecoder,
    SegmentLayout,
)

# The most decoded bytes that one stored byte can yield. LZW: a full cycle of codes of 9 to 12 bits before the table
# must be cleared; JPEG: three bytes a pixel; PackBits: 128 bytes for two; zstd: four bytes repeat a block of 128 KiB,
# which LZMA's best of about 7000 does not reach. Other codecs have no such bound.
_TIFF_RATIOS = {
    TIFF_NONE: 1,
    TIFF_LZW: 1365,
    TIFF_JPEG: 3 * JPEG_PIXELS_PER_BYTE,
    TIFF_DEFLATE: DEFLATE_RATIO,
    TIFF_OLD_DEFLATE: DEFLATE_RATIO,
    TIFF_PACKBITS: 64,
    TIFF_ZSTD: 32768,
    TIFF_LZMA: 32768,
}
_TIFF_ORIENTATION, _TIFF_BYTE_COUNTS = 274, (279, 325)  # tags


@dataclass(frozen=True)
class TiffPlane:
    """Where the segments of an image, or of one of its three planes, lie."""

    offsets: np.ndarray
    """First byte of each segment, uint64."""
    counts: np.ndarray
    """Stored bytes of each segment, uint64."""
    first: int
    """Number of the first of them in the page's own list."""
    decode: SegmentDecoder | None
    """The page's decoder; None where segments need none, or where it is not ours."""


@dataclass(frozen=True)
class TiffImage:
    """What the header says of the image that is read."""

    layout: SegmentLayout
    """Layout of the segments, the same for all planes."""
    planes: tuple[TiffPlane, ...]
    """One with all samples interleaved, or three of one colour each."""
    inverted: bool
    """Whether zero means white."""
    palette: np.ndarray | None
    """uint8 colours (L, 3) of the samples' values, or None where the samples are colours."""
    page_numbers: tuple[int, ...]
    """The page of the image, or its three single-band pages, counted from 0."""
    colours: int
    """Colour samples of a pixel, 1 or 3, over all planes and pages; alpha does not count."""
    photometric: int
    """The TIFF tag's value."""
    is_turned: bool
    """Whether an orientation asks for the rows in another order than they are stored, which is ignored."""
    foreign: str
    """What our own decoding does not cover of it; empty if it covers all."""


def read_tiff_header(path: Path, max_pixels: int, max_segment_bytes: int) -> TiffImage:
    """Read and check the header of a TIFF.

    Raises:
        ImageError: If the header is broken, claims more than the file can hold or a limit allows, or describes a kind
            of image that is not read.
    """
    try:
        check_tiff_chain(path)
        with tifffile.TiffFile(path) as tiff:
            pages = tiff_image_pages(path, tiff)
            for page in pages:
                check_tiff_page(path, page, max_pixels)
            image = _tiff_image(path, tiff, pages)
            file_bytes = tiff.filehandle.size
    except ImageError:
        raise
    except Exception as error:  # a broken header makes tifffile raise TiffFileError, struct.error, IndexError and more
        raise image_fault(path, f"the TIFF header cannot be read ({error})", TIFF_COPY_AGAIN) from error
    layout = image.layout
    for plane in image.planes:
        _check_tiff_segments(path, plane, layout, file_bytes)
    _check_tiff_total(path, image, file_bytes)
    segment_bytes = layout.rows_of(0) * layout.row_bytes
    if not layout.is_plain and segment_bytes > max_segment_bytes:
        rule = f"a strip or tile of {layout.size_hw} pixels decodes to more than {max_segment_bytes:,} bytes"
        raise image_fault(path, rule, "save it with smaller tiles, or raise max_segment_bytes")
    return image


def _tiff_image(path: Path, tiff: tifffile.TiffFile, pages: list[tifffile.TiffPage]) -> TiffImage:
    """The image of checked pages; its segments are not yet held against the file."""
    page = pages[0]
    foreign = foreign_reason(page)
    layout = _tiff_layout(page)
    if min(layout.size_hw) < 1:
        raise image_fault(path, f"strips or tiles of {layout.size_hw} pixels", TIFF_COPY_AGAIN)
    stacked = stacked_offset(path, tiff, page)
    if stacked is None:
        planes = _tiff_planes(path, pages, layout, is_decoded=not foreign)
    else:
        layout, planes = _stacked_planes(layout, stacked)
    return TiffImage(
        layout=layout,
        planes=planes,
        inverted=page.photometric == WHITE_IS_ZERO,
        palette=tiff_palette(page),
        page_numbers=tuple(other.index for other in pages),
        colours=3 if len(planes) == 3 or layout.samples_per_pixel >= 3 else 1,
        photometric=int(page.photometric),
        is_turned=page.tags.valueof(_TIFF_ORIENTATION, default=1) != 1,
        foreign=foreign,
    )


def _tiff_layout(page: tifffile.TiffPage) -> SegmentLayout:
    """Layout of the segments of a checked page."""
    size_hw = (min(page.rowsperstrip, page.imagelength), page.imagewidth)
    if page.is_tiled:
        size_hw = (page.tilelength, page.tilewidth)
    return SegmentLayout(
        shape_hw=(page.imagelength, page.imagewidth),
        size_hw=size_hw,
        is_tiled=page.is_tiled,
        samples_per_pixel=1 if is_planar(page) else page.samplesperpixel,
        dtype=np.dtype(page.dtype).newbyteorder(page.parent.byteorder),
        compression=int(page.compression),
        predictor=int(page.predictor),
        is_ycbcr=page.photometric == TIFF_YCBCR,
    )


def _tiff_planes(
    path: Path, pages: list[tifffile.TiffPage], layout: SegmentLayout, is_decoded: bool
) -> tuple[TiffPlane, ...]:
    """The segments of each plane.

    Raises:
        ImageError: If a page lists fewer segments than its size needs.
    """
    number = layout.down_across[0] * layout.down_across[1]
    planes = []
    for page in pages:
        decode = segment_decoder(page, layout) if is_decoded and not layout.is_plain else None
        for first in (0, number, 2 * number) if is_planar(page) else (0,):
            offsets = np.array(page.dataoffsets[first : first + number], np.uint64)
            counts = _tiff_byte_counts(path, page, layout, range(first, first + number))
            if len(offsets) != number or len(counts) != number:
                found = min(len(offsets), len(counts))
                rule = f"the header lists {found} strips or tiles where its size needs {number}"
                raise image_fault(path, rule, TIFF_COPY_AGAIN)
            planes.append(TiffPlane(offsets, np.array(counts, np.uint64), first, decode))
    return tuple(planes)


def _tiff_byte_counts(
    path: Path, page: tifffile.TiffPage, layout: SegmentLayout, numbers: range
) -> tuple[int, ...] | list[int]:
    """Stored bytes of some segments; where the tag is missing, uncompressed ones have those of their pixels.

    Raises:
        ImageError: If the tag of a compressed page is missing.
    """
    if any(tag in page.tags for tag in _TIFF_BYTE_COUNTS):
        return page.databytecounts[numbers.start : numbers.stop]
    if not layout.is_plain:
        rule = "the tag StripByteCounts or TileByteCounts is missing"
        raise image_fault(path, rule, TIFF_COPY_AGAIN)
    return [layout.rows_of(number // layout.down_across[1]) * layout.row_bytes for number in numbers]


def _stacked_planes(layout: SegmentLayout, offset: int) -> tuple[SegmentLayout, tuple[TiffPlane, ...]]:
    """Three uncompressed colours that follow each other: one strip each."""
    height, width = layout.shape_hw
    whole = SegmentLayout(
        layout.shape_hw, (height, width), False, 1, layout.dtype, TIFF_NONE, predictor=1, is_ycbcr=False
    )
    size = height * whole.row_bytes
    counts = np.array([size], np.uint64)
    return whole, tuple(TiffPlane(np.array([offset + k * size], np.uint64), counts, 0, None) for k in range(3))


def _absent_tiles(plane: TiffPlane, layout: SegmentLayout) -> np.ndarray:
    """Which segments the file leaves out: tiles of no bytes at no place, as GDAL's sparse files have; a strip never."""
    return (plane.counts == 0) & (plane.offsets == 0) & layout.is_tiled


def _check_tiff_segments(path: Path, plane: TiffPlane, layout: SegmentLayout, file_bytes: int) -> None:
    """Every segment must lie in the file and hold as many bytes as its pixels need at the codec's very best.

    Raises:
        ImageError: With the first segment at fault.
    """
    size = np.uint64(file_bytes)
    is_beyond = (plane.offsets > size) | (plane.counts > size)
    is_beyond |= plane.offsets + np.where(is_beyond, 0, plane.counts).astype(np.uint64) > size
    if is_beyond.any():
        index = int(is_beyond.argmax())
        end = int(plane.offsets[index]) + int(plane.counts[index])
        rule = f"truncated: segment {index} ends at byte {end} and the file at {file_bytes}"
        raise image_fault(path, rule, TIFF_COPY_AGAIN)
    is_absent = _absent_tiles(plane, layout)
    on_header = (plane.offsets < 8) & ~is_absent
    if on_header.any():
        rule = f"segment {int(on_header.argmax())} lies on the first bytes of the file, which are its header"
        raise image_fault(path, rule, TIFF_COPY_AGAIN)
    # In Python's integers: a header that lies may claim more than 64 bits of bytes.
    ratio = _TIFF_RATIOS.get(layout.compression)
    full, last = (-(-layout.rows_of(row) * layout.row_bytes // ratio) if ratio else 1 for row in (0, -1))
    least = np.full(len(plane.counts), min(full, file_bytes + 1), np.uint64)
    least[-1] = min(last, file_bytes + 1)
    is_short = (plane.counts < least) & ~is_absent
    if is_short.any():
        index = int(is_short.argmax())
        rule = f"segment {index} has {plane.counts[index]} bytes and needs at least {least[index]} for its pixels"
        raise image_fault(path, rule, TIFF_COPY_AGAIN)


def _check_tiff_total(path: Path, image: TiffImage, file_bytes: int) -> None:
    """All segments together must be within what the file's bytes can hold, lest they lie on each other.

    Raises:
        ImageError: If the same bytes serve for more pixels than the codec could get from the whole file.
    """
    layout = image.layout
    ratio = _TIFF_RATIOS.get(layout.compression)
    if ratio is None:
        return
    present = sum(int((~_absent_tiles(plane, layout)).sum()) for plane in image.planes)
    pixel_rows = present * layout.size_hw[0] if layout.is_tiled else len(image.planes) * layout.shape_hw[0]
    if pixel_rows * layout.row_bytes > ratio * file_bytes:
        rule = f"{file_bytes} bytes cannot hold its {pixel_rows * layout.row_bytes:,} bytes of samples"
        raise image_fault(path, f"{rule}: strips or tiles lie on each other", TIFF_COPY_AGAIN)
