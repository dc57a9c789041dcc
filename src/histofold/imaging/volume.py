"""Volumes as folders of numbered slices: a slice and its neighbours are the channels of one slide.

A network for pictures then sees depth without being told: green is the slice, red the one before it, blue the one after
it; of five channels the outer ones are those beside these. Grey levels are those of the whole volume, from its 0.5th to
its 99.5th percentile, so that they mean the same in every slice. Memory does not grow with the volume.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from histofold.core.faults import ImageError, image_fault
from histofold.core.log import logger
from histofold.imaging.slide import Slide, open_slide
from histofold.schema.sample import Sample

LEVEL_PERCENTS = (0.5, 99.5)
LEVEL_SLICES = 96
"""Slices that the percentiles are taken from, evenly over the volume: more move them by less than a grey level."""
CACHED_SLICES = 8
_GREY_VALUES = 1 << 16


class VolumeLevels(NamedTuple):
    """What becomes black and white of a volume."""

    low: float
    """Values up to this are 0."""
    high: float
    """Values from this on are 255."""
    dtype: str
    """Of all its slices: uint8 or uint16."""


def slice_number(path: Path) -> int | None:
    """The number of a slice by its file's name, None of a file that has none."""
    return int(path.stem) if path.stem.isascii() and path.stem.isdigit() else None


