"""What an experiment on objects is trained with: channels of its network, and settings that do not go with objects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from histofold.core.faults import Fault, InputError
from histofold.data.store import DatasetInfo
from histofold.schema.experiment import Experiment
from histofold.schema.network import is_detector
from histofold.schema.objects import DENSE_MAPS
from histofold.schema.sam import SAM

_NOT_OF_DETECTORS = ("organ", "pixel_size", "deep_supervision", "organ_weights")


def network_classes(info: DatasetInfo, competition_classes: tuple[str, ...], architecture: str) -> tuple[str, ...]:
    """Names of a network's channels: the classes, and of a dense network of objects boundary and distance."""
    is_dense = info.task == "instances" and not is_detector(architecture) and architecture != SAM
    return (*competition_classes, *DENSE_MAPS) if is_dense else competition_classes


def completed_for_objects(experiment: Experiment, info: DatasetInfo, folder: Path) -> Experiment:
    """The experiment as it is trained on a dataset: with as many channels as objects need, where it is one of objects.

    Args:
        experiment: As it was written; `model.classes` is that of the objects, or of the channels.
        info: Of the dataset.
        folder: The dataset, for the message.

    Raises:
        InputError: With every setting that does not go with the dataset's task.
    """
    model, loss, file = experiment.model, experiment.loss, "experiment"
    faults = []
    if model.organs and info.task != "masks":
        rule = f"images of {info.competition} are not told apart by what they show"
        faults.append(Fault("model.organs", file, rule, "leave it out"))
    if info.task != "instances":
        if is_detector(model.architecture):
            rule = f"{model.architecture} finds single objects, and the tiles of {folder} hold masks"
            remedy = "choose a network of masks, as unet, or build a dataset of a competition of objects"
            faults.append(Fault("model.architecture", file, rule, remedy))
    elif is_detector(model.architecture):
        rule = f"{model.architecture} has losses of its own and no heads beside them"
        faults += [
            Fault(f"loss.{name}", file, rule, "leave it out") for name in _NOT_OF_DETECTORS if getattr(loss, name)
        ]
    elif model.architecture != SAM:
        if model.activation != "sigmoid":
            rule = "an object, its boundary and its distance do not exclude each other"
            faults.append(Fault("model.activation", file, rule, 'write "sigmoid", or leave it out'))
        if loss.detector:
            rule = f"{model.architecture} is no detector"
            faults.append(Fault("loss.detector", file, rule, "leave it out, or choose maskrcnn"))
        experiment = replace(experiment, model=replace(model, classes=1 + len(DENSE_MAPS)))
    if faults:
        raise InputError(faults)
    return experiment
