"""SegFormer (Xie et al. 2021, arXiv:2105.15203) on the implementation of Hugging Face transformers (Apache 2.0).

The published weights (nvidia/mit-b*, nvidia/segformer-b*) are under NVIDIA's licence for non-commercial use: networks
that start from them are so too. A network that starts from random weights is free.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from histofold.core.log import logger
from histofold.models.shells import AnySize, rename_in_state_dicts

SEGFORMER_STRIDE = 32
SEGFORMER_SIZES: dict[str, dict[str, Any]] = {
    "mit_b0": {"depths": [2, 2, 2, 2], "hidden_sizes": [32, 64, 160, 256], "decoder_hidden_size": 256},
    "mit_b1": {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 256},
    "mit_b2": {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768},
    "mit_b3": {"depths": [3, 4, 18, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768},
    "mit_b4": {"depths": [3, 8, 27, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768},
    "mit_b5": {"depths": [3, 6, 40, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768},
}
"""Table 6 of the paper, in the words of transformers."""
SEGFORMER_RENAMES = (
    (r"(^|\.)stages\.(\d+)\.patch_embeddings\.", r"\1encoder.patch_embeddings.\2."),
    (r"(^|\.)stages\.(\d+)\.blocks\.", r"\1encoder.block.\2."),
    (r"(^|\.)stages\.(\d+)\.layer_norm\.", r"\1encoder.layer_norm.\2."),
    (r"\.attention\.q_proj\.", ".attention.self.query."),
    (r"\.attention\.k_proj\.", ".attention.self.key."),
    (r"\.attention\.v_proj\.", ".attention.self.value."),
    (r"\.attention\.sequence_reduction\.sequence_reduction\.", ".attention.self.sr."),
    (r"\.attention\.sequence_reduction\.layer_norm\.", ".attention.self.layer_norm."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc(\d)\.", r".mlp.dense\1."),
    (r"\.layernorm_before\.", ".layer_norm_1."),
    (r"\.layernorm_after\.", ".layer_norm_2."),
    (r"(^|\.)decode_head\.linear_projections\.", r"\1decode_head.linear_c."),
)
"""From the names of transformers 5 to those of the hub, which transformers 4 has too."""


def segformer_hub_name(name: str) -> str:
    """A tensor's name as the hub and transformers 4 have it, from theirs or from that of transformers 5."""
    for pattern, replacement in SEGFORMER_RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _name_in_encoder(name: str) -> str:
    return segformer_hub_name(name.removeprefix("hf."))


def take_hub_names(module: nn.Module, outward: Callable[[str], str]) -> None:
    """Let a module write the hub's names and read them, or those of transformers 5, whatever its own are."""
    own_names = {outward(name): name for name in module.state_dict()}

    def inward(name: str) -> str:
        return own_names.get(outward(name), name)

    rename_in_state_dicts(module, outward, inward)


class SegFormerEncoder(nn.Module):
    """The hierarchical transformer; its state dicts have the hub's names, whatever the version of transformers.

    Args:
        hf: A `SegformerModel` of transformers.
    """

    def __init__(self, hf: nn.Module) -> None:
        super().__init__()
        self.hf = hf
        take_hub_names(self, _name_in_encoder)

    def forward(self, images_NCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (N, 3, H, W), H and W from 32 up, to four maps at 1/4, 1/8, 1/16 and 1/32."""
        return tuple(self.hf(images_NCHW, output_hidden_states=True, return_dict=True).hidden_states)


class SegFormer(nn.Module):
    """SegFormer with the decoder of linear layers, logits resized to the image.

    Args:
        hf: A `SegformerForSemanticSegmentation` of transformers.
    """

    def __init__(self, hf: nn.Module) -> None:
        super().__init__()
        self.segformer = SegFormerEncoder(hf.segformer)  # type: ignore[arg-type]
        self.decode_head = hf.decode_head
        take_hub_names(self, segformer_hub_name)

    @property
    def encoder(self) -> nn.Module:
        """The hierarchical transformer, under the name that every network here has for it."""
        return self.segformer

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) to logits (N, K, H, W)."""
        logits_NKHW = self.decode_head(self.segformer(images_NCHW))  # type: ignore[operator]
        return interpolate(logits_NKHW, images_NCHW.shape[2:], mode="bilinear", align_corners=False)


def build_segformer(encoder: str = "mit_b0", classes: int = 1) -> nn.Module:
    """SegFormer of one size, from random weights.

    Args:
        encoder: mit_b0 to mit_b5.
        classes: Number of output channels.

    Raises:
        ValueError: If there is no such encoder, or the installed transformers names its tensors in an unknown way.
    """
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    if encoder not in SEGFORMER_SIZES:
        raise ValueError(f"encoder={encoder!r} of segformer is unknown: known are {', '.join(SEGFORMER_SIZES)}")
    sizes = {"num_labels": classes, **SEGFORMER_SIZES[encoder]}
    net = SegFormer(SegformerForSemanticSegmentation(SegformerConfig(**sizes)))
    anchors = {"segformer.encoder.block.0.0.attention.self.query.weight", "decode_head.linear_c.0.proj.weight"}
    if not anchors <= net.state_dict().keys():
        raise ValueError("the installed transformers has names of tensors that are unknown here: install 4.57 or 5.23")
    return AnySize(net, SEGFORMER_STRIDE)


def segformer_hub_state(encoder: str, name: str) -> dict[str, torch.Tensor]:
    """Tensors of weights on the hub, under the names of a `SegFormerEncoder`; warns of their licence.

    Args:
        encoder: mit_b0 to mit_b5.
        name: `imagenet` (nvidia/mit-b*) or the id of a SegFormer on the hub.
    """
    from transformers import SegformerModel

    hub_id = f"nvidia/{encoder.replace('_', '-')}" if name == "imagenet" else name
    state = SegformerModel.from_pretrained(hub_id).state_dict()
    if hub_id.startswith("nvidia/"):
        logger.warning("%s is under NVIDIA's licence for non-commercial use, and what is trained from it too", hub_id)
    return {segformer_hub_name(key): tensor for key, tensor in state.items()}
