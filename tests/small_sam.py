"""Segment Anything in a few thousand random weights, and one that answers by rule, so that what must come is known."""

import re
from types import SimpleNamespace

import torch
from transformers import Sam2Config, Sam2Model, SamConfig, SamModel

SIDE = 64
"""Of the square that they see."""
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "mlp_dim": 48,
    "image_size": SIDE,
    "patch_size": 8,
    "window_size": 3,
    "global_attn_indexes": [1],
    "output_channels": 32,
    "num_pos_feats": 16,
    "initializer_range": 0.2,
}
PROMPTS = {"hidden_size": 32, "image_size": SIDE, "patch_size": 8}
DECODER = {"hidden_size": 32, "mlp_dim": 64}
GRID = {"points_per_side": 8, "min_iou": 0.5, "min_stability": 0.9, "max_area_share": 0.4}


def random_sam(seed=0):
    """The first version, every tensor random, those that begin as zeros among them."""
    torch.manual_seed(seed)
    net = SamModel(SamConfig(vision_config=VISION, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER))
    return _all_random(net)


def random_sam2(seed=0):
    """The second version."""
    torch.manual_seed(seed)
    backbone = {
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 2, 1, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [8, 4, 4, 2],
        "global_attention_blocks": [2],
        "window_positional_embedding_background_size": [2, 2],
        "model_type": "sam2_hiera_det_model",
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 32,
    }
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": SIDE, "patch_size": 16},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 64, "iou_head_hidden_dim": 32, "num_attention_heads": 4},
    )
    return _all_random(Sam2Model(config))


def _all_random(net):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        net.mask_decoder.iou_prediction_head.proj_out.bias += 0.5  # it expects something of its masks
    return net.eval()


def original_state(net):
    """The state dict of a network of the first version as its authors' code would save it."""
    found = {}
    for name, tensor in net.state_dict().items():
        if not name.startswith("prompt_encoder.shared_embedding."):
            found[original_name(name)] = tensor.clone()
    return found


def original_name(name):
    """The authors' name of a tensor, from that of transformers."""
    if name == "shared_image_embedding.positional_embedding":
        return "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    head, rest = name.split(".", 1)
    if head == "vision_encoder":
        places = {"conv1": 0, "layer_norm1": 1, "conv2": 2, "layer_norm2": 3}
        rest = re.sub(r"^neck\.(\w+)", lambda found: f"neck.{places[found[1]]}", rest)
        rest = re.sub(r"^layers\.", "blocks.", rest).replace("layer_norm", "norm").replace("projection", "proj")
        return f"image_encoder.{rest}"
    if head == "prompt_encoder":
        places = {"conv1": 0, "layer_norm1": 1, "conv2": 3, "layer_norm2": 4, "conv3": 6}
        rest = re.sub(r"^mask_embed\.(\w+)", lambda found: f"mask_downscaling.{places[found[1]]}", rest)
        return (
            f"{head}.{rest.replace('point_embed.', 'point_embeddings.')}" if rest[:5] == "point" else f"{head}.{rest}"
        )
    places = {"upscale_conv1": 0, "upscale_layer_norm": 1, "upscale_conv2": 3}
    rest = re.sub(r"^(upscale_\w+)", lambda found: f"output_upscaling.{places[found[1]]}", rest)
    if "mlps" in rest or "iou_prediction_head" in rest:
        rest = rest.replace("layers.0.", "layers.1.").replace("proj_in", "layers.0").replace("proj_out", "layers.2")
    return f"{head}.{rest.replace('layer_norm', 'norm') if rest.startswith('transformer') else rest}"


class RuledNet(torch.nn.Module):
    """Answers each prompt by a rule: `answer(embedded image CHW, prompt (x, y, ...)) -> (masks bool (T, H, W), ious)`.

    Its embedding is the image itself, and its masks are a quarter of the square's side.
    """

    def __init__(self, answer, side=SIDE, model_type="sam"):
        super().__init__()
        self.answer, self.scale = answer, torch.nn.Parameter(torch.ones(1))
        self.asked = []
        prompts = SimpleNamespace(image_size=side)
        self.config = SimpleNamespace(model_type=model_type, prompt_encoder_config=prompts)

    def get_image_embeddings(self, pixels_NCHW):
        assert pixels_NCHW.shape[2:] == (self.config.prompt_encoder_config.image_size,) * 2
        return pixels_NCHW

    def forward(self, image_embeddings, multimask_output, input_points=None, input_boxes=None, input_labels=None):
        prompts = input_boxes[0] if input_boxes is not None else input_points[0, :, 0]
        self.asked += prompts.tolist()
        answers = [self.answer(image_embeddings[0], prompt + 0.5) for prompt in prompts]  # as the network counts
        masks = (
            torch.stack([torch.nn.functional.avg_pool2d(masks_THW.float(), 4) for masks_THW, _ in answers]) * 200 - 98
        )
        return SimpleNamespace(pred_masks=masks[None], iou_scores=torch.tensor([ious for _, ious in answers])[None])


def label_answer(image_CHW, prompt):
    """The object of a point by the grey levels of `small_detectors`, what is left of its row, and the whole ground."""
    labels_HW = torch.round(image_CHW[0] * 255 / 5).long()
    x, y = prompt[:2].long().tolist()
    label = labels_HW[y, x]
    own_HW = (labels_HW == label) & (label > 0)
    below_HW = own_HW & (torch.arange(len(own_HW)) > y)[:, None]
    return torch.stack([own_HW, below_HW, labels_HW == 0]), [0.9, 0.3, 0.95]


def dot_answer(image_CHW, prompt):
    """A disc 12 pixels wide about a point, or the box itself."""
    middles = torch.arange(image_CHW.shape[1]) + 0.5
    if len(prompt) == 4:
        x0, y0, x1, y1 = prompt.tolist()
        rows, columns = (middles > y0) & (middles < y1), (middles > x0) & (middles < x1)
        return (rows[:, None] & columns)[None], [0.8]
    far_HW = (middles[:, None] - prompt[1]) ** 2 + (middles - prompt[0]) ** 2
    return torch.stack([far_HW < 6**2, far_HW < 0, far_HW >= 0]), [0.8, 0.7, 0.6]
