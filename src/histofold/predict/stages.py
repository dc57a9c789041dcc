"""An ensemble as stages: each is one way to see an image, and holds the passes (member, view) that see it so.

Members of another preprocessing, and views of another zoom, see an image at another scale: they are stages of their
own, which meet at the original size. Where time is short a `Level` says which passes are still made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch

from histofold.core.log import logger
from histofold.predict.devices import best_precision, device_lock
from histofold.predict.views import network_input, undo_view
from histofold.schema.manifest import Manifest
from histofold.schema.prediction import views_by_zoom


class OutOfTimeError(Exception):
    """The clock allows no further pass."""


@dataclass(frozen=True)
class Pass:
    """One network in one view: it sees every tile of its stage once."""

    member: int
    """Place of the network among all members of the ensemble."""
    view: str
    """Name of the view."""
    view_place: int
    """Place of the view among those of its package."""
    weight: float
    """Share of the member in the average, divided among its views."""


@dataclass(frozen=True)
class Level:
    """How much of an ensemble works: the first so many members, each in its first so many views."""

    members: int
    views: int

    def keeps(self, one: Pass) -> bool:
        """Whether a pass is still made."""
        return one.member < self.members and one.view_place < self.views


class Models(Protocol):
    """A module for each member: a list, or what loads a member when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> torch.nn.Module: ...


@dataclass(frozen=True)
class Networks:
    """All members of an ensemble on one device. Calling it maps uint8 tiles to float32 values, averaged over passes."""

    models: Models
    """A module for each member, in evaluation mode, on `device`, channels last."""
    device: torch.device
    """Where the forward passes run."""
    precision: torch.dtype
    """Autocast dtype; float32 switches autocast off."""
    in_turn: bool = False
    """Whether `models` loads a member when it is asked for: then all views of one come before the next."""

    def __call__(self, images_NHWC: np.ndarray, passes: Sequence[Pass], manifest: Manifest) -> np.ndarray:
        """Predict tiles.

        Args:
            images_NHWC: uint8 RGB tiles, their side divisible by 32.
            passes: What is averaged.
            manifest: Says how tiles are normalised, and whether probabilities or logits are averaged.

        Returns:
            float32 (N, K, H, W).

        Raises:
            ArithmeticError: If the result is not finite, even in full precision.
        """
        values_NKHW = self._average(images_NHWC, passes, manifest, self.precision)
        if np.isfinite(values_NKHW.sum(dtype=np.float64)):
            return values_NKHW
        if self.precision is not torch.float32:
            logger.warning("%s overflowed: the tiles are computed again in full precision", self.precision)
            values_NKHW = self._average(images_NHWC, passes, manifest, torch.float32)
        if not np.isfinite(values_NKHW).all():
            raise ArithmeticError("the network gives probabilities that are not numbers: its weights are broken")
        return values_NKHW

    def _average(
        self, images_NHWC: np.ndarray, passes: Sequence[Pass], manifest: Manifest, precision: torch.dtype
    ) -> np.ndarray:
        share = 1.0 / sum(one.weight for one in passes)
        with device_lock(self.device), torch.inference_mode():
            total_NKHW: torch.Tensor | None = None
            for one, logits_NKHW in self.outputs(self.on_device(images_NHWC), passes, manifest, precision):
                values_NKHW = logits_NKHW.float() if manifest.average == "logits" else logits_NKHW.float().sigmoid()
                values_NKHW = undo_view(values_NKHW, one.view) * (one.weight * share)
                total_NKHW = values_NKHW if total_NKHW is None else total_NKHW.add_(values_NKHW)
            assert total_NKHW is not None, "a stage has at least one pass"
            return np.ascontiguousarray(total_NKHW.cpu().numpy())

    def on_device(self, images_NHWC: np.ndarray) -> torch.Tensor:
        """Tiles as they are taken to the device, uint8 (N, 3, H, W)."""
        return torch.from_numpy(images_NHWC).to(self.device, non_blocking=True).permute(0, 3, 1, 2)

    def outputs(
        self, tiles_NCHW: torch.Tensor, passes: Sequence[Pass], manifest: Manifest, precision: torch.dtype
    ) -> Iterator[tuple[Pass, Any]]:
        """What the networks themselves give of tiles on the device, pass by pass; whoever calls has its lock."""
        if self.in_turn:
            passes = sorted(passes, key=lambda one: one.member)
        seen, inputs_NCHW = "", tiles_NCHW
        for one in passes:
            if one.view != seen:  # its input serves all members that follow
                seen, inputs_NCHW = one.view, network_input(tiles_NCHW, one.view, manifest.preprocessing)
            with torch.autocast(self.device.type, precision, enabled=precision is not torch.float32):
                output = self.models[one.member](inputs_NCHW)
            yield one, output


