"""A volume seen along its axes: every plane of every axis through the ensemble, averaged in a map on disk.

Grey levels and probabilities lie in files beside the result, and a block of planes at a time in memory, so that memory
does not grow with the depth. A plane is a slide like any other, its two neighbours in the first and last channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from histofold.core.faults import ImageError, image_fault
from histofold.core.log import logger
from histofold.core.rle.runs import Runs, runs_from_mask
from histofold.core.volumes import clean_volume
from histofold.imaging.slide import Slide, open_sample
from histofold.imaging.volume import ThreePlanes
from histofold.predict.image import StageForward, forward_batch, predict_probabilities
from histofold.predict.stages import OutOfTimeError, Stage
from histofold.schema.manifest import Manifest
from histofold.schema.sample import Sample
from histofold.schema.volumes import VOLUME_AXES, VolumeConfig

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
                grey_HW = slide.read_all()[:, :, 1]
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


def plane_slides(values_DHW: np.ndarray, axis: str) -> Iterator[tuple[int, int, Iterator[Slide]]]:
    """The planes of an axis as slides, block by block.

    Yields:
        (first plane, one behind the last, the slides of the block in order).
    """
    across = np.moveaxis(values_DHW, VOLUME_AXES.index(axis), 0)
    count = max(1, BLOCK_BYTES // max(1, across[0].size))
    for start in range(0, len(across), count):
        stop = min(start + count, len(across))
        first = max(0, start - 1)
        block = np.ascontiguousarray(across[first : stop + 1])  # read once, in the order of the file
        yield start, stop, (_block_slide(block, plane - first) for plane in range(start, stop))


def _block_slide(block: np.ndarray, place: int) -> Slide:
    before, after = max(0, place - 1), min(len(block) - 1, place + 1)
    return Slide(Path("plane"), ThreePlanes((block[before], block[place], block[after])))


def predict_volume(
    stages: Sequence[Stage],
    volume: GreyVolume,
    axes: Sequence[str],
    scratch: Path,
    forward: StageForward = forward_batch,
    goes_on: Callable[[float], bool] = lambda megapixels: True,
) -> np.ndarray:
    """The probability of each voxel, averaged over the planes of each axis.

    Where time runs out, what there is counts: planes that no axis came to are empty.

    Args:
        stages: The ensemble, of one class.
        volume: The volume.
        axes: Of `VOLUME_AXES`; the first is always made.
        scratch: A folder for the map's file.
        forward: Takes each batch through a stage.
        goes_on: Asked before each further axis whether there is time for so many megapixels.

    Returns:
        float16 (D, H, W), mapped from a file.
    """
    shape = volume.values.shape
    map_DHW: np.ndarray = np.memmap(scratch / "probabilities.bin", np.float16, "w+", shape=shape)
    for made, axis in enumerate(axes):
        if made and not goes_on(volume.values.size / 1e6):
            logger.warning("%s: predicted along %s alone, for want of time", volume.path, ", ".join(axes[:made]))
            break
        means = np.moveaxis(map_DHW, VOLUME_AXES.index(axis), 0)
        for start, stop, slides in plane_slides(volume.values, axis):
            block = np.array(means[start:stop])
            try:
                for mean_HW, slide in zip(block, slides, strict=True):
                    probs_HW = predict_probabilities(stages, slide, volume.voxel_um, forward)[0]
                    # A running mean: what is there weighs as many axes as were made before.
                    mean_HW += (probs_HW - mean_HW) / (made + 1)
            except OutOfTimeError:
                logger.warning("%s: time ran out in plane %d to %d along %s", volume.path, start, stop, axis)
                return map_DHW
            finally:
                means[start:stop] = block
    return map_DHW


def cut_volume(map_DHW: np.ndarray, threshold: float, manifest: Manifest) -> list[Runs]:
    """The mask of each slice: components of the volume above the threshold that hold a seed and enough voxels.

    Args:
        map_DHW: Probabilities.
        threshold: A voxel is mask where its probability is at least this.
        manifest: Says the seed threshold (0: every component stays) and the least voxels.
    """
    settings = manifest.volume or VolumeConfig()
    low = [runs_from_mask(probs_HW >= threshold) for probs_HW in map_DHW]
    if manifest.seed_threshold <= threshold:
        return clean_volume(low, None, settings.min_voxels) if settings.min_voxels > 1 else low
    seeds = [runs_from_mask(probs_HW >= manifest.seed_threshold) for probs_HW in map_DHW]
    return clean_volume(low, seeds, settings.min_voxels)


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
