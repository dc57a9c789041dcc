"""Whole volumes as files of grey levels, and the planes of each of their axes as slides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from histofold.core.faults import ImageError, image_fault
from histofold.core.log import logger
from histofold.imaging.slide import Slide, open_sample
from histofold.imaging.volume import PlaneStack
from histofold.schema.sample import Sample
from histofold.schema.volumes import VOLUME_AXES

BLOCK_BYTES = 32_000_000
"""Grey levels of the planes that are held at once; their probabilities take twice as much."""


@dataclass(frozen=True)
class GreyVolume:
    """The slices of a volume in its grey levels, on disk."""

    values: np.ndarray
    """uint8 (D, H, W), mapped from a file."""
    unread: frozenset[int]
    """Places of the slices that could not be read, which are black."""
    voxel_um: float | None
    """Side of a voxel in micrometres; None where it is not known."""
    path: Path
    """The folder that it came from, for messages."""


def gather_volume(samples: Sequence[Sample], scratch: Path) -> GreyVolume:
    """Read the slices of a volume, one after another, into a file.

    Args:
        samples: Its slices from first to last.
        scratch: A folder for the file.

    Raises:
        ImageError: If none of them can be read.
    """
    values_DHW: np.memmap | None = None
    unread: set[int] = set()
    for place, sample in enumerate(samples):
        try:
            with open_sample(sample) as slide:
                grey_HW = slide.read(slice(None), slice(None), channels=1)[:, :, 0]
            if values_DHW is None:
                shape = (len(samples), *grey_HW.shape)
                values_DHW = np.memmap(scratch / "grey.bin", np.uint8, "w+", shape=shape)
            if grey_HW.shape != values_DHW.shape[1:]:
                rule = f"is {grey_HW.shape} pixels in a volume of {values_DHW.shape[1:]}"
                raise image_fault(sample.image_path, rule, "export all slices of one size")
            values_DHW[place] = grey_HW
        except ImageError as error:
            unread.add(place)
            logger.warning("%s", error)
    folder = samples[0].image_path.parent
    if values_DHW is None:
        raise image_fault(folder, "no slice of this volume can be read", "download the volume again")
    return GreyVolume(values_DHW, frozenset(unread), samples[0].pixel_size_um, folder)


def plane_slides(values_DHW: np.ndarray, axis: str, reach: int = 1) -> Iterator[tuple[int, int, Iterator[Slide]]]:
    """The planes of an axis as slides, block by block.

    Args:
        values_DHW: Grey levels, uint8.
        axis: Of `VOLUME_AXES`.
        reach: Neighbours at each side that can be seen beside a plane.

    Yields:
        (first plane, one behind the last, the slides of the block in order).
    """
    across = np.moveaxis(values_DHW, VOLUME_AXES.index(axis), 0)
    count = max(1, BLOCK_BYTES // max(1, across[0].size))
    for start in range(0, len(across), count):
        stop = min(start + count, len(across))
        first = max(0, start - reach)
        block = np.ascontiguousarray(across[first : stop + reach])  # read once, in the order of the file
        yield start, stop, (plane_slide(block, plane - first) for plane in range(start, stop))


def plane_slide(planes: np.ndarray, place: int) -> Slide:
    """A plane as a slide, with those before and after it, of a stack of them (N, h, w) in memory or in a file."""

    def plane(step: int) -> np.ndarray | None:
        return np.asarray(planes[place + step]) if 0 <= place + step < len(planes) else None

    return Slide(Path("plane"), PlaneStack((planes.shape[1], planes.shape[2]), plane))


@contextmanager
def volume_scratch(beside: Path | None = None) -> Iterator[Path]:
    """A folder for the files of a volume, in another or where temporary files lie, gone afterwards."""
    with TemporaryDirectory(prefix=".volume-", dir=beside, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def sorted_volumes(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The slices of each volume from first to last."""
    volumes: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda one: (one.source, one.image_path.name)):
        volumes.setdefault(sample.source, []).append(sample)
    return volumes