@dataclass(frozen=True)
class Stage:
    """One way to see an image, and the passes that see it so."""

    networks: tuple[Networks, ...]
    """The members on each device."""
    manifest: Manifest
    """Scale, tiles, batch and normalisation."""
    passes: tuple[Pass, ...]
    """View by view, the members of each in order."""
    share: float = 1.0
    """Part in the average of all stages."""
    place: int = 0
    """Place among the stages of the whole ensemble."""

    @property
    def threaded(self) -> bool:
        """Whether each device gets a thread: on the CPU the network runs where it is called."""
        return len(self.networks) > 1 or self.networks[0].device.type != "cpu"

    def passes_at(self, level: Level, begun: bool = False) -> tuple[Pass, ...]:
        """The passes that are left at a level; a stage that has begun keeps its first member and view."""
        if begun:
            first = self.passes[0]
            level = Level(max(level.members, first.member + 1), max(level.views, first.view_place + 1))
        return tuple(one for one in self.passes if level.keeps(one))


def full_level(stages: Sequence[Stage]) -> Level:
    """The level at which every pass is made."""
    passes = [one for stage in stages for one in stage.passes]
    return Level(1 + max(one.member for one in passes), 1 + max(one.view_place for one in passes))


def stages_at(stages: Sequence[Stage], level: Level) -> list[Stage]:
    """The stages that have passes left at a level, with these; a member's weight is divided among its views there."""
    passes = [stage.passes_at(level) for stage in stages]
    views = Counter(one.member for of_stage in passes for one in of_stage)
    weights = [sum(one.weight / views[one.member] for one in of_stage) for of_stage in passes]
    return [
        replace(stage, passes=of_stage, share=weight / sum(weights))
        for stage, of_stage, weight in zip(stages, passes, weights, strict=True)
        if of_stage
    ]


def build_stages(networks: Sequence[Networks], members: Sequence[tuple[Manifest, float]]) -> list[Stage]:
    """The stages of an ensemble.

    Args:
        networks: Its members on each device.
        members: For each member how it sees images, and its weight; neighbours that see alike share their stages.

    Raises:
        ValueError: If there are not as many networks as members, or one module stands twice.
    """
    for each in networks:
        if len(each.models) != len(members) or not members:
            raise ValueError(f"{len(each.models)} models and {len(members)} members: as many models as members")
        if not each.in_turn and len({id(each.models[place]) for place in range(len(members))}) < len(members):
            raise ValueError("one module stands twice in the ensemble: every member needs a module of its own")
    stages: list[Stage] = []
    for manifest, group in groupby(enumerate(members), key=lambda numbered: numbered[1][0]):
        weights = [(member, weight) for member, (_, weight) in group]
        for zoom, views in views_by_zoom(manifest.views).items():
            seen = replace(manifest, preprocessing=manifest.preprocessing.zoomed(zoom), views=views)
            passes = [Pass(m, view, manifest.views.index(view), weight) for view in views for m, weight in weights]
            stages.append(Stage(tuple(networks), seen, tuple(passes), place=len(stages)))
    return stages_at(stages, full_level(stages))


def stages_of(model: torch.nn.Module, manifest: Manifest) -> list[Stage]:
    """The stages of a single network, in evaluation mode, on the device that it is on."""
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    return build_stages([Networks([model], device, best_precision(device))], [(manifest, 1.0)])
