"""The experiment of `histofold demo`: small, for small machines, at the scale of whatever images are there."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from histofold.competitions.base import Competition
from histofold.core.faults import ImageError, InputError, listed_ids
from histofold.core.log import logger
from histofold.data.changes import changed_contents
from histofold.data.contents import truth_digest
from histofold.data.store import built_info
from histofold.data.tiles.masks import masked_fraction
from histofold.imaging.slide import open_sample
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import AugmentConfig, Experiment, ModelConfig, OptimConfig, PredictConfig, TrainConfig
from histofold.schema.network import SHIPPED_ENCODER
from histofold.schema.objects import DENSE_MAPS
from histofold.schema.preprocessing import Preprocessing, has_pixel_size
from histofold.schema.sample import Sample

NETWORK_SIDE = 300
"""Long side of a typical image at the network's scale, in pixels."""
WHOLE_SIDE = 320
"""Long side of an image whose pixel size is not known: about `NETWORK_SIDE`, in multiples of 32."""
NETWORK_SIDES = {"kidney_2020": 400}
"""The same where it is another, by competition: sections of whole organs hold smaller objects."""
OBJECT_PIXELS_UM = {"vasculature_2023": 1.0, "vrdl_nuclei": 0.4}
"""The network's scale where single objects are wanted, which must be some pixels wide however large the images are."""
VOXEL_UM = 50.0
"""The network's scale where volumes are wanted: that of most of the host's."""
SYNTHETIC_STEPS = {"masks": 260, "instances": 120, "volumes": 250}
"""By task: on two cores with bf16 the whole chain on masks takes five minutes; an image holds dozens of objects."""
REAL_STEPS = 600


def demo_experiment(
    competition: Competition,
    samples: Sequence[Sample],
    dataset: Path,
    *,
    steps: int | None,
    folds: int,
    seed: int,
    synthetic: bool,
) -> Experiment:
    """A small experiment for small machines: the scale follows the images, the work is counted in steps.

    Args:
        competition: The adapter that gave the samples.
        samples: All training samples.
        dataset: Where the dataset is to be built.
        steps: Optimisation steps of each fold; None for the usual number.
        folds: Number of folds; of volumes at most as many as there are kidneys.
        seed: Of the folds and of the training.
        synthetic: Whether the images were drawn: their hidden test holds other stains than the training slides; a real
            folder's may hold one alone.
    """
    fractions = [masked_fraction(competition.target(sample)) for sample in samples]
    if steps is None:
        steps = SYNTHETIC_STEPS[competition.task] if synthetic else REAL_STEPS
    plain = AugmentConfig(crop=160 if synthetic or competition.task == "instances" else 192)
    scale = demo_preprocessing(samples, NETWORK_SIDES.get(competition.name, NETWORK_SIDE))
    if competition.name in OBJECT_PIXELS_UM:
        scale = replace(scale, target_pixel_size_um=OBJECT_PIXELS_UM[competition.name])
    other_stains = synthetic and competition.task == "masks"  # what is drawn of objects has the same stains throughout
    experiment = Experiment(
        data=DataConfig(dataset=str(dataset)),
        preprocessing=scale,
        tiles=TilesConfig(size=224, stride=112, area_bins=quartile_bins(fractions), folds=folds, seed=seed),
        augment=replace(plain, stain_transfer=0.4, grey=0.3) if other_stains else plain,
        model=ModelConfig(
            encoder=SHIPPED_ENCODER,
            encoder_weights="shipped",
            decoder_channels=(128, 64, 32, 24, 16),
            classes=len(competition.classes) + len(DENSE_MAPS) * (competition.task == "instances"),
        ),
        # What the encoder knows moves less than what begins at random.
        optim=OptimConfig(lr=2e-3, encoder_lr_factor=0.3, ema=0.98),
        train=TrainConfig(
            seed=seed,
            steps=steps,
            validate_every=math.ceil(steps / 4),  # the last is that of the end
            validate_images=8,
            save_every=50,
        ),
        predict=PredictConfig(tile=320, halo=32),
    )
    return _for_volumes(experiment, samples) if competition.task == "volumes" else experiment


