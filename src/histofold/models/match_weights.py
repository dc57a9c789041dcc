"""Which tensors of a foreign state dict are the encoder's, whatever wrappers a training script put round them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

WRAPPERS = ("model.", "encoder.")
"""What smp and transformers put before every tensor of an encoder."""
PREFERRED_COPIES = ("ema", "teacher", "encoder_q", "base_encoder", "online")
"""Of several copies in one file, as self-supervised and averaging scripts save them, the one that is meant for use."""


@dataclass(frozen=True)
class MatchedWeights:
    """Tensors of a file for a module that wants them."""

    tensors: dict[str, torch.Tensor]
    """By the module's own names; shapes may differ."""
    prefix: str
    """What stood before these names in the file."""


def match_weights(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> MatchedWeights:
    """Find a module's tensors in a state dict of timm, torchvision, smp, transformers or a training script.

    All come from under one prefix, the one with the most tensors of the right name and shape; what else the file holds
    (heads, projections, decoders, second copies) is left.

    Args:
        state: The file's tensors.
        wanted: The module's own state dict.
    """
    names = _names_by_core(wanted)
    copies: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for file_name, tensor in _newer_swin(state, names).items():
        parts = file_name.split(".")
        for start in range(len(parts)):
            core = ".".join(parts[start:])
            if core in names:
                copies[".".join(parts[:start])][names[core]] = tensor
    if not copies:
        return MatchedWeights({}, "")

    def rank(prefix: str) -> tuple[int, int]:
        fitting = sum(tensor.shape == wanted[name].shape for name, tensor in copies[prefix].items())
        words = re.split(r"[._]", prefix) + prefix.split(".")
        places = [place for place, word in enumerate(PREFERRED_COPIES) if word in words]
        return fitting, -min(places, default=len(PREFERRED_COPIES))

    best = max(copies, key=rank)
    return MatchedWeights(copies[best], best)


def _names_by_core(wanted: Iterable[str]) -> dict[str, str]:
    """A module's names by what every layout shares of them."""
    wanted = list(wanted)
    wrapper = next((w for w in WRAPPERS if all(name.startswith(w) for name in wanted)), "")
    return {_core(name.removeprefix(wrapper)): name for name in wanted}


def _core(name: str) -> str:
    """A name with timm's flattened stages (`stages_0.`) as the whole network has them (`stages.0.`)."""
    return re.sub(r"_(\d+)(?=\.)", r".\1", name)


def _newer_swin(state: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The file's tensors under cores; a Swin's merging of tokens, once the end of a stage, where it is now."""
    cores = {_core(name): tensor for name, tensor in state.items()}
    old = any(re.search(r"(^|\.)layers\.0\.downsample\.", name) for name in cores)
    if not old or not any(name.startswith("layers.1.downsample.") for name in names):
        return cores
    merging = re.compile(r"(?<![^.])layers\.(\d+)\.downsample\.")
    return {merging.sub(lambda m: f"layers.{int(m[1]) + 1}.downsample.", name): t for name, t in cores.items()}
