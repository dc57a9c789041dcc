"""Which page of a TIFF is the image, which kinds of pages are read, and the pixel size that a page states.

The image is the page of most pixels, wherever it stands; transparency masks do not count, and smaller pages (pyramid
levels, thumbnails, labels) are left aside. Three single-band pages of that size are the colours of one image; any other
number of them is a stack and refused.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import tifffile

from histofold.core.faults import image_fault
from histofold.imaging.tiff.codecs import has_imagecodecs, has_pillow_codec
from histofold.imaging.tiff.directories import TIFF_COPY_AGAIN
from histofold.imaging.tiff.segments import (
    OWN_COMPRESSIONS,
    TIFF_APERIO_YCBCR,
    TIFF_DEFLATE,
    TIFF_JPEG,
    TIFF_JPEG2000,
    TIFF_LZMA,
    TIFF_LZW,
    TIFF_OLD_DEFLATE,
    TIFF_PACKBITS,
    TIFF_ZSTD,
)

TIFF_SAVE_AGAIN = "save it as 8-bit RGB, tiled, with deflate or without compression"
WHITE_IS_ZERO, BLACK_IS_ZERO, TIFF_RGB, TIFF_PALETTE, TIFF_YCBCR = 0, 1, 2, 3, 6
"""Values of a TIFF's PhotometricInterpretation."""

_TIFF_MASK_PAGE = 4  # bit of NewSubfileType
_TIFF_BESIDE = re.compile(r"^(label|macro|thumbnail)([ _]image)?( \d+x\d+)?\s*$", re.IGNORECASE | re.MULTILINE)
_TIFF_OLD_JPEG = 6
_TIFF_PHOTOMETRIC, _TIFF_COLOUR_MAP = 262, 320  # tags
_TIFF_SAMPLES = {("u", 8), ("u", 16), ("u", 32), ("f", 16), ("f", 32), ("f", 64)}
_TIFF_PREDICTED = {TIFF_LZW, TIFF_DEFLATE, TIFF_OLD_DEFLATE, TIFF_ZSTD, TIFF_LZMA}


