"""Mask2Former: size, names of the hub, weights of files and folders, what counts as a find."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from histofold.core.faults import InputError
from histofold.models.instances.build import build_detector
from histofold.models.instances.mask2former import swin_hub_name
from histofold.models.weights import load_encoder_weights
from histofold.schema.network import ModelConfig

pytestmark = pytest.mark.slow

STAGE = "model.pixel_level_module.encoder.encoder.layers.3.blocks.0."
HUB_NAMES = {
    f"{STAGE}layernorm_before.weight",
    f"{STAGE}attention.self.query.weight",
    f"{STAGE}attention.self.relative_position_bias_table",
    f"{STAGE}attention.output.dense.bias",
    f"{STAGE}intermediate.dense.bias",
    f"{STAGE}output.dense.weight",
    "model.pixel_level_module.encoder.embeddings.patch_embeddings.projection.weight",
    "model.pixel_level_module.encoder.hidden_states_norms.stage1.weight",
    "model.transformer_module.decoder.layers.0.self_attn.out_proj.weight",
    "class_predictor.weight",
}
"""Some of the published weights' names."""


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_detector("mask2former", {})


def test_its_size_is_the_papers(model):
    """Table 1 of the paper: 47 million parameters on a Swin-T."""
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(47, abs=0.5)


def test_tensors_have_the_hubs_names(model):
    state = model.state_dict()
    assert state.keys() >= HUB_NAMES
    assert not any(
        ".swin." in name or ("_proj" in name and ".blocks." in name) or "position_index" in name for name in state
    )
    assert {swin_hub_name(name) for name in state} == state.keys()


def published(model, classes):
    """A whole network as the hub has it: other values, more classes, the index that transformers 4 saved."""
    state = {name: torch.rand_like(tensor) for name, tensor in model.state_dict().items()}
    state["class_predictor.weight"], state["class_predictor.bias"] = (
        torch.rand(classes + 1, 256),
        torch.rand(classes + 1),
    )
    state["criterion.empty_weight"] = torch.rand(classes + 1)
    state[f"{STAGE}attention.self.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    return state


def load(state, path, **settings):
    config = ModelConfig(architecture="mask2former", encoder_weights=f"file:{path}", **settings)
    fresh = build_detector("mask2former", config.arguments())
    load_encoder_weights(fresh, config)
    return fresh.state_dict()


def test_published_weights_are_read_whole_but_for_their_classes(model, tmp_path):
    """From a folder as transformers saves it."""
    state = published(model, 80)
    save_file(state, tmp_path / "model.safetensors")
    found = load(state, tmp_path)
    new = {"class_predictor.weight", "class_predictor.bias", "criterion.empty_weight"}
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.items() if name not in new)
    assert found["criterion.empty_weight"].tolist() == pytest.approx([1, 0.1])


def test_a_swin_of_imagenet_is_read(model, tmp_path):
    """As transformers 5 names it, without the norms that Mask2Former adds, with a classifier."""
    inner = {name: tensor for name, tensor in model.encoder.state_dict().items() if "hidden_states_norms" not in name}
    state = {f"swin.{name.replace('.self.query.', '.q_proj.')}": torch.rand_like(t) for name, t in inner.items()}
    state["classifier.weight"] = torch.zeros(1000, 768)
    torch.save(state, tmp_path / "swin.pth")
    found = load(state, tmp_path / "swin.pth")
    name = "encoder.layers.3.blocks.0.attention.{}.weight"
    ours = found["model.pixel_level_module.encoder." + name.format("self.query")]
    assert torch.equal(ours, state["swin." + name.format("q_proj")])


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"model\.safetensors.*no such file"):
        load({}, tmp_path)


def test_what_counts_as_a_find(model):
    """Class times mask, best first; a mask of no pixel and a low score are none."""
    maps = torch.full((1, 4, 2, 3), -9.0)
    maps[0, 0, 0, 0] = maps[0, 1] = maps[0, 3] = 9.0
    classes = torch.tensor([[[3.0, 0], [2, 0], [9, 0], [-9, 0]]])
    outputs = SimpleNamespace(class_queries_logits=classes, masks_queries_logits=maps)
    (finds,) = model._finds(outputs, (8, 12))
    assert finds.scores_M.tolist() == pytest.approx([0.9525, 0.8807], abs=1e-3)
    assert finds.boxes_M4.tolist() == [[0, 0, 8, 12]] * 2
    assert (finds.masks_Mhw > 0.5).sum(dim=(1, 2)).tolist() == [1, 6]


def test_masks_in_boxes_are_refused(model):
    with pytest.raises(InputError, match="no mask head for boxes"):
        model.masks_in(torch.zeros(1, 3, 32, 32), [torch.zeros(0, 4)])
