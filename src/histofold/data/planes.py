"""Planes of volumes across their slices, as further slides that tiles are cut from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from histofold.core.rle.runs import Masks, Runs, class_runs, runs_from_mask
from histofold.data.tiles.plan import seeded_generator
from histofold.imaging.planes import BLOCK_BYTES, gather_volume, plane_slide, sorted_volumes, volume_scratch
from histofold.imaging.slide import Slide
from histofold.imaging.volume import PlaneStack
from histofold.schema.dataset import TilesConfig
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
    samples: Sequence[Sample], targets: Mapping[str, Masks], tiles: TilesConfig, beside: Path
) -> Iterator[list[CrossPlane]]:
    """All planes of all volumes along the axes that slices do not show, and tilted ones, on disk while they are used.

    Args:
        samples: The slices.
        targets: Their truth by id, of one class.
        tiles: Says the axes and the tilt.
        beside: A folder for the files: a byte a voxel and axis, one for tilted planes, two more of a volume at a time.

    Raises:
        ImageError: If no slice of a volume can be read.
    """
    if tiles.axes == (SLICE_AXIS,) and not tiles.tilt:
        yield []
        return
    with volume_scratch(beside) as scratch:
        volumes = sorted_volumes(samples).values()
        yield [plane for slices in volumes for plane in _volume_planes(slices, targets, tiles, scratch)]


def _volume_planes(
    slices: Sequence[Sample], targets: Mapping[str, Masks], tiles: TilesConfig, scratch: Path
) -> Iterator[CrossPlane]:
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in (s.image_path for s in slices)]
    contents = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()
    own = scratch / slices[0].source
    own.mkdir()
    grey = gather_volume(slices, own)
    truth_DHW = np.memmap(own / "truth.bin", bool, "w+", shape=grey.values.shape)
    for place, sample in enumerate(slices):
        if place not in grey.unread:
            truth_DHW[place] = class_runs(targets[sample.id])[0].to_mask()
    for axis in tiles.axes:
        if axis == SLICE_AXIS:
            continue
        path = own / f"{axis}.bin"
        masks = _turned(truth_DHW, grey.values, axis, path)
        shape = np.moveaxis(grey.values, VOLUME_AXES.index(axis), 0).shape
        for number, target in enumerate(masks):
            owner = slices[number * len(slices) // len(masks)]
            opened_by = partial(_open_plane, shape=shape, number=number)
            yield _cross_plane(owner, f"{axis}{number:04d}", path, opened_by, target, contents)
    for number, owner in enumerate(slices if tiles.tilt else ()):
        turn_33 = drawn_turn(seeded_generator(tiles.seed, f"tilt/{owner.id}"), tiles.tilt)
        target = runs_from_mask(tilted_plane(truth_DHW.view(np.uint8), number, turn_33, order=0) > 0)
        opened_by = partial(_open_tilted, shape=grey.values.shape, number=number, turn_33=turn_33)
        named = f"{contents} {tiles.tilt}"
        yield _cross_plane(owner, f"tilted{number:04d}", own / "grey.bin", opened_by, target, named)
    (own / "truth.bin").unlink()


def _cross_plane(
    owner: Sample, name: str, path: Path, opened_by: Callable[[Sample], Slide], target: Runs, contents: str
) -> CrossPlane:
    key, shape_hw = f"{owner.source}_{name}", target.shape_hw
    sample = replace(owner, id=key, image_path=path, shape_hw=shape_hw, opened_by=opened_by)
    return CrossPlane(sample=sample, target=target, owner=owner.id, contents=contents)


def drawn_turn(rng: np.random.Generator, tilt: float) -> np.ndarray:
    """A rotation by at most so many degrees about any line in the plane of a slice (Rodrigues' formula).

    Returns:
        float64 (3, 3): the columns are where it takes the directions z, y and x.
    """
    angle, side = np.radians(rng.uniform(-tilt, tilt)), rng.uniform(0, np.pi)
    y, x = np.sin(side), np.cos(side)
    cross_33 = np.array([[0, -x, y], [x, 0, 0], [-y, 0, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross_33 + (1 - np.cos(angle)) * cross_33 @ cross_33)


def tilted_plane(values_DHW: np.ndarray, number: int, turn_33: np.ndarray, step: int = 0, order: int = 1) -> np.ndarray:
    """A slice turned about its middle, as large as it is.

    Args:
        values_DHW: A volume, uint8, in memory or in a file.
        number: The slice.
        turn_33: The rotation, as `drawn_turn` gives it.
        step: Voxels along its normal, for the planes beside it.
        order: 1: values between the voxels, by trilinear interpolation; 0: the nearest voxel's.

    Returns:
        uint8 (H, W), 0 outside the volume.
    """
    from scipy.ndimage import map_coordinates

    height, width = values_DHW.shape[1:]
    middle = np.array([number, (height - 1) / 2, (width - 1) / 2])
    y, x = np.arange(height) - middle[1], np.arange(width) - middle[2]
    z_3, y_3, x_3 = turn_33.T[:, :, None, None]
    places_3HW = middle[:, None, None] + step * z_3 + y_3 * y[:, None] + x_3 * x
    plane_HW = map_coordinates(values_DHW, places_3HW, np.float32, order, mode="constant")
    return np.rint(plane_HW).astype(np.uint8)


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


def _open_tilted(sample: Sample, shape: tuple[int, ...], number: int, turn_33: np.ndarray) -> Slide:
    values_DHW = np.memmap(sample.image_path, np.uint8, "r", shape=shape)
    plane = cache(lambda step: tilted_plane(values_DHW, number, turn_33, step))  # rows are asked for in groups
    return Slide(sample.image_path, PlaneStack((shape[1], shape[2]), plane))
