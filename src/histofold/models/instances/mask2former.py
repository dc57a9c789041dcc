"""Mask2Former (Cheng et al. 2022, arXiv:2112.01527) on the implementation of Hugging Face transformers (Apache 2.0).

Each of its queries is an object or none, with a mask of the whole tile: there is neither box nor suppression, and never
more objects than queries.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from histofold.core.faults import InputError
from histofold.models.instances.finds import TileFinds, check_images
from histofold.models.segformer import take_hub_names
from histofold.models.shells import Shell
from histofold.schema.network import DetectorConfig

SWIN_SIZES: dict[str, dict[str, Any]] = {
    "swin_tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
    "swin_small": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24]},
}
"""Table 7 of the Swin paper (Liu et al. 2021, arXiv:2103.14030), in the words of transformers."""
SWIN_RENAMES = (
    (r"(^|\.)swin\.(encoder|embeddings)\.", r"\1\2."),
    (r"(\.blocks\.\d+\.attention)\.q_proj\.", r"\1.self.query."),
    (r"(\.blocks\.\d+\.attention)\.k_proj\.", r"\1.self.key."),
    (r"(\.blocks\.\d+\.attention)\.v_proj\.", r"\1.self.value."),
    (r"(\.blocks\.\d+\.attention)\.o_proj\.", r"\1.output.dense."),
    (r"(\.blocks\.\d+\.attention)\.relative_position_bias\.", r"\1.self."),
    (r"(\.blocks\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"(\.blocks\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
)
"""From the names of transformers 5 to those of the hub, which transformers 4 has too."""


def swin_hub_name(name: str) -> str:
    """A tensor's name in a Swin as the hub and transformers 4 have it, from theirs or from that of transformers 5."""
    for pattern, replacement in SWIN_RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


class Mask2Former(Shell):
    """Mask2Former that gives objects; its state dicts have the hub's names, whatever the version of transformers.

    Args:
        hf: A `Mask2FormerForUniversalSegmentation` of one class on a Swin.
        config: The limits.
    """

    def __init__(self, hf: nn.Module, config: DetectorConfig) -> None:
        super().__init__(hf)
        self.config = config
        swin: Any = self.encoder
        if hasattr(swin, "swin"):
            swin.swin.layernorm = nn.Identity()  # transformers 5 keeps it, and no map passes it
        for module in swin.modules():
            if "relative_position_index" in dict(module.named_buffers(recurse=False)):
                module.register_buffer("relative_position_index", module.relative_position_index, persistent=False)
        take_hub_names(swin, swin_hub_name)

    @property
    def encoder(self) -> nn.Module:
        """The Swin."""
        return self.net.get_submodule("model.pixel_level_module.encoder")

    def forward(self, images_NCHW: torch.Tensor, targets: list[dict[str, torch.Tensor]] | None = None) -> Any:
        """Losses by name in training, from targets (labels, masks); else a `TileFinds` an image."""
        check_images(images_NCHW)
        outputs = self.net(images_NCHW, output_auxiliary_logits=True)
        if self.training:
            assert targets is not None
            with torch.autocast(images_NCHW.device.type, enabled=False):
                return self._losses(outputs, targets)
        return self._finds(outputs, (images_NCHW.shape[2], images_NCHW.shape[3]))

    def masks_in(self, images_NCHW: torch.Tensor, boxes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """It has no masks in boxes.

        Raises:
            InputError: Always.
        """
        raise InputError("mask2former has no mask head for boxes: take the masks of a maskrcnn, or fuse masks")

    def _losses(self, outputs: Any, targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The weighted sums, over all layers, of the losses of class, mask and mask's Dice."""
        net: Any = self.net
        layers = [*outputs.auxiliary_logits, outputs]
        logits = [
            {name: layer[name].float() for name in ("masks_queries_logits", "class_queries_logits")} for layer in layers
        ]
        parts = net.get_loss_dict(
            **logits[-1],
            mask_labels=[target["masks"].float() for target in targets],
            class_labels=[target["labels"] - 1 for target in targets],
            auxiliary_predictions=logits[:-1],
        )
        names = {"loss_classifier": "loss_cross_entropy", "loss_mask": "loss_mask", "loss_dice": "loss_dice"}
        return {
            ours: torch.stack([part for name, part in parts.items() if name.startswith(theirs)]).sum()
            for ours, theirs in names.items()
        }

    def _finds(self, outputs: Any, shape_hw: tuple[int, int]) -> list[TileFinds]:
        """The queries whose score passes; it is that of the class times the mean of the mask where it is the object."""
        scores_NM = outputs.class_queries_logits.float().softmax(dim=-1)[..., 0]
        probs_NMhw = outputs.masks_queries_logits.float().sigmoid()
        inside_NMhw = probs_NMhw > 0.5
        areas_NM = inside_NMhw.sum(dim=(2, 3))
        scores_NM = scores_NM * (probs_NMhw * inside_NMhw).sum(dim=(2, 3)) / areas_NM.clamp(min=1)
        finds = []
        for scores_M, probs_Mhw in zip(scores_NM, probs_NMhw, strict=True):
            best = scores_M.argsort(descending=True, stable=True)[: self.config.max_detections]
            best = best[scores_M[best] > self.config.score_threshold]
            boxes_M4 = scores_M.new_tensor([[0, 0, *shape_hw]]).expand(len(best), 4)
            finds.append(TileFinds(boxes_M4, scores_M[best], probs_Mhw[best]))
        return finds


def build_mask2former(encoder: str, config: DetectorConfig) -> nn.Module:
    """Mask2Former on a Swin, from random weights.

    Args:
        encoder: swin_tiny or swin_small.
        config: Its queries and limits.

    Raises:
        ValueError: If there is no such encoder, or the installed transformers names its tensors in an unknown way.
    """
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    if encoder not in SWIN_SIZES:
        raise ValueError(f"encoder={encoder!r} of mask2former is unknown: known are {', '.join(SWIN_SIZES)}")
    stages = ["stage1", "stage2", "stage3", "stage4"]
    swin = SwinConfig(**SWIN_SIZES[encoder], out_features=stages, drop_path_rate=0.3)
    sizes = Mask2FormerConfig(backbone_config=swin, num_labels=1, num_queries=config.queries)
    net = Mask2Former(Mask2FormerForUniversalSegmentation(sizes), config)
    known = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self.relative_position_bias_table"
    if known not in net.state_dict():
        raise ValueError("the installed transformers has names of tensors that are unknown here: install 4.57 or 5.23")
    return net
