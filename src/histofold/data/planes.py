"""Planes of volumes across their slices, as further slides that tiles are cut from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from histofold.core.rle.runs import Masks, Runs, class_runs, runs_from_mask
from histofold.imaging.planes import BLOCK_BYTES, gather_volume, plane_slide, sorted_volumes, volume_scratch
from histofold.imaging.slide import Slide
from histofold.schema.sample import Sample
from histofold.schema.volumes import SLICE_AXIS, VOLUME_AXES

_TURNED_BYTES = 8 * BLOCK_BYTES  # each block of planes is gathered from the whole volume


@dataclass(frozen=True, kw_only=True)
class CrossPlane:
    """A plane as a slide with its truth."""

    sample: Sample
    """Its file holds all planes of its volume and axis."""
    target: Runs
    """What is mask in it."""
    owner: str
    """The slice whose id and fold its tiles go by: that at the same share of the depth. A fold keeps kidneys whole."""
    contents: str
    """Identifies the files of its volume."""


@contextmanager
def cross_planes(
    samples: Sequence[Sample], targets: Mapping[str, Masks], axes: Sequence[str], beside: Path
) -> Iterator[list[CrossPlane]]:
    """All planes of all volumes along the axes that slices do not show, turned on disk as long as they are used.

    Args:
        samples: The slices.
        targets: Their truth by id, of one class.
        axes: Of `VOLUME_AXES`.
        beside: A folder for the files: a byte a voxel and axis, and two more of one volume at a time.

    Raises:
        ImageError: If no slice of a volume can be read.
    """
    wanted = [axis for axis in axes if axis != SLICE_AXIS]
    if not wanted:
        yield []
        return
    with volume_scratch(beside) as scratch:
        volumes = sorted_volumes(samples).values()
        yield [plane for slices in volumes for plane in _volume_planes(slices, targets, wanted, scratch)]


def _volume_planes(
    slices: Sequence[Sample], targets: Mapping[str, Masks], axes: Sequence[str], scratch: Path
) -> Iterator[CrossPlane]:
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in (s.image_path for s in slices)]
    contents = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()
    with volume_scratch(scratch) as own:
        grey = gather_volume(slices, own)
        truth_DHW = np.memmap(own / "truth.bin", bool, "w+", shape=grey.values.shape)
        for place, sample in enumerate(slices):
            if place not in grey.unread:
                truth_DHW[place] = class_runs(targets[sample.id])[0].to_mask()
        for axis in axes:
            path = scratch / f"{slices[0].source}_{axis}.bin"
            masks = _turned(truth_DHW, grey.values, axis, path)
            count = len(masks)
            shape = np.moveaxis(grey.values, VOLUME_AXES.index(axis), 0).shape
            for number, target in enumerate(masks):
                owner = slices[number * len(slices) // count]
                sample = Sample(
                    id=f"{owner.source}_{axis}{number:04d}",
                    image_path=path,
                    organ=owner.organ,
                    source=owner.source,
                    group=owner.group,
                    pixel_size_um=owner.pixel_size_um,
                    shape_hw=target.shape_hw,
                    opened_by=partial(_open_plane, shape=shape, number=number),
                )
                yield CrossPlane(sample=sample, target=target, owner=owner.id, contents=contents)


def _turned(truth_DHW: np.ndarray, grey_DHW: np.ndarray, axis: str, path: Path) -> list[Runs]:
    """Write the planes of an axis one after another; gives the mask of each."""
    grey, truth = (np.moveaxis(values, VOLUME_AXES.index(axis), 0) for values in (grey_DHW, truth_DHW))
    store = np.memmap(path, np.uint8, "w+", shape=grey.shape)
    count = max(1, _TURNED_BYTES // max(1, grey[0].size))
    masks: list[Runs] = []
    for start in range(0, len(grey), count):
        store[start : start + count] = grey[start : start + count]
        masks += [runs_from_mask(mask_HW) for mask_HW in np.ascontiguousarray(truth[start : start + count])]
    store.flush()
    return masks


def _open_plane(sample: Sample, shape: tuple[int, ...], number: int) -> Slide:
    return plane_slide(np.memmap(sample.image_path, np.uint8, "r", shape=shape), number)
