"""The published .pth of the first Segment Anything in the names of transformers, and its sizes by its tensors.

Source: https://github.com/facebookresearch/segment-anything (Apache-2.0), build_sam.py and modeling/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from histofold.core.faults import Fault, InputError
from histofold.models.weights import WEIGHTS_SETTING

RENAMES = (
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.blocks\.(\d+)\.norm([12])\.", r"vision_encoder.layers.\1.layer_norm\2."),
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.", "vision_encoder."),
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", "shared_image_embedding.positional_embedding"),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^(mask_decoder\.transformer\..*)\bnorm(\d|_final_attn)\.", r"\1layer_norm\2."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head)\.)layers\.0\.", r"\1proj_in."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head)\.)layers\.2\.", r"\1proj_out."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head)\.)layers\.1\.", r"\1layers.0."),
)
"""The first one that fits renames a tensor; one that none fits has the same name in both."""
SHARED_POSITIONS = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)
"""One tensor of the file, which transformers names twice."""


def renamed_original(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a published file by their names in transformers."""
    renamed = {_renamed(name): tensor for name, tensor in state.items()}
    if SHARED_POSITIONS[0] in renamed:
        renamed[SHARED_POSITIONS[1]] = renamed[SHARED_POSITIONS[0]]
    return renamed


def _renamed(name: str) -> str:
    return next((new for pattern, by in RENAMES if (new := re.sub(pattern, by, name)) != name), name)


def original_config(state: Mapping[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """The sizes of a published network by the shapes of its tensors, as transformers' SamConfig takes them.

    Raises:
        InputError: If the file is none of Segment Anything.
    """
    try:
        shapes = {name.removeprefix("image_encoder."): tuple(tensor.shape) for name, tensor in state.items()}
        _, grid, _, hidden = shapes["pos_embed"]
        patch = shapes["patch_embed.proj.weight"][2]
        depth = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))
        reaches = [(shapes[f"blocks.{place}.attn.rel_pos_h"][0] + 1) // 2 for place in range(depth)]
        channels = shapes["neck.0.weight"][0]
        vision = {
            "hidden_size": hidden,
            "num_hidden_layers": depth,
            "num_attention_heads": hidden // shapes["blocks.0.attn.rel_pos_h"][1],
            "mlp_dim": shapes["blocks.0.mlp.lin1.weight"][0],
            "patch_size": patch,
            "image_size": grid * patch,
            "window_size": min(reaches),
            "global_attn_indexes": [place for place, reach in enumerate(reaches) if reach == grid],
            "output_channels": channels,
            "num_pos_feats": shapes["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"][1],
        }
        decoder = {"hidden_size": channels, "mlp_dim": shapes["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0]}
    except (KeyError, ValueError, IndexError) as error:
        rule = f"no weights of Segment Anything: {error} is not as there"
        remedy = "give its published .pth (sam_vit_b, _l or _h), or a folder that transformers saved"
        raise InputError([Fault(WEIGHTS_SETTING, str(path), rule, remedy)]) from error
    prompts = {"hidden_size": channels, "image_size": grid * patch, "patch_size": patch}
    return {"vision_config": vision, "prompt_encoder_config": prompts, "mask_decoder_config": decoder}
