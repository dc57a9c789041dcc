"""Which settings decide the weights of a run, and in which of them two runs differ."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from histofold.schema.experiment import Experiment
from histofold.schema.parse import plain, to_toml

_WITHOUT_EFFECT = ("workers", "tracker", "save_every")
_VALIDATIONS = ("validate_every", "validate_images")
"""Settings of `train` that decide the weights only where the learning rate follows the scores."""


def training_settings(experiment: Experiment) -> dict[str, Any]:
    """The settings that decide the weights; how often to look and to save, who is told, and where things lie, do not.

    Data and initial weights are told by their content elsewhere. A preset of the augmentation is what it stands for.
    """
    settings = plain(experiment)
    settings["augment"] = plain(experiment.augment.resolved())
    for name in _without_effect(experiment):
        del settings["train"][name]
    del settings["data"], settings["predict"], settings["model"]["init"], settings["augment"]["preset"]
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
        if before.get(key) != after.get(key) and key not in skipped and not key.startswith("predict.")
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
