"""A search over the settings of an experiment: which ones, by what rule, and what counts as good."""

from __future__ import annotations

import itertools
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal

from histofold.core.faults import Fault, InputError
from histofold.schema.experiment import Experiment
from histofold.schema.parse import load_toml, parse_dataclass, plain, read_toml

MOST_GRID_POINTS = 10_000


@dataclass(frozen=True, kw_only=True)
class SettingSpace:
    """What one setting may become: one of some values, or a number of a range."""

    values: tuple[Any, ...] = ()
    """The values, one after the other."""
    low: float | None = None
    """Lower end of a range."""
    high: float | None = None
    """Upper end of a range, included."""
    log: bool = False
    """Draw evenly on a logarithmic scale."""
    step: float | None = None
    """Distance of the range's values; without it any number of the range, of whole ones every number."""

    def __post_init__(self) -> None:
        if self.values:
            if not (self.low is self.high is self.step is None and not self.log):
                raise ValueError("values and a range (low, high, log, step) exclude each other: keep one of them")
            return
        if self.low is None or self.high is None:
            raise ValueError("write a list of values, or a range with low and high")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low={self.low} must be less than high={self.high}, both finite")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError(f"a logarithmic range needs low={self.low} above 0, and takes no step")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step={self.step} must lie in (0, high - low]")

    def ends(self) -> tuple[Any, ...]:
        """All values of a list; low and high of a range."""
        return self.values or (self.low, self.high)

    def grid_values(self) -> tuple[Any, ...]:
        """The values as a grid takes them; none of a range without a step."""
        if self.values or self.step is None or self.low is None or self.high is None:
            return self.values
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        # Twelve digits, so that 0.1 + 2 * 0.1 is 0.3 and not a little more.
        return tuple(float(f"{self.low + k * self.step:.12g}") for k in range(count))


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A whole search; see `experiments/sweep_lr.toml` for an example."""

    experiment: Experiment = field(default_factory=Experiment)
    """The experiment that every trial starts from: the name of its file beside this one, or its tables."""
    space: dict[str, SettingSpace]
    """What varies: dotted settings of the experiment, each with a list of values or a range."""
    folds: tuple[int, ...] = (0,)
    """Folds that each trial trains and is scored on; the score is their mean."""
    metric: Literal["val_dice", "shift", "loss"] = "val_dice"
    """What decides: the final Dice on the held-out slides, their shift score as `histofold evaluate --shift` says, or
    the training loss over the last tenth of the log."""
    sampler: Literal["grid", "random", "tpe"] = "grid"
    """Every combination, random ones, or ones drawn where earlier trials were good (tree of Parzen estimators)."""
    trials: int = 0
    """Number of trials; a grid has as many as it has points, and takes none."""
    seed: int = 0
    """Seed of what is drawn; trial n of a random search depends on the seed and n alone."""
    pruner: Literal["none", "median", "halving"] = "none"
    """Stop a trial whose Dice in the first fold's validations is behind: below the median of the others, or by
    successive halving. Only where that Dice decides."""

    def __post_init__(self) -> None:
        if not self.space:
            raise ValueError("space is empty: name at least one setting and its values")
        if not self.folds or len(set(self.folds)) < len(self.folds) or min(self.folds) < 0:
            raise ValueError(f"folds={list(self.folds)}: name each fold to hold out once, and one at least")
        if self.sampler == "grid" and self.trials:
            raise ValueError(f"trials={self.trials}: a grid runs all of its points; leave trials out")
        if self.sampler != "grid" and self.trials < 1:
            raise ValueError(f"trials={self.trials} must be at least 1 for the sampler {self.sampler}")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative")
        if self.experiment.train.steps == 0:
            raise ValueError("the experiment trains nothing (train.steps = 0): score it with `histofold evaluate`")
        if self.metric != "val_dice" and self.pruner != "none":
            rule = f"pruner={self.pruner!r} looks at validation scores, and metric={self.metric!r} decides"
            raise ValueError(f"{rule}: set metric to val_dice, or no pruner")

    def grid(self) -> list[dict[str, Any]]:
        """The points of a grid, the last setting the fastest; empty for other samplers."""
        if self.sampler != "grid":
            return []
        columns = [[as_setting(name, value) for value in space.grid_values()] for name, space in self.space.items()]
        return [dict(zip(self.space, point, strict=True)) for point in itertools.product(*columns)]

    def size(self) -> int:
        """Number of trials."""
        return self.trials or math.prod(len(space.grid_values()) for space in self.space.values())

    def first_point(self) -> dict[str, Any]:
        """One legal combination: the first value or the lower end of each setting."""
        return {name: as_setting(name, space.ends()[0]) for name, space in self.space.items()}


def load_sweep(path: Path) -> SweepConfig:
    """Read a search from its TOML file.

    Raises:
        InputError: With all faults of the file, of its experiment and of the values in its space.
    """
    data = read_toml(path)
    faults: list[Fault] = []
    try:
        data["experiment"] = plain(_base_experiment(data.get("experiment", ""), path))
    except InputError as error:
        faults += error.faults
        data.pop("experiment", None)  # the defaults stand in, so that the other faults are seen too
    space = data.get("space", {})
    if isinstance(space, dict):
        data["space"] = _flat_space(space)
    try:
        config = parse_dataclass(SweepConfig, data, str(path))
    except InputError as error:
        raise InputError([*faults, *error.faults]) from error
    faults += _space_faults(config, str(path)) if not faults else []
    if faults:
        raise InputError(faults)
    return config


def with_settings(experiment: Experiment, settings: Mapping[str, Any], source: str) -> Experiment:
    """The experiment with some dotted settings changed.

    Args:
        experiment: Where to start from.
        settings: Dotted name to value; a value replaces the whole setting, be it a number, a list or a table.
        source: Name of the file, for the messages.

    Raises:
        InputError: For unknown settings (with the known ones), wrong types and values that are refused.
    """
    data = plain(experiment)
    faults = []
    for name, value in settings.items():
        *tables, key = name.split(".")
        table = data
        for part in tables:
            table = table.setdefault(part, {}) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table[key] = plain(value)
        else:
            faults.append(Fault(name, source, f"{'.'.join(tables)} is no table", "name a setting of the experiment"))
    try:
        changed = parse_dataclass(Experiment, data, source)
    except InputError as error:
        faults += error.faults
    if faults:
        raise InputError([Fault(f"space.{fault.id}", source, fault.rule, fault.remedy) for fault in faults])
    return changed


def setting_type(name: str) -> Any:
    """The type of a dotted setting, None left out of what is optional; None where there is no such setting."""
    hint: Any = Experiment
    for part in name.split("."):
        if is_dataclass(hint):
            hint = typing.get_type_hints(hint).get(part)
        elif typing.get_origin(hint) is dict:
            hint = typing.get_args(hint)[1]
        else:
            return None
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint


def _base_experiment(value: Any, path: Path) -> Experiment:
    """The experiment that a sweep starts from: of a file beside the sweep's, or of its own tables."""
    if isinstance(value, dict):
        return parse_dataclass(Experiment, value, str(path))
    if isinstance(value, str) and value:
        return load_toml(Experiment, path.parent / value)
    remedy = 'write the name of its file, as experiment = "unet_resnet34.toml", or its tables, as [experiment.optim]'
    raise InputError([Fault("experiment", str(path), "no experiment is named", remedy)])