def list_slices(folder: Path) -> dict[int, Path]:
    """The slices of a folder by their number, in its order; of two files of one number the first by name."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        number = slice_number(path)
        if number is not None and path.suffix.lower() in (".tif", ".tiff"):
            found.setdefault(number, path)
    return dict(sorted(found.items()))


def slice_shape(path: Path) -> tuple[int, int] | None:
    """Height and width of a slice from its header, None where it cannot be read."""
    try:
        with open_slide(path) as slide:
            return slide.shape_hw
    except ImageError:
        return None


def read_slice(path: Path) -> np.ndarray:
    """The values of a slice, uint8 or uint16 (H, W); its header is looked at first.

    Raises:
        ImageError: If it cannot be read, or is not grey.
    """
    open_slide(path).close()
    values: np.ndarray | None = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise image_fault(path, "its pixels cannot be decoded", "download or export it again")
    if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
        kind = f"{values.dtype}{values.shape}"
        raise image_fault(path, f"a slice is grey, of 8 or 16 bits, and this is {kind}", "export it as grey values")
    return values


@lru_cache(maxsize=64)
def volume_levels(folder: Path) -> VolumeLevels:
    """The levels of a volume, from the exact counts of the values of some of its slices.

    Slices that cannot be read are passed over.

    Raises:
        ImageError: If none can be read.
    """
    paths = list(list_slices(folder).values())
    places: np.ndarray = np.unique(np.linspace(0, len(paths) - 1, min(LEVEL_SLICES, len(paths))).round().astype(int))
    counts, dtypes = np.zeros(_GREY_VALUES, np.int64), []
    for place in places:
        try:
            values_HW = read_slice(paths[place])
        except ImageError:
            continue
        counts += np.bincount(values_HW.ravel(), minlength=_GREY_VALUES)
        dtypes.append(str(values_HW.dtype))
    if not dtypes:
        raise image_fault(folder, "no slice of this volume can be read", "download the volume again")
    low, high = (int(np.searchsorted(np.cumsum(counts), percent / 100 * counts.sum())) for percent in LEVEL_PERCENTS)
    return VolumeLevels(low, max(high, low + 1), max(dtypes, key=dtypes.count))


def levelled_slice(path: Path) -> np.ndarray:
    """A slice in the grey levels of its volume, uint8 (H, W), read-only; the last few are kept.

    Raises:
        ImageError: If it cannot be read, or is of another type than its volume.
    """
    return _levelled_slice(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=CACHED_SLICES)
def _levelled_slice(path: Path, changed_ns: int) -> np.ndarray:
    levels = volume_levels(path.parent)
    values_HW = read_slice(path)
    if str(values_HW.dtype) != levels.dtype:
        raise image_fault(path, f"of {values_HW.dtype} in a volume of {levels.dtype}", "export all slices alike")
    scaled_HW = (values_HW.astype(np.float32) - levels.low) * np.float32(255 / (levels.high - levels.low))
    grey_HW: np.ndarray = np.rint(np.clip(scaled_HW, 0, 255, out=scaled_HW)).astype(np.uint8)
    grey_HW.flags.writeable = False
    return grey_HW


def neighbour_slice(path: Path, step: int) -> Path | None:
    """The file of the slice so many further, None where there is none."""
    number = slice_number(path)
    if number is None or number + step < 0:
        return None
    other = path.with_name(f"{number + step:0{len(path.stem)}d}{path.suffix}")
    return other if other.is_file() else None


@lru_cache(maxsize=1024)
def _say_mended(path: Path, reason: str) -> None:
    """Once of each slice, which is opened several times."""
    logger.warning("%s: taken as the mean of the slices before and after it, since %s", path, reason)


class PlaneStack:
    """A plane of a volume and its neighbours as the channels of a slide: as many as a canvas has, it in the middle.

    Where a neighbour is missing, the one nearest to it on the way to the plane stands for it. A plane is asked for when
    it is read, and not before.

    Args:
        shape_hw: Height and width of the plane.
        plane: Gives the plane so many steps further, uint8 (H, W); 0 is the plane itself, and None means none.
    """

    def __init__(self, shape_hw: tuple[int, int], plane: Callable[[int], np.ndarray | None]) -> None:
        self.shape_hw, self._plane = shape_hw, plane

    def read_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        """Fill a canvas of an odd number of channels with the region that begins at (y, x)."""
        height, width, channels = canvas_HWC.shape
        region, reach = (slice(y, y + height), slice(x, x + width)), channels // 2
        middle_HW = self._plane(0)
        assert middle_HW is not None, "there is always the plane itself"
        canvas_HWC[:, :, reach] = middle_HW[region]
        for side in (-1, 1):
            nearest_HW = middle_HW
            for step in range(side, side * (reach + 1), side):
                further_HW = self._plane(step)
                if further_HW is not None and further_HW.shape == self.shape_hw:
                    nearest_HW = further_HW
                canvas_HWC[:, :, reach + step] = nearest_HW[region]

    def close(self) -> None:
        """Nothing is held open."""


def _slice_plane(path: Path, step: int) -> np.ndarray | None:
    """The slice so many further in the levels of its volume, None where there is none that can be read.

    Raises:
        ImageError: If the slice itself cannot be read, nor both of its neighbours.
    """
    if step == 0:
        return _whole_slice(path)
    other = neighbour_slice(path, step)
    try:
        return None if other is None else levelled_slice(other)
    except ImageError:
        return None


def _whole_slice(path: Path) -> np.ndarray:
    """A slice in the levels of its volume; where it cannot be read, the mean of its neighbours."""
    try:
        return levelled_slice(path)
    except ImageError as error:
        before_HW, after_HW = _slice_plane(path, -1), _slice_plane(path, 1)
        if before_HW is None or after_HW is None or before_HW.shape != after_HW.shape:
            raise
        _say_mended(path, str(error))
        return cv2.addWeighted(before_HW, 0.5, after_HW, 0.5, 0)


def open_slice(sample: Sample) -> Slide:
    """Open a slice of a volume as a slide: what `Sample.opened_by` names. Its header alone is read.

    Raises:
        ImageError: If neither its header nor those of both of its neighbours can be read.
    """
    path = sample.image_path
    shape_hw = slice_shape(path)
    if shape_hw is None:
        before, after = (neighbour_slice(path, step) for step in (-1, 1))
        shape_hw = slice_shape(before) if before and after else None
        if shape_hw is None:
            open_slide(path).close()  # raises
            raise image_fault(path, "cannot be read", "download or export it again")
    return Slide(path, PlaneStack(shape_hw, partial(_slice_plane, path)))
