"""Segment Anything from local files: whole, or refused to the last tensor; nothing is fetched."""

import json
import pickle
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SamConfig, SamModel

from histofold.core.faults import InputError
from histofold.models.sam.load import load_sam
from histofold.models.sam.original import original_config, renamed_original
from small_sam import SIDE, VISION, original_state, random_sam, random_sam2

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_socket(monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a socket was opened"))


@pytest.fixture
def original(tmp_path):
    """A published file: its state and its path."""
    state = original_state(random_sam())
    torch.save(state, tmp_path / "sam_vit_x.pth")
    return state, tmp_path / "sam_vit_x.pth"


def answers(net):
    torch.manual_seed(5)
    images_NCHW = torch.randn(1, 3, SIDE, SIDE)
    points = torch.tensor([[[[20.0, 31.0]], [[5.0, 60.0]]]])
    with torch.inference_mode():
        output = net(images_NCHW, input_points=points)
        boxes = net(images_NCHW, input_boxes=torch.tensor([[[3.0, 4.0, 50.0, 31.0]]]))
    return [output.pred_masks, output.iou_scores, boxes.pred_masks]


def assert_same(one, other):
    assert all(torch.equal(*pair) for pair in zip(answers(one), answers(other), strict=True))


@pytest.mark.parametrize("made", [random_sam, random_sam2])
def test_a_folder_of_transformers_gives_the_network(made, tmp_path):
    net = made()
    net.save_pretrained(tmp_path)
    assert_same(load_sam(tmp_path), net)


def test_the_published_file_gives_the_network(original):
    net = random_sam()
    assert_same(load_sam(original[1]), net)
    assert len({name.split(".")[0] for name in original[0]}) == 3
    assert load_sam(original[1]).config.vision_config.global_attn_indexes == [1]


PUBLISHED = {
    "image_encoder.blocks.2.norm1.weight": "vision_encoder.layers.2.layer_norm1.weight",
    "image_encoder.blocks.2.attn.rel_pos_h": "vision_encoder.layers.2.attn.rel_pos_h",
    "image_encoder.neck.3.bias": "vision_encoder.neck.layer_norm2.bias",
    "image_encoder.pos_embed": "vision_encoder.pos_embed",
    "prompt_encoder.point_embeddings.3.weight": "prompt_encoder.point_embed.3.weight",
    "prompt_encoder.not_a_point_embed.weight": "prompt_encoder.not_a_point_embed.weight",
    "prompt_encoder.mask_downscaling.4.bias": "prompt_encoder.mask_embed.layer_norm2.bias",
    "mask_decoder.transformer.layers.1.norm4.weight": "mask_decoder.transformer.layers.1.layer_norm4.weight",
    "mask_decoder.transformer.norm_final_attn.bias": "mask_decoder.transformer.layer_norm_final_attn.bias",
    "mask_decoder.output_upscaling.3.weight": "mask_decoder.upscale_conv2.weight",
    "mask_decoder.output_hypernetworks_mlps.3.layers.1.bias": "mask_decoder.output_hypernetworks_mlps.3.layers.0.bias",
    "mask_decoder.iou_prediction_head.layers.2.weight": "mask_decoder.iou_prediction_head.proj_out.weight",
}
"""Names that stand in the published files, and what they are called in transformers."""


def test_names_are_the_published_ones(original):
    assert PUBLISHED.keys() <= original[0].keys()
    assert {name: next(iter(renamed_original({name: torch.ones(1)}))) for name in PUBLISHED} == PUBLISHED


SIZES = {
    "vit_b": (768, 12, 12, [2, 5, 8, 11]),
    "vit_l": (1024, 24, 16, [5, 11, 17, 23]),
    "vit_h": (1280, 32, 16, [7, 15, 23, 31]),
}
"""Of build_sam.py: width, depth, heads and the blocks that see the whole image."""


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_read_from_the_tensors(name, tmp_path):
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "global_attn_indexes")
    wanted = SamConfig(vision_config=dict(zip(names, SIZES[name], strict=True)))
    with torch.device("meta"):
        state = original_state(SamModel(wanted))
    found = SamConfig(**original_config(state, tmp_path))
    assert found.to_dict() == wanted.to_dict()


@pytest.mark.parametrize("tensor", ["image_encoder.blocks.1.attn.qkv.weight", "prompt_encoder.no_mask_embed.weight"])
def test_a_file_must_hold_every_tensor_and_no_other(original, tensor):
    state, path = original
    torch.save({name: value for name, value in state.items() if name != tensor}, path)
    with pytest.raises(InputError, match="is missing"):
        load_sam(path)
    torch.save({**state, "mask_decoder.further.weight": torch.ones(2)}, path)
    with pytest.raises(InputError, match=r"mask_decoder\.further\.weight.*is not of this network"):
        load_sam(path)
    torch.save({**state, tensor: torch.ones(3, 5)}, path)
    with pytest.raises(InputError, match=r"has the shape \(3, 5\) instead of"):
        load_sam(path)


def test_a_folder_must_hold_every_tensor_and_no_other(tmp_path):
    random_sam().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    left = {name: value for name, value in state.items() if name != "vision_encoder.neck.conv1.weight"}
    for changed, words in ((left, "is missing"), ({**state, "other": torch.ones(2)}, "is not of this network")):
        save_file(changed, path, {"format": "pt"})
        with pytest.raises(InputError, match=words):
            load_sam(tmp_path)
    save_file({**state, "vision_encoder.neck.conv1.weight": torch.ones(3)}, path, {"format": "pt"})
    with pytest.raises(InputError, match="cannot be read"):
        load_sam(tmp_path)


def test_other_networks_are_refused_in_words(tmp_path, original):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "segformer"}))
    with pytest.raises(InputError, match="a network of the type 'segformer'"):
        load_sam(tmp_path)
    torch.save({"conv.weight": torch.ones(2)}, original[1])
    with pytest.raises(InputError, match="no weights of Segment Anything"):
        load_sam(original[1])
    with pytest.raises(InputError, match="no such file"):
        load_sam(tmp_path / "none.pth")


def test_a_file_runs_no_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return (pytest.fail, ("it ran",))

    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"image_encoder.pos_embed": Attack()}, protocol=2))
    with pytest.raises(InputError, match="not a state dict"):
        load_sam(tmp_path / "bad.pth")


def test_the_small_network_is_as_uneven_as_the_published_ones():
    grid = VISION["image_size"] // VISION["patch_size"]
    assert grid % VISION["window_size"] != 0
