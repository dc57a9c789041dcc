"""A module's tensors found in a file, whatever names a library or a training script gave them."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from histofold.core.faults import listed_ids
from histofold.core.log import logger

WRAPPERS = ("model.", "encoder.")
"""What smp and transformers put before every tensor of an encoder."""
PREFERRED_COPIES = ("ema", "teacher", "encoder_q", "base_encoder", "online")
"""Of several copies in one file, as self-supervised and averaging scripts save them, the one that is meant for use."""
MOST_TOKENS = 8
"""Class and register tokens that an embedding of places may begin with."""
TIMM_NAMES = (
    (r"^.*embeddings\.cls_token$", "cls_token"),
    (r"^.*embeddings\.position_embeddings$", "pos_embed"),
    (r"^.*embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^.*layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.(layernorm_before|norm1)\.", ".norm1."),
    (r"\.(layernorm_after|norm2)\.", ".norm2."),
    (r"\.(intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"\.(output\.dense|mlp\.weights_out)\.", ".mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)
"""From names of transformers' ViT and DINOv2 to those of timm, which holds queries, keys and values as one tensor."""


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


def as_timm(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A plain vision transformer's tensors under timm's names, where they have those of transformers; else as they are.

    Args:
        state: Of ViT or DINOv2 (Oquab 2023, arXiv:2304.07193), without register tokens.
    """
    if not any(name.endswith(".attention.attention.query.weight") for name in state):
        return dict(state)
    renamed = {}
    for name, tensor in state.items():
        for pattern, new in TIMM_NAMES:
            name = re.sub(pattern, new, name)
        renamed[name] = tensor
    for name in [name for name in renamed if ".attn.query." in name]:
        parts = [renamed.pop(name.replace(".query.", f".{part}.")) for part in ("query", "key", "value")]
        renamed[name.replace(".query.", ".qkv.")] = torch.cat(parts)
    return renamed


def resampled(matched: MatchedWeights, wanted: Mapping[str, torch.Tensor]) -> MatchedWeights:
    """The same, with what a timm network knows of positions resampled where it was made for images of another size.

    Args:
        matched: Tensors of a file.
        wanted: The module's own state dict.
    """
    tensors = {name: _resampled(name, tensor, wanted[name].shape) for name, tensor in matched.tensors.items()}
    changed = [name for name, tensor in tensors.items() if tensor is not matched.tensors[name]]
    if changed:
        logger.info("positions of another image size are resampled: %s", listed_ids(changed))
    return MatchedWeights(tensors, matched.prefix)


def _resampled(name: str, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """An embedding of places (1, tokens and places, C) or a table of biases by distance; all else as it is."""
    from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table_simple

    if tensor.shape == shape or tensor.ndim != len(shape):
        return tensor
    if name.endswith("pos_embed") and len(shape) == 3 and tensor.shape[2] == shape[2]:
        for tokens in range(min(MOST_TOKENS, tensor.shape[1], shape[1]) + 1):
            old, new = (math.isqrt(places - tokens) for places in (tensor.shape[1], shape[1]))
            if (old * old + tokens, new * new + tokens) == (tensor.shape[1], shape[1]):
                return resample_abs_pos_embed(tensor, [new, new], num_prefix_tokens=tokens)
    if name.endswith("relative_position_bias_table"):
        heads, sides = (0, shape[1]) if len(shape) == 3 else (1, math.isqrt(shape[0]))
        if tensor.shape[heads] == shape[heads]:
            window = (sides + 1) // 2
            return resize_rel_pos_bias_table_simple(tensor, (window, window), tuple(shape))
    return tensor


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
