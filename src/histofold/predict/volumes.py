"""A volume seen along its axes: every plane of every axis through the ensemble, averaged in a map on disk.

Grey levels and probabilities lie in files beside the result, and a block of planes at a time in memory, so that memory
does not grow with the depth. A plane is a slide like any other, its neighbours in the channels around the middle one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from histofold.core.log import logger
from histofold.core.rle.runs import Runs, runs_from_mask
from histofold.core.volumes import clean_volume
from histofold.imaging.planes import GreyVolume, plane_slides
from histofold.predict.image import StageForward, forward_batch, predict_probabilities
from histofold.predict.stages import OutOfTimeError, Stage
from histofold.schema.manifest import Manifest
from histofold.schema.volumes import VOLUME_AXES, VolumeConfig

_ONE_AS_BITS = 0x3C00  # 1.0 as float16


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
    reach = max(stage.manifest.preprocessing.channels for stage in stages) // 2
    map_DHW: np.ndarray = np.memmap(scratch / "probabilities.bin", np.float16, "w+", shape=shape)
    for made, axis in enumerate(axes):
        if made and not goes_on(volume.values.size / 1e6):
            logger.warning("%s: predicted along %s alone, for want of time", volume.path, ", ".join(axes[:made]))
            break
        means = np.moveaxis(map_DHW, VOLUME_AXES.index(axis), 0)
        for start, stop, slides in plane_slides(volume.values, axis, reach):
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


def share_probability(map_DHW: np.ndarray, share: float) -> float:
    """The probability that a share of a volume's voxels reaches, the most probable ones: a percentile of its own.

    It is exact, from how often each value occurs: float16 has 15,361 values from 0 to 1, in the order of their bits.

    Args:
        map_DHW: Probabilities, float16; a plane at a time is read.
        share: Of all voxels, in (0, 1).

    Returns:
        The highest probability that at least so many voxels have, and never 0: where fewer have any, all of those.
    """
    counts = np.zeros(_ONE_AS_BITS + 1, np.int64)
    for probs_HW in map_DHW:
        counts += np.bincount(np.ascontiguousarray(probs_HW).view(np.uint16).ravel(), minlength=len(counts))
    reached = counts[::-1].cumsum()  # by 1, then by the next lower value
    place = int(reached.searchsorted(math.ceil(share * map_DHW.size)))
    return float(np.uint16(max(1, _ONE_AS_BITS - place)).view(np.float16))


def cut_probability(map_DHW: np.ndarray, threshold: float, manifest: Manifest) -> float:
    """What a threshold means in a volume: itself, or the probability that cuts off a share of the voxels."""
    most = (manifest.volume or VolumeConfig()).most_share
    return share_probability(map_DHW, (1 - threshold) * most) if most else threshold


def cut_volume(map_DHW: np.ndarray, threshold: float, manifest: Manifest) -> list[Runs]:
    """The mask of each slice: components of the volume above the threshold that hold a seed and enough voxels.

    Args:
        map_DHW: Probabilities, float16.
        threshold: A voxel is mask where its probability is at least what `cut_probability` makes of this.
        manifest: Says the seed threshold (0: every component stays), the least voxels and what thresholds are of.
    """
    settings = manifest.volume or VolumeConfig()
    threshold = cut_probability(map_DHW, threshold, manifest)
    low = [runs_from_mask(probs_HW >= threshold) for probs_HW in map_DHW]
    if manifest.seed_threshold <= threshold:
        return clean_volume(low, None, settings.min_voxels) if settings.min_voxels > 1 else low
    seeds = [runs_from_mask(probs_HW >= manifest.seed_threshold) for probs_HW in map_DHW]
    return clean_volume(low, seeds, settings.min_voxels)
