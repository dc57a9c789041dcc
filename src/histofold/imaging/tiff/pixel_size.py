"""The pixel size that a TIFF states of itself: its OME description, ImageJ's, or the resolution tags."""

from __future__ import annotations

import math
import re
from pathlib import Path

import tifffile

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
