"""Whole slides of a validation, predicted as objects and scored as their host does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from tqdm import tqdm

from histofold.competitions.base import ObjectCompetition
from histofold.competitions.objects import covered_pixels
from histofold.core.log import logger
from histofold.core.objects.detections import Detections
from histofold.imaging.slide import open_sample
from histofold.models.folding import fold_norms
from histofold.predict.objects.image import predict_detections
from histofold.predict.stages import stages_of
from histofold.schema.sample import Sample
from histofold.train.fold import FoldSetup
from histofold.train.log import OnSlide


def validate_objects(
    model: torch.nn.Module, setup: FoldSetup, samples: Sequence[Sample], on_slide: OnSlide | None = None
) -> tuple[float, dict[str, float]]:
    """The host's metric over whole slides through the predict layer, and that of each slide alone.

    Where no slide has an object there is none: 0 stands for it, with a warning.

    Args:
        model: A plain network.
        setup: The fold.
        samples: Some of its slides.
        on_slide: Is given each slide with the masks of its objects, true and found.
    """
    was_training = model.training
    folded = fold_norms(model.eval(), setup.manifest.preprocessing.slices)  # as it will predict
    stages = stages_of(folded, setup.manifest)
    competition = cast(ObjectCompetition, setup.competition)
    found: dict[str, Detections] = {}
    for sample in tqdm(samples, desc="validate", unit="slide", leave=False, dynamic_ncols=True):
        with open_sample(sample) as slide:
            found[sample.id] = predict_detections(stages, slide, sample.pixel_size_um)
        if on_slide is not None:
            on_slide(sample, competition.target(sample), covered_pixels(found[sample.id].objects))
    model.train(was_training)
    score = competition.score_objects(found, samples)
    if math.isfinite(score.mean):
        return score.mean, score.by_id
    logger.warning("fold %d: the slides of a validation have no object: its %s counts as 0", setup.fold, setup.metric)
    return 0.0, score.by_id