def _for_volumes(experiment: Experiment, samples: Sequence[Sample]) -> Experiment:
    """The same where images are slices with their neighbours as channels, which no change of colours may mix."""
    folds = min(experiment.tiles.folds, len({sample.group for sample in samples}))
    return replace(
        experiment,
        preprocessing=replace(experiment.preprocessing, target_pixel_size_um=VOXEL_UM),
        # What is no tissue on a slide may well be on a slice, where the background is dark.
        tiles=replace(experiment.tiles, size=128, stride=64, min_tissue=0.0, folds=folds),
        augment=AugmentConfig(crop=128, colour=0.0, hed=0.0, thickness=0.4, pixel_size=0.3, detail=0.2, noise=0.15),
        # Three axes are three views already. Vessels three voxels wide are found far better half as large again.
        predict=PredictConfig(tile=160, halo=16, views=("identity@1.5",), seed_threshold=0.8),
    )


def changed_tiles(dataset: Path, experiment: Experiment) -> list[str]:
    """The settings of tiles and folds in which a built dataset differs from an experiment, from what to what.

    Args:
        dataset: The dataset; nothing differs where there is none.
        experiment: The experiment.
    """
    info = built_info(dataset)
    if info is None:
        return []
    then, now = vars(info.tiles), vars(experiment.tiles)
    return [f"tiles.{name}: {then[name]!r} then, {now[name]!r} now" for name in now if then[name] != now[name]]


def changed_since(dataset: Path, competition: Competition, samples: Sequence[Sample]) -> list[str]:
    """What a folder holds beside, instead of or without what an earlier demo built its dataset from, in words.

    Args:
        dataset: The dataset; nothing has changed where there is none.
        competition: The adapter that gave the samples.
        samples: All training samples that are there now.
    """
    info = built_info(dataset)
    if info is None or not info.contents:
        return []
    contents = info.contents
    now = {sample.id: sample for sample in samples}
    words = changed_contents(contents, now, partial(truth_digest, competition))
    for name, ids in (("new images", now.keys() - contents.keys()), ("images gone", contents.keys() - now.keys())):
        words += [f"{name}: {listed_ids(sorted(ids))}"] if ids else []
    return words


def quartile_bins(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Area bins at the quartiles of the images' mask fractions, so that none of the balanced bins is nearly empty."""
    low, middle, high = (round(float(q), 3) for q in np.quantile(fractions, [0.25, 0.5, 0.75]))
    return (low, middle, high) if 0 < low < middle < high < 1 else TilesConfig().area_bins


def demo_preprocessing(samples: Sequence[Sample], side: int = NETWORK_SIDE) -> Preprocessing:
    """A physical scale at which a typical image has `side` pixels; whole images where most pixel sizes are unknown.

    Of few that lack one each is read as an image of typical extent.
    """
    sides_um = []
    known = [sample for sample in samples if has_pixel_size(sample.pixel_size_um)]
    without = len(samples) - len(known)
    if 2 * len(known) < len(samples):
        if known:
            logger.warning("%d of %d images have no pixel size: all are read at one size", without, len(samples))
        return Preprocessing(scale_mode="whole", whole_size=WHOLE_SIDE)
    for sample in known:
        shape_hw = sample.shape_hw
        if shape_hw is None:
            try:
                with open_sample(sample) as slide:
                    shape_hw = slide.shape_hw
            except ImageError:
                continue
        sides_um.append(max(shape_hw) * float(sample.pixel_size_um or 0))
    if not sides_um:
        raise InputError("no image of the folder can be read: run `histofold check dataset`")
    scale = Preprocessing(target_pixel_size_um=round(statistics.median(sides_um) / side, 2))
    return replace(scale, whole_size=WHOLE_SIDE) if without else scale
