"""Mask images: held to their header before anything is decoded, and read with the values that the file stores.

Slides are read as 8-bit colour, which would round small labels away; masks therefore have their own reader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from histofold.core.faults import ImageError, image_fault
from histofold.imaging.formats.door import image_limit_bytes
from histofold.imaging.raster import open_raster
from histofold.imaging.samples import DEFLATE_RATIO
from histofold.imaging.slide import MAX_PIXELS, MAX_SEGMENT_BYTES

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
_MASK_REMEDY = "export the mask again, as one 8-bit grey PNG or TIFF"
_MASK_SIZE_REMEDY = "export the mask at the image's size"
_MASK_TURNED_REMEDY = (
    "its sides are exchanged: transpose it, or save the image upright where viewers turn it by its EXIF orientation"
)
_MASK_NONE, _MASK_LZW, _MASK_PACKBITS = 1, 5, 32773
# The most decoded bytes that one stored byte can yield; other codecs (zstd, LERC) have no such bound.
_MASK_RATIOS = {_MASK_NONE: 1, _MASK_LZW: 1365, 8: DEFLATE_RATIO, 32946: DEFLATE_RATIO, _MASK_PACKBITS: 64}
_MASK_OLD_JPEG, _MASK_JPEG = 6, 7
_RASTER_PLUGINS: dict[bytes, Callable[[Path], ImageFile]] = {
    b"\x89PNG": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"BM": BmpImageFile,
}


@dataclass(frozen=True)
class MaskFile:
    """A decoded mask file, with the values that it stores."""

    path: Path
    """The file."""
    values: np.ndarray
    """(H, W) or (H, W, S), of any type: grey or indices, perhaps alpha; or colours, perhaps alpha."""
    palette_L3: np.ndarray | None = None  # noqa: N815
    """uint8 colours of the indices, where the values are indices."""
    is_lossy: bool = False
    """Whether it is a JPEG, whose values are not those that were saved."""

    @property
    def white(self) -> float:
        """The value of white: 255 where none is larger, else the largest of its type; of bits and fractions 1."""
        if self.values.dtype == bool or (self.values.dtype.kind == "f" and self.values.max() <= 1):
            return 1.0
        if self.values.dtype.kind == "f" or self.values.dtype.itemsize == 1 or self.values.max() <= 255:
            return 255.0
        return float(np.iinfo(self.values.dtype).max)

    def planes(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Colours or grey values (H, W, S) with S 1 or 3, palettes looked up; and alpha (H, W) where there is any."""
        samples_HWS = self.values[:, :, None] if self.values.ndim == 2 else self.values
        alpha_HW = samples_HWS[:, :, -1] if samples_HWS.shape[2] in (2, 4) else None
        colours_HWS = samples_HWS if alpha_HW is None else samples_HWS[:, :, :-1]
        if self.palette_L3 is None:
            return colours_HWS, alpha_HW
        if int(colours_HWS.max()) >= len(self.palette_L3):
            raise image_fault(self.path, "an index beyond the end of its palette", _MASK_REMEDY)
        return self.palette_L3[colours_HWS[:, :, 0]], alpha_HW

    def numbers(self) -> np.ndarray:
        """One number a pixel, (H, W), as the file stores it; alpha does not count.

        Raises:
            ImageError: If it is a colour image.
        """
        if self.values.ndim == 3 and self.values.shape[2] > 2:
            rule = "a colour image, where each pixel must hold one number"
            raise image_fault(self.path, rule, "export labels as grey values, or one mask a class in masks/CLASS/")
        return self.values[:, :, 0] if self.values.ndim == 3 else self.values


def decode_mask(path: Path, shape_hw: tuple[int, int]) -> MaskFile:
    """Decode a mask file.

    Args:
        path: A PNG, TIFF, BMP or JPEG, by its first bytes.
        shape_hw: Height and width of its image; a header that says otherwise is refused before anything is decoded.

    Raises:
        ImageError: If the file cannot be decoded, is no single image of that size, or claims more than it can hold.
    """
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
        if magic.startswith(tuple(_RASTER_PLUGINS)):
            mask = _raster_mask(path, shape_hw, magic)
        elif magic[:2] in (b"II", b"MM"):
            mask = _tiff_mask(path, shape_hw)
        else:
            raise image_fault(path, "the mask is no PNG, TIFF, BMP or JPEG", _MASK_REMEDY)
        if mask.values.dtype.kind == "f" and not np.isfinite(mask.values).all():
            raise image_fault(path, "the mask holds NaN or infinity", "write 0 where there is no mask")
    except ImageError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, MemoryError and more
        rule = f"the mask cannot be decoded ({type(error).__name__}: {error})"
        raise image_fault(path, rule, _MASK_REMEDY) from error
    return mask


