"""Mask images: held to their header before anything is decoded, and read with the values that the file stores.

Slides are read as 8-bit colour, which would round small labels away; masks therefore have their own reader.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL.PngImagePlugin import PngImageFile

from histofold.core.faults import ImageError, image_fault
from histofold.imaging.samples import DEFLATE_RATIO
from histofold.imaging.slide import open_slide

MASK_SUFFIXES = (".png", ".tif", ".tiff")
_MASK_REMEDY = "export the mask again, as one 8-bit grey PNG or TIFF"
_MASK_SIZE_REMEDY = "export the mask at the image's size"
_MASK_NONE, _MASK_LZW, _MASK_PACKBITS = 1, 5, 32773
# The most decoded bytes that one stored byte can yield; other codecs (zstd, LERC) have no such bound.
_MASK_RATIOS = {_MASK_NONE: 1, _MASK_LZW: 1365, 8: DEFLATE_RATIO, 32946: DEFLATE_RATIO, _MASK_PACKBITS: 64}
_MASK_JPEG = (6, 7)


def read_mask(path: Path, shape_hw: tuple[int, int]) -> np.ndarray:
    """Read a mask image as bool (H, W): any non-zero value of any colour channel; alpha does not count.

    A palette counts by its index. Labels of 1 to 64 bits, whole or floating, are read as they are stored.

    Args:
        path: A PNG or TIFF, by its first bytes.
        shape_hw: Height and width of its image; a header that says otherwise is refused before anything is decoded.

    Raises:
        ImageError: If the file cannot be decoded, is no single image of that size, or claims more than it can hold.
    """
    return _decoded_mask(path, shape_hw, _nonzero_pixels)


def read_labels(path: Path, shape_hw: tuple[int, int], classes: int) -> np.ndarray:
    """Read a label image as uint8 (H, W): 0 is background, k the k-th class.

    Args:
        path: A PNG or TIFF of one grey or palette sample a pixel; alpha does not count.
        shape_hw: Height and width of its image.
        classes: Number of classes, at most 255.

    Raises:
        ImageError: As `read_mask`; or if it is a colour image, or holds a value that is no class.
    """

    def checked(path: Path, values: np.ndarray) -> np.ndarray:
        if values.ndim == 3 and values.shape[2] > 2:
            rule = "a colour image, where each pixel must hold the number of its class"
            raise image_fault(path, rule, "export labels as grey values, or one mask a class in masks/CLASS/")
        labels_HW = values[:, :, 0] if values.ndim == 3 else values
        known = np.isin(labels_HW, np.arange(classes + 1))
        if not known.all():
            rule = f"holds the value {labels_HW[~known][0]}, and there are {classes} classes: 0 to {classes} are known"
            raise image_fault(path, rule, "name the class in classes.txt, or correct the mask")
        return labels_HW.astype(np.uint8)

    return _decoded_mask(path, shape_hw, checked)


def _decoded_mask(
    path: Path, shape_hw: tuple[int, int], finish: Callable[[Path, np.ndarray], np.ndarray]
) -> np.ndarray:
    """What `finish` makes of the values of a mask file; whatever a decoder raises becomes an ImageError."""
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
        if magic.startswith(b"\x89PNG"):
            values = _png_mask_values(path, shape_hw)
        elif magic[:2] in (b"II", b"MM"):
            values = _tiff_mask_values(path, shape_hw)
        else:
            raise image_fault(path, "the mask is no PNG or TIFF", _MASK_REMEDY)
        return finish(path, values)
    except ImageError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, MemoryError and more
        rule = f"the mask cannot be decoded ({type(error).__name__}: {error})"
        raise image_fault(path, rule, _MASK_REMEDY) from error


def _nonzero_pixels(path: Path, values: np.ndarray) -> np.ndarray:
    """Values (H, W) or (H, W, S) as bool (H, W)."""
    if values.ndim == 3:
        values = values[:, :, : 3 if values.shape[2] > 2 else 1]
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise image_fault(path, "the mask holds NaN", "write 0 where there is no mask")
    return (values != 0).any(axis=2) if values.ndim == 3 else values != 0


def _require_mask_shape(path: Path, found_hw: tuple[int, int], shape_hw: tuple[int, int]) -> None:
    if tuple(found_hw) != tuple(shape_hw):
        raise image_fault(path, f"mask is {found_hw} and its image is {shape_hw} (H, W) pixels", _MASK_SIZE_REMEDY)


def _png_mask_values(path: Path, shape_hw: tuple[int, int]) -> np.ndarray:
    """The samples of a PNG, once its header has passed the rule of all images and fits."""
    with open_slide(path) as slide:
        _require_mask_shape(path, slide.shape_hw, shape_hw)
    # Pillow's plugin directly: its global guard against large images would refuse honest masks of large slides.
    with PngImageFile(path) as image:
        if image.mode != "I;16" and "16" in str(image.tile[0][3]):
            raise image_fault(path, "16-bit colour is not read as a mask", _MASK_REMEDY)
        image.load()
        return np.asarray(image)


def _tiff_mask_values(path: Path, shape_hw: tuple[int, int]) -> np.ndarray:
    """The samples of a TIFF's first page, (H, W) or (H, W, S), once its header fits."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        _require_mask_shape(path, (page.imagelength, page.imagewidth), shape_hw)
        rule = _tiff_mask_fault(tiff, page)
        if rule:
            raise image_fault(path, rule, _MASK_REMEDY)
        values = page.asarray(maxworkers=1)
        planes_first = page.planarconfig == 2 and page.samplesperpixel > 1
    if planes_first:
        values = np.moveaxis(values, 0, -1)
    if values.shape[:2] != tuple(shape_hw) or values.ndim not in (2, 3):
        raise image_fault(path, f"the mask decodes to shape {values.shape}", _MASK_REMEDY)
    return values


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
    if page.compression in _MASK_JPEG:
        return "JPEG smears a mask's edges"
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
