"""Dice of held-out slides while a fold trains."""

from __future__ import annotations

import numpy as np
import torch
from tqdm import tqdm

from histofold.competitions.base import masks_dice
from histofold.core.faults import Fault, InputError
from histofold.predict.image import predict_masks
from histofold.predict.stages import stages_of
from histofold.schema.sample import Sample
from histofold.train.fold import FoldSetup
from histofold.train.processes import broadcast
from histofold.train.run import Run


def check_classes(setup: FoldSetup) -> None:
    """Refuse what cannot be validated.

    Raises:
        InputError: If the network has other classes than the slides.
    """
    classes, known = setup.experiment.model.classes, setup.manifest.classes
    if classes != len(known):
        words = "one class" if len(known) == 1 else f"the {len(known)} classes {', '.join(known)}"
        rule = f"whole slides are predicted, and so validated, for {words}, not for {classes}"
        raise InputError([Fault("model.classes", "experiment", rule, f"set it to {len(known)}")])


def validate(run: Run, setup: FoldSetup, most: int | None = None) -> dict[str, float]:
    """Dice by id of held-out slides with the averaged weights; their mean joins `run.scores` on every process.

    Args:
        run: The run.
        setup: Its fold.
        most: Most slides, spread evenly; all of them where it is None.

    Returns:
        Empty on all processes but the first one, which is the one that predicts.
    """
    by_id: dict[str, float] = {}
    if run.accelerator.is_main_process:
        samples = setup.validation
        if most is not None and len(samples) > most:
            samples = [samples[i] for i in np.linspace(0, len(samples) - 1, most).round().astype(int)]
        by_id = validate_slides(run.averaged(), setup, samples)
    run.scores.append(broadcast(float(np.mean(list(by_id.values()))) if by_id else 0.0, run.accelerator))
    return by_id


def validate_slides(model: torch.nn.Module, setup: FoldSetup, samples: list[Sample]) -> dict[str, float]:
    """Dice of whole slides, the mean over classes, through the predict layer, at the threshold 0.5."""
    was_training = model.training
    stages = stages_of(model.eval(), setup.manifest)
    by_id = {}
    for sample in tqdm(samples, desc="validate", unit="slide", leave=False, dynamic_ncols=True):
        (masks,) = predict_masks(stages, sample, [0.5], setup.competition.never_empty)
        by_id[sample.id] = masks_dice(masks, setup.competition.target(sample))
    model.train(was_training)
    return by_id
