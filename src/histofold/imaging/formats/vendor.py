"""Scanners' own formats, read by OpenSlide: the largest level, never the label or the macro picture.

What lies outside the scanned area is the background that the file states, else white.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from histofold.core.faults import image_fault

OPENSLIDE_SUFFIXES = (".ndpi", ".mrxs", ".scn", ".svslide")
"""Formats that OpenSlide reads."""
UNREAD_SUFFIXES = (".vms", ".vmu", ".bif", ".czi")
"""Formats that are refused with the remedy."""
_VENDOR_INSTALL = (
    "pip install -e '.[slides]' (openslide-python with openslide-bin), or export it as a pyramidal OME-TIFF"
)
_VENDOR_EXPORT = "export it as a pyramidal OME-TIFF (QuPath: File, Export images; or Bio-Formats' bfconvert)"
_VENDOR_BLOCK_PIXELS = 1 << 22
_VENDOR_WHITE = "FFFFFF"


class VendorReader:
    """A slide that OpenSlide reads; see `histofold.imaging.slide.SlideReader`."""

    def __init__(self, path: Path, slide: Any) -> None:
        width, height = slide.dimensions
        self.shape_hw = (height, width)
        self._path, self._slide = path, slide
        colour = slide.properties.get("openslide.background-color", _VENDOR_WHITE)
        self._background_3 = np.frombuffer(bytes.fromhex(colour), np.uint8).astype(np.uint16)

    def read_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        """Fill the canvas with the region at (y, x)."""
        height, width = canvas_HWC.shape[:2]
        rows = max(1, _VENDOR_BLOCK_PIXELS // width)
        try:
            for top in range(0, height, rows):
                part_HWC = canvas_HWC[top : top + rows]
                region = self._slide.read_region((x, y + top), 0, (width, len(part_HWC)))
                pixels_HW4 = np.asarray(region).astype(np.uint16)
                alpha_HW1 = pixels_HW4[:, :, 3:]
                mixed_HWC = pixels_HW4[:, :, :3] * alpha_HW1 + self._background_3 * (255 - alpha_HW1)
                part_HWC[...] = (mixed_HWC + 127) // 255
        except Exception as error:  # OpenSlide's own
            rule = f"OpenSlide cannot decode region y={y}, x={x} ({error})"
            raise image_fault(self._path, rule, "copy or download the file again") from error

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def open_vendor(path: Path, max_pixels: int) -> VendorReader:
    """Open a slide by OpenSlide.

    Raises:
        ImageError: If OpenSlide is not installed, does not read the file, or it is over the limit.
    """
    slide = _openslide_file(path)
    width, height = slide.dimensions
    if height * width > max_pixels:
        slide.close()
        rule = f"{height} x {width} pixels are more than {max_pixels:,}"
        raise image_fault(path, rule, "export a smaller region or a lower magnification, or raise max_pixels")
    return VendorReader(path, slide)


def vendor_pixel_size_um(path: Path) -> float | None:
    """Micrometres per pixel of the largest level as the scanner says; None where that, or OpenSlide, is missing."""
    openslide = _import_openslide()
    if openslide is None:
        return None
    try:
        with openslide.OpenSlide(path) as slide:
            return (float(slide.properties["openslide.mpp-x"]) + float(slide.properties["openslide.mpp-y"])) / 2
    except Exception:  # whoever opens the slide says what is wrong with it
        return None


def refuse_format(path: Path) -> None:
    """Refuse a format that nobody here reads.

    Raises:
        ImageError: Always.
    """
    raise image_fault(path, f"{path.suffix.lower()} files are not read", _VENDOR_EXPORT)


def _openslide_file(path: Path) -> Any:
    openslide = _import_openslide()
    if openslide is None:
        raise image_fault(path, f"{path.suffix.lower()} files are read by OpenSlide, which is missing", _VENDOR_INSTALL)
    try:
        return openslide.OpenSlide(path)
    except Exception as error:  # OpenSlide's own, and OSError
        rule = f"OpenSlide does not read it ({error or 'unknown format'})"
        remedy = "copy it again with all files beside it (MRXS: its folder of the same name), or export an OME-TIFF"
        raise image_fault(path, rule, remedy) from error


def _import_openslide() -> ModuleType | None:
    """OpenSlide, if it is installed and works."""
    try:
        import openslide
    except Exception:  # a missing library raises more than ImportError
        return None
    return openslide