def tiff_image_pages(path: Path, tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The one page of the image, or its three single-band pages.

    Raises:
        ImageError: If there is no page, or as many of one size as make a stack and no image.
    """
    pages = [page for page in tiff.pages if not page.subfiletype & _TIFF_MASK_PAGE]
    pages = [page for page in pages if not _TIFF_BESIDE.search(page.description)] or pages
    if not pages:
        raise image_fault(path, "the TIFF has no page", TIFF_SAVE_AGAIN)
    largest = max(pages, key=lambda page: page.imagelength * page.imagewidth)  # the first of equal ones
    shape_hw = (largest.imagelength, largest.imagewidth)
    pages = [page for page in pages if (page.imagelength, page.imagewidth) == shape_hw]
    if len(pages) not in (1, 3) or (len(pages) == 3 and any(page.samplesperpixel != 1 for page in pages)):
        rule = f"it holds {len(pages)} pages of {shape_hw} pixels: a stack, not one image"
        raise image_fault(path, rule, "save each page as a file of its own")
    kinds = {(page.samplesperpixel, page.dtype, page.compression, page.predictor, page.is_tiled) for page in pages}
    sizes = {(page.tilewidth, page.tilelength, page.rowsperstrip, page.photometric) for page in pages}
    if len(kinds) > 1 or len(sizes) > 1:
        raise image_fault(path, "its three pages are stored in different ways", TIFF_SAVE_AGAIN)
    if len(pages) == 3 and largest.photometric == TIFF_PALETTE:
        raise image_fault(path, "its three pages have a palette each", TIFF_SAVE_AGAIN)
    return pages


def stacked_offset(path: Path, tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> int | None:
    """First byte of three colours that follow each other under a single page, as ImageJ writes beyond 4 GB; else None.

    Raises:
        ImageError: If the one page stands for any other array.
    """
    if len(tiff.pages) != 1 or not (tiff.is_imagej or tiff.is_shaped):
        return None
    series = tiff.series[0]
    if max(series.size, _described_samples(tiff, page)) <= page.size:
        return None
    shape = tuple(length for length in series.shape if length > 1)
    wanted = tuple(length for length in (3, page.imagelength, page.imagewidth) if length > 1)
    if shape != wanted or page.samplesperpixel != 1 or page.compression != 1 or series.dataoffset is None:
        rule = f"its one page stands for an array of which shape {series.shape} is found"
        raise image_fault(path, rule, TIFF_SAVE_AGAIN)
    return int(series.dataoffset)


def _described_samples(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> int:
    """How many samples the description speaks of; tifffile's series tells fewer where the file is cut."""
    if tiff.is_imagej:
        return int((tiff.imagej_metadata or {}).get("images", 1)) * page.size
    shaped = tiff.shaped_metadata
    return math.prod(shaped[0]["shape"]) if shaped else 0


def check_tiff_page(path: Path, page: tifffile.TiffPage, max_pixels: int) -> None:
    """Refuse sizes and kinds that nobody here reads.

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
    if _TIFF_PHOTOMETRIC not in page.tags:  # what a missing one means differs between programs
        raise image_fault(path, "the tag PhotometricInterpretation is missing", TIFF_SAVE_AGAIN)
    faults = [*_unread_samples(page), *_unread_colours(page), *_unread_codec(page)]
    if faults:
        raise image_fault(path, f"{' and '.join(faults)} are not read", TIFF_SAVE_AGAIN)


def _unread_samples(page: tifffile.TiffPage) -> list[str]:
    """What of the samples is not read by any reader here."""
    faults = []
    kind = page.dtype.kind if page.dtype is not None else ""
    if kind == "i":
        faults.append(f"signed samples ({page.dtype}), whose black and white are stated nowhere,")
    elif (kind, page.bitspersample) not in _TIFF_SAMPLES:
        faults.append(f"samples of {page.bitspersample} bits, type {page.dtype}")
    if page.samplesperpixel not in ((3, 4) if is_planar(page) else (1, 2, 3, 4)):
        faults.append(f"{page.samplesperpixel} samples a pixel")
    return faults


def _unread_colours(page: tifffile.TiffPage) -> list[str]:
    """What of the colours is not read by any reader here."""
    photometric, compression = page.photometric, page.compression
    if photometric == TIFF_YCBCR:
        if compression in (TIFF_JPEG, TIFF_APERIO_YCBCR) and page.samplesperpixel == 3 and not is_planar(page):
            return []
        return [f"colours {photometric!r} other than three samples in JPEG"]
    if photometric == TIFF_PALETTE:
        entries = 3 << page.bitspersample if page.bitspersample in (8, 16) else 0
        if np.size(page.tags.valueof(_TIFF_COLOUR_MAP, default=())) != entries or page.samplesperpixel > 2:
            return ["palettes other than one colour for each value of 8 or 16 bits"]
        return ["palettes in a lossy codec"] if compression in (TIFF_JPEG, *TIFF_JPEG2000) else []
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, TIFF_RGB):
        return [f"colours {photometric!r}"]
    if photometric == TIFF_RGB and page.samplesperpixel == 2:
        return ["colours of two samples"]
    return []


def _unread_codec(page: tifffile.TiffPage) -> list[str]:
    """What of the codec and its differences is not read by any reader here."""
    faults = []
    if page.compression == _TIFF_OLD_JPEG or page.jpegheader is not None:
        faults.append("old-style JPEG and NDPI's headerless JPEG")
    is_float = page.dtype is not None and page.dtype.kind == "f"
    wanted = (1, 3) if is_float else (1, 2)
    if page.predictor not in wanted or (page.predictor != 1 and page.compression not in _TIFF_PREDICTED):
        faults.append(f"predictor {page.predictor!r} with {page.dtype} and compression {page.compression!r}")
    if page.compression == TIFF_APERIO_YCBCR and page.bitspersample != 8:
        faults.append(f"Aperio's YCbCr of {page.bitspersample} bits")
    if is_float and page.compression in (TIFF_JPEG, *TIFF_JPEG2000):
        faults.append("floating samples in a codec for whole numbers")
    return faults


def is_planar(page: tifffile.TiffPage) -> bool:
    """Whether the page stores each colour in segments of its own."""
    return bool(page.planarconfig == 2 and page.samplesperpixel > 1)


def foreign_reason(page: tifffile.TiffPage) -> str:
    """What of a checked page our own decoding does not cover, so that other readers are asked; empty if all is."""
    compression = page.compression
    samples = 1 if is_planar(page) else page.samplesperpixel
    if compression not in OWN_COMPRESSIONS:
        return f"compression {compression!r}"
    if page.fillorder != 1 and compression not in (TIFF_JPEG, *TIFF_JPEG2000):
        return "reversed bits"
    if compression == TIFF_JPEG and (samples not in (1, 3) or page.bitspersample != 8):
        return f"JPEG of {samples} samples of {page.bitspersample} bits"
    if has_imagecodecs():
        return ""
    if compression in TIFF_JPEG2000 and (page.bitspersample > 8 or not has_pillow_codec("jpg_2000")):
        return f"JPEG2000 of {page.bitspersample} bits without imagecodecs"
    if compression in (TIFF_LZW, TIFF_PACKBITS, TIFF_ZSTD, TIFF_LZMA) and not has_pillow_codec("libtiff"):
        return f"compression {compression!r} without imagecodecs and Pillow's libtiff"
    return ""


def tiff_palette(page: tifffile.TiffPage) -> np.ndarray | None:
    """The palette of a checked page as uint8 (L, 3), or None.

    A TIFF's palette has 16 bits; writers that put 8-bit values there are told by none being above 255, as in libtiff.
    """
    if page.photometric != TIFF_PALETTE:
        return None
    values_LC = np.reshape(page.tags.valueof(_TIFF_COLOUR_MAP), (3, -1)).T.astype(np.uint32)
    if values_LC.max() > 255:
        values_LC = (values_LC + 128) // 257
    return values_LC.astype(np.uint8)


_SCALE_UM = {"nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00B5m": 1.0, "micron": 1.0, "microns": 1.0, "mm": 1e3}
_SCALE_RESOLUTION_UNITS_UM = {2: 25_400.0, 3: 10_000.0}  # the tag's values: inch and centimetre
_SCALE_RANGE_UM = (0.05, 10.0)
"""What a slide scanner can mean: 72 or 300 dots an inch, which many programs write unasked, are far outside."""
_SCALE_AGREEMENT = 1.01  # the most by which x and y may differ, as a ratio


def tiff_pixel_size_um(path: Path) -> float | None:
    """Micrometres per pixel of the first page, from the header alone.

    Returns:
        None where the file is no TIFF, says nothing, or says nothing that a scanner could mean: sizes outside 0.05 to
        10 um, pixels that are not square.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            stated = _described_sizes_um(page) or _tagged_sizes_um(page)
    except Exception:  # a broken header makes tifffile raise many kinds; the reader of the slide says what is wrong
        return None
    return plausible_size_um(stated)


def plausible_size_um(stated: tuple[float, float] | None) -> float | None:
    """The mean of the sizes of x and y, where a scanner could mean them, else None."""
    if stated is None:
        return None
    low, high = sorted(stated)
    plausible = _SCALE_RANGE_UM[0] <= low and high <= _SCALE_RANGE_UM[1] and high <= low * _SCALE_AGREEMENT
    return (low + high) / 2 if plausible else None


def _described_sizes_um(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Sizes of x and y as the description of an OME-TIFF or of ImageJ says."""
    text = page.description
    if text.startswith("ImageJ="):
        unit = re.search(r"^unit=(\S+)", text, re.MULTILINE)
        return _tagged_sizes_um(page, _SCALE_UM.get(unit[1]) if unit else None)
    sizes = []
    for axis in "XY":
        size = re.search(rf'\sPhysicalSize{axis}="([^"]+)"', text)
        unit = re.search(rf'\sPhysicalSize{axis}Unit="([^"]+)"', text)  # by OME's schema um where it is left out
        if size is None or (unit is not None and unit[1] not in _SCALE_UM):
            return None
        sizes.append(float(size[1]) * (_SCALE_UM[unit[1]] if unit else 1.0))
    return sizes[0], sizes[1]


def _tagged_sizes_um(page: tifffile.TiffPage, unit_um: float | None = None) -> tuple[float, float] | None:
    """Sizes of x and y as the resolution tags say, in the given unit or in the tag's own."""
    unit = page.tags.valueof("ResolutionUnit", default=2)
    unit_um = unit_um or _SCALE_RESOLUTION_UNITS_UM.get(int(unit))
    sizes = []
    for name in ("XResolution", "YResolution"):
        count, length = page.tags.valueof(name, default=(0, 1))
        if unit_um is None or count == 0 or length == 0:
            return None
        sizes.append(unit_um * length / count)
    return (sizes[0], sizes[1]) if all(map(math.isfinite, sizes)) else None
