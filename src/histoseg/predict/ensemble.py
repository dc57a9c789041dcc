"""An ensemble on one device: uint8 tiles in, averaged probabilities out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from histoseg.core.faults import Fault, InputError
from histoseg.core.log import logger
from histoseg.models.build import build_model
from histoseg.predict.views import apply_view, undo_view
from histoseg.schema.manifest import Manifest
from histoseg.schema.preprocessing import Preprocessing
from histoseg.schema.views import check_views


def best_device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def best_precision(device: torch.device) -> torch.dtype:
    """bf16 where the hardware computes it, fp16 on older GPUs, else fp32.

    It is read from the hardware's own description, not timed, so that one machine always answers the same.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    cpuinfo = Path("/proc/cpuinfo")
    if sys.platform == "linux" and cpuinfo.is_file():
        text = cpuinfo.read_text(errors="replace")
        if "avx512_bf16" in text or "amx_bf16" in text:
            return torch.bfloat16
    return torch.float32


def normalise_tiles(images_NCHW: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """uint8 tiles to float32 network input, on the device the tiles are on."""
    values = images_NCHW.float().div_(255.0)
    if preprocessing.normalise == "none":
        return values
    if preprocessing.normalise == "per_image":
        mean = values.mean(dim=(2, 3), keepdim=True)
        std = values.std(dim=(2, 3), keepdim=True, correction=0).clamp_min(1e-3)
        return (values - mean) / std
    mean = values.new_tensor(preprocessing.mean)[:, None, None]
    std = values.new_tensor(preprocessing.std)[:, None, None]
    return values.sub_(mean).div_(std)


@dataclass(frozen=True)
class Ensemble:
    """Networks whose probabilities are averaged over members and views.

    Calling it maps uint8 tiles NHWC (numpy) to float32 probabilities NKHW (numpy).
    """

    models: Sequence[torch.nn.Module]
    """One distinct module for each member, in evaluation mode, on `device`, channels last."""
    weights: Sequence[float]
    """Share of each member; they are normalised here."""
    preprocessing: Preprocessing
    """The normalisation that the members were trained with."""
    views: tuple[str, ...]
    """Views that are averaged."""
    device: torch.device
    """Where the forward passes run."""
    precision: torch.dtype
    """Autocast dtype; float32 switches autocast off."""

    def __post_init__(self) -> None:
        check_views(self.views)
        if not self.models or len(self.models) != len(self.weights):
            raise ValueError(f"{len(self.models)} models need as many weights, got {len(self.weights)}")
        if len({id(model) for model in self.models}) < len(self.models):
            raise ValueError("one module stands twice in the ensemble: build a module for each member")

    def __call__(self, images_NHWC: np.ndarray) -> np.ndarray:
        """Averaged probabilities of a batch of tiles.

        Args:
            images_NHWC: uint8 tiles, N x H x W x 3.

        Returns:
            float32 probabilities, N x K x H x W, C-contiguous.

        Raises:
            ArithmeticError: If they are not numbers, in float32 too.
        """
        probs_NKHW = self._averaged(images_NHWC)
        if not np.isfinite(probs_NKHW).all() and self.precision is not torch.float32:
            logger.warning("the network overflows in %s: these tiles again in float32", self.precision)
            probs_NKHW = replace(self, precision=torch.float32)._averaged(images_NHWC)
        if not np.isfinite(probs_NKHW).all():
            raise ArithmeticError("the network gives probabilities that are not numbers: its weights are broken")
        return probs_NKHW

    def _averaged(self, images_NHWC: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            tiles = torch.from_numpy(images_NHWC).to(self.device, non_blocking=True)
            inputs_NCHW = normalise_tiles(tiles.permute(0, 3, 1, 2), self.preprocessing)
            total: torch.Tensor | None = None
            share = 1.0 / (sum(self.weights) * len(self.views))
            for view in self.views:
                turned = apply_view(inputs_NCHW, view).contiguous(memory_format=torch.channels_last)
                for model, weight in zip(self.models, self.weights, strict=True):
                    probs_NKHW = undo_view(self._forward(model, turned), view) * (weight * share)
                    total = probs_NKHW if total is None else total.add_(probs_NKHW)
            assert total is not None
            return np.ascontiguousarray(total.cpu().numpy())

    def _forward(self, model: torch.nn.Module, inputs_NCHW: torch.Tensor) -> torch.Tensor:
        enabled = self.precision is not torch.float32
        with torch.autocast(self.device.type, dtype=self.precision if enabled else None, enabled=enabled):
            logits_NKHW = model(inputs_NCHW)
        return logits_NKHW.float().sigmoid()

    def with_views(self, views: tuple[str, ...]) -> Ensemble:
        """The same members with other views."""
        return replace(self, views=views)

    def first_members(self, count: int) -> Ensemble:
        """The first members alone."""
        return replace(self, models=self.models[:count], weights=self.weights[:count])

    def on(self, device: torch.device) -> Ensemble:
        """The same members moved to another device, in its best precision."""
        models = [model.to(device) for model in self.models]
        return replace(self, models=models, device=device, precision=best_precision(device))


def load_ensemble(
    packages: Sequence[tuple[Path, Manifest]], device: torch.device, precision: torch.dtype | None = None
) -> Ensemble:
    """Load every member of every package into a module of its own and prove the members distinct.

    Args:
        packages: Weight folders with their checked manifests; all of one preprocessing.
        device: Where to put the networks.
        precision: Autocast dtype; None asks `best_precision`.

    Raises:
        InputError: If preprocessing differs, weights do not fit the network, or two members give equal outputs.
    """
    first = packages[0][1]
    models: list[torch.nn.Module] = []
    weights: list[float] = []
    names: list[str] = []
    for folder, manifest in packages:
        for member in manifest.members:
            if (member.preprocessing or manifest.preprocessing) != first.preprocessing:
                rule = "its preprocessing differs from the first member's; one ensemble has one preprocessing"
                raise InputError([Fault(member.file, str(folder), rule, "predict it apart")])
            model = build_model(member.architecture, member.arguments)
            try:
                model.load_state_dict(load_file(folder / member.file))
            except (RuntimeError, OSError, ValueError) as error:
                rule = f"weights do not fit {member.architecture} ({error})"
                raise InputError([Fault(member.file, str(folder), rule, "package the weights anew")]) from error
            models.append(model.eval().to(device).to(memory_format=torch.channels_last))
            weights.append(member.weight)
            names.append(member.file)
    _refuse_equal_members(models, names, device)
    return Ensemble(models, weights, first.preprocessing, first.views, device, precision or best_precision(device))


def _refuse_equal_members(models: Sequence[torch.nn.Module], names: Sequence[str], device: torch.device) -> None:
    """Members must differ in what they say, not only in their bytes."""
    if len(models) < 2:
        return
    generator = torch.Generator().manual_seed(0)
    probe_NCHW = torch.rand(1, 3, 64, 64, generator=generator).to(device)
    with torch.inference_mode():
        outputs = [model(probe_NCHW) for model in models]
    for late, output in enumerate(outputs):
        for early in range(late):
            if output.shape == outputs[early].shape and torch.equal(output, outputs[early]):
                rule = f"gives the same output as {names[early]}"
                raise InputError([Fault(names[late], "manifest.json", rule, "package distinct folds")])
