"""States of a run on disk, whole or not at all, and what tells one run from another."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import torch
from safetensors.torch import save_file

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.data.changes import changed_inputs
from histofold.models.shells import Shell
from histofold.schema.experiment import Experiment
from histofold.schema.files import write_atomically, written_whole
from histofold.schema.parse import plain, to_toml

NETWORK_FILES = ("model.safetensors", "config.json")
"""Files of a finished fold that hold its network."""
_WITHOUT_EFFECT = ("workers", "tracker", "save_every")
_ELSEWHERE = ("predict.", "objects.", "data.dataset", "data.root", "model.init")
"""Settings that decide no weights, and places: what lies there is named by its content."""
_VALIDATIONS = ("validate_every", "validate_images")
"""Settings of `train` that decide the weights only where the learning rate follows the scores."""


def state_paths(folder: Path) -> list[Path]:
    """The states of a fold, oldest first."""
    return sorted(folder.glob("state_*.pt"))


def save_state(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write a state atomically and drop all but the last two."""
    path = folder / f"state_{step:07d}.pt"
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    for old in state_paths(folder)[:-2]:
        old.unlink()
    return path


def newest_state(folder: Path) -> dict[str, Any] | None:
    """The newest state that can be read, whichever run it belongs to; None where there is none."""
    for path in reversed(state_paths(folder)):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            logger.warning("%s cannot be read (%s): taking the state before it", path, error)
    return None


def load_state(
    folder: Path, digest: str, experiment: Experiment, inputs: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any] | None:
    """The newest state that can be read, None where there is none.

    Args:
        folder: runs/E/fold{k}, with the experiment.toml that the state was made with.
        digest: Of the run that wants it.
        experiment: Of the run that wants it.
        inputs: What decides that run beside its settings.

    Raises:
        InputError: If it belongs to another experiment or dataset: resuming would mix two runs.
    """
    state = newest_state(folder)
    if state is None and state_paths(folder):
        logger.warning("%s: none of its states can be read: training begins again at step 0", folder)
    if state is not None and state["digest"] != digest:
        refuse_other_run(folder, changed_inputs(state.get("inputs", {}), inputs), experiment, "the state")
    return state


def refuse_other_run(folder: Path, data: Sequence[str], experiment: Experiment, what: str) -> NoReturn:
    """Refuse to go on with what another run has left, and say in what it differs.

    Args:
        folder: runs/E/fold{k}.
        data: What of its data has changed, in words, as `changed_inputs` gives it.
        experiment: The experiment that would go on.
        what: What was left there, in words.

    Raises:
        InputError: Always, with the settings and the data that differ.
    """
    settings = changed_settings(folder / "experiment.toml", experiment)
    words = [f"was made with other settings: {'; '.join(settings)}"] if settings else []
    words += [f"was made of what has changed since: now there are {'; '.join(data)}"] if data else []
    rule = f"{what} {', and '.join(words) or 'is of other data or first weights'}"
    remedy = f"undo the change, train under another name, or remove {folder} to train it anew"
    raise InputError([Fault(folder.name, str(folder), rule, remedy)])


def save_weights(model: torch.nn.Module, path: Path) -> None:
    """Write a network's weights as safetensors, atomically, in plain memory order."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with written_whole(path) as temporary:
        save_file(tensors, temporary)


def save_network(model: torch.nn.Module, folder: Path) -> None:
    """Write a fold's model.safetensors and, of a network of smp, the config.json that smp builds it from.

    With both `segmentation_models_pytorch.from_pretrained(folder)` gives the network, without our package. One that
    knows organs has none.

    Args:
        model: As `build_model` gives it.
        folder: runs/E/fold{k}.
    """
    weights, config = (folder / name for name in NETWORK_FILES)
    net = model
    while isinstance(net, Shell):
        net = net.net
    config.unlink(missing_ok=True)  # of other weights
    save_weights(model, weights)
    if type(net).__module__.startswith("segmentation_models_pytorch.") and not hasattr(net, "film"):
        settings = {**net.config, "_model_class": type(net).__name__}  # type: ignore[dict-item]
        write_atomically(config, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def training_settings(experiment: Experiment) -> dict[str, Any]:
    """The settings that decide the weights; how often to look and save, trackers and places do not.

    Data, initial weights and an own pipeline are named by their content elsewhere. A preset of the augmentation is what
    it stands for.
    """
    settings = plain(experiment)
    settings["augment"] = plain(experiment.augment.resolved())
    for name in _without_effect(experiment):
        del settings["train"][name]
    del settings["data"], settings["predict"], settings["objects"], settings["model"]["init"]
    del settings["augment"]["preset"], settings["augment"]["pipeline"]
    return settings


def changed_settings(old_toml: Path, new: Experiment) -> list[str]:
    """What differs between the experiment that a run was begun with and another, as far as it may decide the weights.

    Args:
        old_toml: The experiment.toml of the run; keys that it leaves out have their defaults.
        new: The experiment that is to go on with it.

    Returns:
        One text for each setting that differs: its dotted name, and what it was and is. Empty where all are the same
        (then data or initial weights have changed) or the file is missing or no TOML.
    """
    try:
        old = _dotted(tomllib.loads(old_toml.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []
    before, after = _dotted(_as_toml(Experiment())) | old, _dotted(_as_toml(new))
    skipped = tuple(f"train.{name}" for name in _without_effect(new))
    return [
        f"{key}: {_told(before, key)} then, {_told(after, key)} now"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key not in skipped and not key.startswith(_ELSEWHERE)
    ]


def _without_effect(experiment: Experiment) -> tuple[str, ...]:
    return _WITHOUT_EFFECT if experiment.optim.schedule == "plateau" else (*_WITHOUT_EFFECT, *_VALIDATIONS)


def _as_toml(experiment: Experiment) -> dict[str, Any]:
    """What `tomllib` would read of it, so that both sides have the same types."""
    return tomllib.loads(to_toml(experiment))


def _dotted(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested tables under their dotted names; arrays of tables stay whole."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        values |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values


def _told(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "not set"
