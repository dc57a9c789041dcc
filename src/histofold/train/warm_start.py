"""Weights of an earlier run that a fold starts from, and the proof that they have not seen what it is scored on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from histofold.core.faults import Fault, InputError, listed_ids
from histofold.core.log import logger
from histofold.data.leaks import seen_images
from histofold.models.build import broken_tensors
from histofold.schema.experiment import ModelConfig
from histofold.schema.run_record import RECORD_NAME, read_record
from histofold.schema.sample import Sample

FILE_PREFIX = "file:"


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """Where a fold starts."""

    path: Path
    """The .safetensors file of a whole network."""
    competition: str = ""
    """Name of the adapter whose ids it was trained on; empty where nothing says so."""
    trained_on: dict[str, str] = field(default_factory=dict)
    """File stamp by id of what it was trained on."""


def find_initial_weights(
    model: ModelConfig, fold: int, forbidden: Sequence[Sample], competition: str, *, slices: int = 3
) -> InitialWeights | None:
    """The weights that `model.init` names for a fold; None where it is empty.

    Args:
        model: The network's settings.
        fold: The fold that is trained.
        forbidden: What the weights must not have seen, as `forbidden_samples` gives it.
        competition: Name of the adapter of these samples.
        slices: Of a volume that the network sees.

    Raises:
        InputError: If there are none for this fold, they are of another network, or were trained on what the fold is
            scored on; a run that does not say what it was trained on is refused, a bare file only warned of.
    """
    if not model.init:
        return None
    bare = model.init.startswith(FILE_PREFIX)
    path = Path(model.init.removeprefix(FILE_PREFIX))
    path = path if bare else path / f"fold{fold}" / "model.safetensors"
    if not path.is_file():
        raise InputError([_no_weights(path, bare)])
    record_path = path.parent / RECORD_NAME
    if bare and not record_path.is_file():
        logger.warning("nothing says what %s was trained on: if on images that are scored here, it leaks", path)
        return InitialWeights(path=path)
    network = (model.architecture, model.arguments(slices))
    return _recorded_weights(path, network, fold, forbidden, competition)


def _no_weights(path: Path, bare: bool) -> Fault:
    """What there is instead of the file that is missing."""
    if bare:
        return Fault("model.init", str(path), "no such file", f"check the path after `{FILE_PREFIX}`")
    known = ", ".join(sorted(found.parent.name for found in path.parents[1].glob("fold*/model.safetensors")))
    remedy = f"finished there: {known or 'none'}; train it, or name one file for all folds: {FILE_PREFIX}PATH"
    return Fault("model.init", str(path), "no finished fold here", remedy)


def _recorded_weights(
    path: Path, network: tuple[str, dict[str, Any]], fold: int, forbidden: Sequence[Sample], competition: str
) -> InitialWeights:
    record, file = read_record(path.parent), str(path.parent / RECORD_NAME)
    faults = []
    if (record.architecture, record.arguments) != network:
        rule = f"weights of {record.architecture} with {record.arguments}"
        faults.append(Fault("model.init", file, rule, "give the experiment the same network"))
    seen = seen_images(record.trained_on, record.competition, forbidden, competition)
    if seen:
        rule = f"trained on {len(seen)} images that fold {fold} is scored on ({listed_ids(seen)}): it leaks"
        faults.append(Fault("model.init", file, rule, "start from a run of the same folds"))
    if faults:
        raise InputError(faults)
    return InitialWeights(path=path, competition=record.competition, trained_on=record.trained_on)


def load_initial_weights(model: torch.nn.Module, path: Path) -> None:
    """Load the weights of a whole network, in place.

    Raises:
        InputError: With the tensors that are missing, left over, of another shape, or no finite numbers.
    """
    try:
        state = load_file(path)
    except Exception as error:  # safetensors has no type of its own for a broken file
        rule = f"not a safetensors file ({error})"
        raise InputError([Fault("model.init", str(path), rule, "name a model.safetensors")]) from error
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if differing:
        rule = f"{len(differing)} tensors are not those of the experiment's network ({listed_ids(differing)})"
        raise InputError([Fault("model.init", str(path), rule, "give the experiment the same network")])
    broken = broken_tensors(state)
    if broken:
        rule = f"{len(broken)} tensors hold values that are no finite numbers ({listed_ids(broken)})"
        raise InputError([Fault("model.init", str(path), rule, "the training broke: take other weights")])
    model.load_state_dict(state)
    logger.info("initial weights: %d tensors of %s", len(state), path)