def _flat_space(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name to list or range, whether the file writes `"optim.lr"`, `optim.lr` or a table [space.optim]."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, list):
            flat[prefix + key] = {"values": value}
        elif isinstance(value, dict) and not {"low", "high", "values"} & value.keys():
            flat |= _flat_space(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _space_faults(config: SweepConfig, source: str) -> list[Fault]:
    """Everything in the space that could not be trained, each fault once."""
    faults = []
    for name, space in config.space.items():
        faults += _setting_faults(config, name, space, source)
        inside = [other for other in config.space if other.startswith(f"{name}.")]
        faults += [Fault(f"space.{name}", source, f"holds {other} too", "name only one of them") for other in inside]
    if faults or config.sampler != "grid":
        return faults
    if config.size() > MOST_GRID_POINTS:
        rule, remedy = f"the grid has {config.size()} points", 'shorten the lists, or use sampler = "random"'
        return [Fault("space", source, rule, remedy)]
    for point in config.grid():
        faults += _refusal(config, point, source)
    return list(dict.fromkeys(faults))


def _setting_faults(config: SweepConfig, name: str, space: SettingSpace, source: str) -> list[Fault]:
    """The faults of one setting's values, each taken alone where no grid is to come."""
    id = f"space.{name}"
    kind = setting_type(name)
    if not space.values and kind not in (int, float, None):
        return [Fault(id, source, "a range needs a number setting", "write a list of values")]
    numbers = [number for number in (space.low, space.high, space.step) if number is not None]
    if kind is int and any(number != int(number) for number in numbers):
        return [Fault(id, source, "the setting is a whole number", "write whole low, high and step")]
    if config.sampler == "grid" and not space.grid_values():
        return [Fault(id, source, "a range has no end of values for a grid", "write a list, or give a step")]
    texts = [json.dumps(value, sort_keys=True, default=str) for value in space.values]
    if kind is float:
        texts = [str(float(value)) if isinstance(value, int) else str(value) for value in space.values]
    if len(set(texts)) < len(texts):
        return [Fault(id, source, "a value stands twice", "write each value once")]
    if config.sampler == "grid" and kind is not None:
        return []  # whole points are tried later: a value may need another setting's value beside it
    faults = [fault for value in space.ends() for fault in _refusal(config, {name: value}, source)]
    return list(dict.fromkeys(faults))


def _refusal(config: SweepConfig, settings: Mapping[str, Any], source: str) -> list[Fault]:
    try:
        with_settings(config.experiment, {name: as_setting(name, value) for name, value in settings.items()}, source)
    except InputError as error:
        return error.faults
    return []


def as_setting(name: str, value: Any) -> Any:
    """A number of a range as the setting wants it: whole ones as int."""
    return int(value) if setting_type(name) is int and isinstance(value, float) and value == int(value) else value
