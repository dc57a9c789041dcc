"""SegFormer: names that do not hang on the version of transformers, its own forward pass, and weights of the hub."""

import logging
import re

import pytest
import torch
import transformers
from torch.nn.functional import interpolate

from histofold.core.faults import InputError
from histofold.models.build import build_model
from histofold.models.segformer import segformer_hub_name
from histofold.models.weights import load_encoder_weights
from histofold.schema.network import ModelConfig

HUB_NAMES = {
    "segformer.encoder.patch_embeddings.0.proj.weight",
    "segformer.encoder.patch_embeddings.3.layer_norm.bias",
    "segformer.encoder.block.0.0.layer_norm_1.weight",
    "segformer.encoder.block.2.1.layer_norm_2.bias",
    "segformer.encoder.block.1.0.attention.self.query.weight",
    "segformer.encoder.block.1.0.attention.self.key.bias",
    "segformer.encoder.block.1.1.attention.self.value.weight",
    "segformer.encoder.block.0.1.attention.self.sr.weight",
    "segformer.encoder.block.2.0.attention.self.layer_norm.weight",
    "segformer.encoder.block.3.1.attention.output.dense.weight",
    "segformer.encoder.block.3.0.mlp.dense1.weight",
    "segformer.encoder.block.3.0.mlp.dwconv.dwconv.weight",
    "segformer.encoder.block.3.0.mlp.dense2.bias",
    "segformer.encoder.layer_norm.3.weight",
    "decode_head.linear_c.0.proj.weight",
    "decode_head.linear_fuse.weight",
    "decode_head.batch_norm.running_var",
    "decode_head.classifier.bias",
}
"""Of nvidia/segformer-b0 on the hub, and of transformers 4."""


def to_version_5(name):
    """A name as transformers 5 has it, from the hub's, written down apart from the code under test."""
    name = re.sub(r"encoder\.(patch_embeddings|layer_norm)\.(\d)\.", r"stages.\2.\1.", name)
    name = re.sub(r"encoder\.block\.(\d)\.", r"stages.\1.blocks.", name)
    for old, new in [
        ("self.query", "q_proj"),
        ("self.key", "k_proj"),
        ("self.value", "v_proj"),
        ("self.sr", "sequence_reduction.sequence_reduction"),
        ("self.layer_norm", "sequence_reduction.layer_norm"),
        ("output.dense", "o_proj"),
        ("dense1", "fc1"),
        ("dense2", "fc2"),
        ("layer_norm_1", "layernorm_before"),
        ("layer_norm_2", "layernorm_after"),
        ("linear_c", "linear_projections"),
    ]:
        name = name.replace(f".{old}.", f".{new}.")
    return name


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_model("segformer", {"encoder": "mit_b0", "classes": 2}).eval()


def logits(model):
    with torch.inference_mode():
        return model(torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)))


def test_state_dicts_have_the_hubs_names(network):
    names = set(network.state_dict())
    assert names >= HUB_NAMES
    assert len(names) == 208
    assert set(network.encoder.state_dict()) == {
        name.removeprefix("segformer.") for name in names if name.startswith("segformer.")
    }


def test_both_namings_load_into_the_same_network(network):
    wanted = logits(network)
    state = network.state_dict()
    renamed = {to_version_5(name): tensor for name, tensor in state.items()}
    assert len(renamed) == len(state)
    assert "segformer.stages.2.blocks.1.attention.sequence_reduction.layer_norm.bias" in renamed
    for layout in (state, renamed):
        other = build_model("segformer", {"encoder": "mit_b0", "classes": 2}).eval()
        assert not torch.equal(logits(other), wanted)
        other.load_state_dict(layout, strict=True)
        assert torch.equal(logits(other), wanted)
    assert {segformer_hub_name(name) for name in renamed} == set(state)
    assert all(segformer_hub_name(name) == name for name in state)


def test_the_installed_transformers_gives_the_same_logits(network):
    sizes = {"hidden_sizes": [32, 64, 160, 256], "depths": [2, 2, 2, 2], "num_labels": 2}
    theirs = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**sizes)).eval()
    twin = build_model("segformer", {"encoder": "mit_b0", "classes": 2}).eval()
    twin.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        small = theirs(images).logits
        torch.testing.assert_close(twin(images), interpolate(small, (64, 96), mode="bilinear"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", ["segformer.", "", "module.backbone."])
@pytest.mark.parametrize("rename", [str, to_version_5])
def test_encoder_weights_of_any_version_and_prefix_load(network, prefix, rename, tmp_path):
    generator = torch.Generator().manual_seed(5)
    state = {k: torch.rand(v.shape, generator=generator) for k, v in network.encoder.state_dict().items()}
    saved = {prefix + rename(name): tensor for name, tensor in state.items()}
    torch.save({**saved, "classifier.weight": torch.zeros(1000, 256)}, tmp_path / "w.bin")
    config = ModelConfig(architecture="segformer", encoder_weights=f"file:{tmp_path / 'w.bin'}")
    model = build_model("segformer", config.arguments())
    load_encoder_weights(model, config)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.encoder.state_dict().items())


def test_weights_of_another_size_are_refused(network, tmp_path):
    torch.save(network.encoder.state_dict(), tmp_path / "w.bin")
    config = ModelConfig(architecture="segformer", encoder="mit_b1", encoder_weights=f"file:{tmp_path / 'w.bin'}")
    with pytest.raises(InputError, match=r"needs the shape \(64, 3, 7, 7\).*use weights of mit_b1"):
        load_encoder_weights(build_model("segformer", config.arguments()), config)


@pytest.mark.parametrize(
    ("name", "hub_id"),
    [("imagenet", "nvidia/mit-b0"), ("nvidia/segformer-b0-finetuned-ade-512-512",) * 2, ("someone/free-b0",) * 2],
)
def test_the_hub_is_asked_and_its_licence_told(name, hub_id, monkeypatch, caplog):
    sizes = {"hidden_sizes": [32, 64, 160, 256], "depths": [2, 2, 2, 2]}
    stored = transformers.SegformerModel(transformers.SegformerConfig(**sizes))
    asked = []
    monkeypatch.setattr(
        transformers.SegformerModel, "from_pretrained", classmethod(lambda _, hub_id: asked.append(hub_id) or stored)
    )
    config = ModelConfig(architecture="segformer", encoder_weights=name)
    wanted = {segformer_hub_name(key): tensor for key, tensor in stored.state_dict().items()}
    model = build_model("segformer", config.arguments())
    with caplog.at_level(logging.WARNING, logger="histofold"):
        load_encoder_weights(model, config)
    assert asked == [hub_id]
    assert [r.getMessage() for r in caplog.records if "non-commercial" in r.getMessage()] == (
        [f"{hub_id} is under NVIDIA's licence for non-commercial use, and what is trained from it too"]
        if hub_id.startswith("nvidia/")
        else []
    )
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in model.encoder.state_dict().items())


def test_a_hub_out_of_reach_is_told_in_words(monkeypatch):
    def unreachable(*_):
        raise OSError("no route to host")

    monkeypatch.setattr(transformers.SegformerModel, "from_pretrained", unreachable)
    config = ModelConfig(architecture="segformer", encoder_weights="imagenet")
    with pytest.raises(InputError, match=r"'imagenet' of mit_b0 cannot be had .*no route.*file:PATH"):
        load_encoder_weights(build_model("segformer", config.arguments()), config)
