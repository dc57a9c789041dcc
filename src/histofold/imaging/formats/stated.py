"""What image files say of themselves beside their pixels: micrometres per pixel, orientation, the value of white."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import tifffile
from PIL.JpegImagePlugin import JpegImageFile

from histofold.core.faults import ImageError, image_fault
from histofold.imaging.formats.bitmap import read_bmp_header
from histofold.imaging.formats.vendor import OPENSLIDE_SUFFIXES, vendor_pixel_size_um
from histofold.imaging.raster import png_chunks
from histofold.imaging.tiff.header import read_tiff_header
from histofold.imaging.tiff.pages import plausible_size_um, tiff_pixel_size_um
from histofold.imaging.tiff.reader import TiffReader

_APERIO_SIZE = re.compile(r"\bMPP ?= ?(\d+(?:\.\d+)?)")
_SIGNIFICANT_BITS = re.compile(r'\sSignificantBits="(\d+)"')
_MAX_SAMPLE_TAG, _ORIENTATION_TAG = 281, 274
_WHITE_16 = 65535


def stated_pixel_size_um(path: Path) -> float | None:
    """Micrometres per pixel that a file states, from its header alone.

    Aperio's MPP, OME's PhysicalSizeX, ImageJ's unit, the resolution of TIFF (NDPI among them), PNG and BMP; of other
    scanners' formats what OpenSlide says.

    Returns:
        None where nothing is stated, or nothing that a scanner could mean: screens' and printers' dots an inch, pixels
        that are not square.
    """
    try:
        if path.suffix.lower() in OPENSLIDE_SUFFIXES and (size := vendor_pixel_size_um(path)):
            return plausible_size_um((size, size))
        with open(path, "rb") as file:
            magic = file.read(4)
        if magic[:2] in (b"II", b"MM"):
            return _aperio_size_um(path) or tiff_pixel_size_um(path)
        if magic == b"\x89PNG":
            return plausible_size_um(_sizes_um(*_png_density(path)))
        if magic[:2] == b"BM":
            return plausible_size_um(_sizes_um(*read_bmp_header(path).pixels_per_metre))
    except (OSError, ImageError):
        pass  # whoever opens the image says what is wrong with it
    return None


def is_turned(path: Path) -> bool:
    """Whether a JPEG or TIFF states an orientation by which viewers turn it; we read pixels as they are stored."""
    try:
        with open(path, "rb") as file:
            magic = file.read(3)
        if magic == b"\xff\xd8\xff":
            with JpegImageFile(path) as image:
                return image.getexif().get(_ORIENTATION_TAG, 1) not in (0, 1)
        if magic[:2] in (b"II", b"MM"):
            with tifffile.TiffFile(path) as tiff:
                return tiff.pages[0].tags.valueof(_ORIENTATION_TAG, default=1) not in (0, 1)
    except Exception:  # broken headers make decoders raise many kinds; the reader of the slide says what is wrong
        return False
    return False


def _sizes_um(across: int, down: int) -> tuple[float, float] | None:
    """Sizes of x and y of so many pixels a metre."""
    return (1e6 / across, 1e6 / down) if min(across, down) > 0 else None


def _aperio_size_um(path: Path) -> float | None:
    try:
        with tifffile.TiffFile(path) as tiff:
            found = _APERIO_SIZE.search(tiff.pages[0].description) if tiff.is_svs else None
    except Exception:  # a broken header makes tifffile raise many kinds; the reader of the slide says what is wrong
        return None
    return plausible_size_um((float(found[1]), float(found[1]))) if found else None


def _png_density(path: Path) -> tuple[int, int]:
    """Pixels a metre of x and y by the chunk pHYs; 0 where it says nothing."""
    for kind, start, length in png_chunks(path):
        if kind == b"pHYs" and length == 9:
            with open(path, "rb") as file:
                file.seek(start)
                across, down, unit = (
                    int.from_bytes(file.read(4), "big"),
                    int.from_bytes(file.read(4), "big"),
                    file.read(1),
                )
            return (across, down) if unit == b"\1" else (0, 0)
        if kind == b"IDAT":
            break
    return 0, 0


class StatedRangeReader(TiffReader):
    """A TIFF of 16-bit samples that states a smaller white, as 12 bits do: white becomes 255."""

    white: int

    def _paste(self, target_HWC: np.ndarray, samples_HWS: np.ndarray) -> None:
        """Samples into their place as RGB."""
        most = int(samples_HWS.max(initial=0))
        if most > self.white:
            rule = f"a sample is {most} where the file states that white is {self.white}"
            raise image_fault(self._path, rule, "correct the tag MaxSampleValue (OME: SignificantBits)")
        wide = samples_HWS.astype(np.uint32)
        super()._paste(target_HWC, ((wide * _WHITE_16 + self.white // 2) // self.white).astype(np.uint16))


def open_stated_range(path: Path, max_pixels: int, max_segment_bytes: int, cache_bytes: int) -> TiffReader | None:
    """The reader of a TIFF that states less than all of its 16 bits; None where it states nothing of the kind.

    Raises:
        ImageError: As `read_tiff_header`.
    """
    white = _stated_white(path)
    if white is None:
        return None
    image = read_tiff_header(path, max_pixels, max_segment_bytes)
    if image.foreign or image.layout.dtype.kind != "u":
        return None
    reader = StatedRangeReader(path, image, cache_bytes)
    reader.white = white
    return reader


def _stated_white(path: Path) -> int | None:
    """The largest value of the bits that a file of 16-bit samples says it uses, where these are 9 to 15."""
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            if page.dtype is None or page.dtype != np.uint16:
                return None
            most = max(np.ravel(page.tags.valueof(_MAX_SAMPLE_TAG, default=0)).tolist())
            stated = _SIGNIFICANT_BITS.search(page.description)
    except Exception:  # a broken header makes tifffile raise many kinds; the reader of the slide says what is wrong
        return None
    bits = int(stated[1]) if stated else int(most).bit_length()
    return (1 << bits) - 1 if 8 < bits < 16 else None
