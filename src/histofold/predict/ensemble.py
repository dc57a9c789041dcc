"""An ensemble on one device: uint8 tiles in, averaged probabilities (or logits) out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from histofold.core.log import logger
from histofold.predict.devices import device_lock
from histofold.predict.views import apply_view, restain, undo_view
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.views import check_views, parse_view


def normalise_tiles(images_NCHW: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Grey levels (uint8, or float in [0, 255]) to float32 network input, on the device the tiles are on."""
    if preprocessing.normalise in ("imagenet", "dataset"):
        # (v / 255 - mean) / std as one product and one sum, in one pass over the memory.
        std = torch.tensor(preprocessing.std, dtype=torch.float64)
        scale = (1 / (255 * std)).float()[:, None, None]
        offset = (-torch.tensor(preprocessing.mean, dtype=torch.float64) / std).float()[:, None, None]
        device = images_NCHW.device
        return torch.addcmul(offset.to(device), images_NCHW.float(), scale.to(device))
    values = images_NCHW.float() / 255.0
    if preprocessing.normalise == "none":
        return values
    mean = values.mean(dim=(2, 3), keepdim=True)
    std = values.std(dim=(2, 3), keepdim=True, correction=0).clamp_min(1e-3)
    return (values - mean) / std


@dataclass(frozen=True)
class Ensemble:
    """Networks of one preprocessing, averaged over members and views.

    Calling it maps uint8 tiles NHWC (numpy) to float32 probabilities, or logits, NKHW (numpy).
    """

    models: Sequence[torch.nn.Module]
    """One distinct module for each member, in evaluation mode, on `device`, channels last. It may be a sequence that
    loads a module when it is asked for (`histofold.predict.members.LoadedInTurn`)."""
    weights: Sequence[float]
    """Share of each member; they are normalised here."""
    preprocessing: Preprocessing
    """The normalisation that the members were trained with."""
    views: tuple[str, ...]
    """Views that are averaged; zooms are the reader's matter and make no difference here."""
    device: torch.device
    """Where the forward passes run."""
    precision: torch.dtype
    """Autocast dtype; float32 switches autocast off."""
    average: str = "probabilities"
    """What is averaged: "probabilities" or "logits"."""
    replicas: tuple[Ensemble, ...] = ()
    """The same ensemble on each GPU, this one first; empty on the CPU."""

    def __post_init__(self) -> None:
        check_views(self.views)
        if len(self.weights) != len(self.models) or not len(self.models):
            raise ValueError(f"{len(self.models)} models and {len(self.weights)} weights: as many weights as models")
        if isinstance(self.models, (list, tuple)) and len({id(model) for model in self.models}) < len(self.models):
            raise ValueError("one module stands twice in the ensemble: every member needs a module of its own")

    def __call__(self, images_NHWC: np.ndarray) -> np.ndarray:
        """Predict tiles.

        Args:
            images_NHWC: uint8 RGB tiles, their side divisible by 32.

        Returns:
            float32 (N, K, H, W).

        Raises:
            ArithmeticError: If the result is not finite, even in full precision.
        """
        with device_lock(self.device):
            values_NKHW = self._averaged(images_NHWC)
        if np.isfinite(values_NKHW.sum(dtype=np.float64)):
            return values_NKHW
        if self.precision is not torch.float32:
            logger.warning("%s overflowed: the tiles are computed again in full precision", self.precision)
            with device_lock(self.device):
                values_NKHW = replace(self, precision=torch.float32, replicas=())._averaged(images_NHWC)
        if not np.isfinite(values_NKHW).all():
            raise ArithmeticError("the network gives probabilities that are not numbers: its weights are broken")
        return values_NKHW

    def _averaged(self, images_NHWC: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            tiles_NCHW = torch.from_numpy(images_NHWC).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
            total: torch.Tensor | None = None
            share = 1.0 / (sum(self.weights) * len(self.views))
            seen, inputs_NCHW = "", tiles_NCHW
            for place, view in self._passes():
                if view != seen:
                    seen, inputs_NCHW = view, self._input(tiles_NCHW, view)
                values_NKHW = undo_view(self._forward(self.models[place], inputs_NCHW), view)
                values_NKHW = values_NKHW * (self.weights[place] * share)
                total = values_NKHW if total is None else total.add_(values_NKHW)
            assert total is not None
            return np.ascontiguousarray(total.cpu().numpy())

    def _passes(self) -> list[tuple[int, str]]:
        """Members (by place) and views: a view's input serves all members, unless these are loaded in turn."""
        if isinstance(self.models, (list, tuple)):
            return [(place, view) for view in self.views for place in range(len(self.models))]
        return [(place, view) for place in range(len(self.models)) for view in self.views]

    def _input(self, tiles_NCHW: torch.Tensor, view: str) -> torch.Tensor:
        """What the networks see of tiles in a view."""
        inputs_NCHW = normalise_tiles(restain(tiles_NCHW, parse_view(view)), self.preprocessing)
        return apply_view(inputs_NCHW, view).contiguous(memory_format=torch.channels_last)

    def _forward(self, model: torch.nn.Module, inputs_NCHW: torch.Tensor) -> torch.Tensor:
        enabled = self.precision is not torch.float32
        with torch.autocast(self.device.type, dtype=self.precision if enabled else None, enabled=enabled):
            logits_NKHW = model(inputs_NCHW)
        return logits_NKHW.float() if self.average == "logits" else logits_NKHW.float().sigmoid()

    def with_views(self, views: tuple[str, ...]) -> Ensemble:
        """The same members with other views."""
        return replace(self, views=views, replicas=tuple(replace(each, views=views) for each in self.replicas))

    def first_members(self, count: int) -> Ensemble:
        """The first members alone."""
        kept = [replace(e, models=e.models[:count], weights=e.weights[:count]) for e in (self, *self.replicas)]
        return replace(kept[0], replicas=tuple(kept[1:]))