def _require_mask_shape(path: Path, found_hw: tuple[int, int], shape_hw: tuple[int, int]) -> None:
    if tuple(found_hw) != tuple(shape_hw):
        is_turned = tuple(found_hw) == tuple(shape_hw)[::-1]
        remedy = _MASK_TURNED_REMEDY if is_turned else _MASK_SIZE_REMEDY
        raise image_fault(path, f"mask is {found_hw} and its image is {shape_hw} (H, W) pixels", remedy)


def _raster_mask(path: Path, shape_hw: tuple[int, int], magic: bytes) -> MaskFile:
    """The samples of a PNG, JPEG or BMP, once its header fits; that of a PNG has passed the rule of all images."""
    if magic.startswith(b"\x89PNG"):
        header = open_raster(path, MAX_PIXELS, image_limit_bytes() or MAX_SEGMENT_BYTES)
        _require_mask_shape(path, header.shape_hw, shape_hw)
    # Pillow's plugins directly: its global guard against large images would refuse honest masks of large slides.
    plugin = next(plugin for start, plugin in _RASTER_PLUGINS.items() if magic.startswith(start))
    with plugin(path) as image:
        _require_mask_shape(path, (image.height, image.width), shape_hw)
        if isinstance(image, PngImageFile) and image.mode != "I;16" and "16" in str(image.tile[0][3]):
            raise image_fault(path, "16-bit colour is not read as a mask", _MASK_REMEDY)
        if image.mode == "CMYK":
            raise image_fault(path, "CMYK colours are not read as a mask", _MASK_REMEDY)
        image.load()
        palette = image.getpalette("RGB") if image.mode in ("P", "PA") else None
        palette_L3 = None if palette is None else np.array(palette, np.uint8).reshape(-1, 3)
        return MaskFile(path, np.asarray(image), palette_L3, is_lossy=isinstance(image, JpegImageFile))


def _tiff_mask(path: Path, shape_hw: tuple[int, int]) -> MaskFile:
    """The samples of a TIFF's first page, once its header fits."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        _require_mask_shape(path, (page.imagelength, page.imagewidth), shape_hw)
        rule = _tiff_mask_fault(tiff, page)
        if rule:
            raise image_fault(path, rule, _MASK_REMEDY)
        values = page.asarray(maxworkers=1)
        planes_first = page.planarconfig == 2 and page.samplesperpixel > 1
        is_lossy = int(page.compression) == _MASK_JPEG
        palette_L3 = _mask_palette(page.colormap) if page.photometric == 3 else None
    if planes_first:
        values = np.moveaxis(values, 0, -1)
    if values.shape[:2] != tuple(shape_hw) or values.ndim not in (2, 3):
        raise image_fault(path, f"the mask decodes to shape {values.shape}", _MASK_REMEDY)
    return MaskFile(path, values, palette_L3, is_lossy)


def _mask_palette(colours_3L: np.ndarray) -> np.ndarray:
    """A TIFF's palette as uint8 (L, 3): its colours have 16 bits, of which some writers fill the lower eight alone."""
    return (colours_3L.T >> (8 if colours_3L.max() > 255 else 0)).astype(np.uint8)


def _tiff_mask_fault(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> str:
    """What keeps a TIFF from being read as a mask, by its header alone; empty if nothing does."""
    shape_hw = (page.imagelength, page.imagewidth)
    pages = (tiff.pages[index] for index in range(len(tiff.pages)))
    copies = sum((other.imagelength, other.imagewidth) == shape_hw for other in pages)
    if copies != 1 or page.imagedepth != 1 or tiff.series[0].size > page.size:
        return f"it holds {copies} pages or a stack of {shape_hw} pixels: not one mask"
    if page.samplesperpixel not in (1, 2, 3, 4) or page.dtype is None:
        return f"{page.samplesperpixel} samples a pixel, of {page.bitspersample} bits, are not read as a mask"
    if page.photometric == 0:
        return "its zero means white, so that mask and background would be exchanged"
    if page.compression == _MASK_OLD_JPEG:
        return "JPEG of the old kind is not read as a mask"
    if len(page.dataoffsets) != len(page.databytecounts) or not any(page.databytecounts):
        return "a header without data"
    spans = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    # A tile that is left out altogether is black, as in slides; a strip never is.
    if any(count == 0 and (offset or not page.is_tiled) for offset, count in spans):
        return "a strip or tile without data"
    if any(offset + count > tiff.filehandle.size for offset, count in spans):
        return "truncated: its data ends beyond the end of the file"
    needed = page.imagelength * page.imagewidth * page.samplesperpixel * page.bitspersample // 8
    ratio = _MASK_RATIOS.get(int(page.compression))
    if ratio is not None and not page.is_tiled and needed > ratio * sum(page.databytecounts):
        return f"{sum(page.databytecounts)} bytes of data cannot hold {shape_hw} pixels"
    return ""
