"""Tensors of files in the layout of other libraries, and of networks for images of another size."""

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from transformers import Dinov2Config, Dinov2Model

from histofold.core.faults import InputError
from histofold.models.build import build_model
from histofold.models.matching import match_weights, resampled
from histofold.models.weights import load_encoder_weights
from histofold.schema.network import ModelConfig

pytestmark = pytest.mark.slow

TABLE = "layers.0.attn.relative_position_bias_table"


@pytest.mark.parametrize("is_flat", [True, False])
def test_a_table_of_distances_keeps_its_middle_its_ends_and_its_symmetry(is_flat):
    rows, columns = torch.meshgrid(torch.arange(-6.0, 7), torch.arange(-6.0, 7), indexing="ij")
    table_MHW = torch.stack([rows**2 + columns**2, torch.full_like(rows, 3.0)])
    table = table_MHW.flatten(1).T if is_flat else table_MHW
    wanted = {TABLE: torch.zeros((31 * 31, 2) if is_flat else (2, 31, 31))}
    found = resampled(match_weights({TABLE: table}, wanted), wanted).tensors[TABLE]
    assert found.shape == wanted[TABLE].shape
    map_MHW = found.T.reshape(2, 31, 31) if is_flat else found
    torch.testing.assert_close(map_MHW, map_MHW.flip(1).transpose(1, 2), rtol=0, atol=2e-3)
    torch.testing.assert_close(map_MHW[0, 15, 15], torch.tensor(0.0), rtol=0, atol=2e-3)
    torch.testing.assert_close(map_MHW[1], torch.full((31, 31), 3.0), rtol=0, atol=2e-3)


def test_an_embedding_of_places_is_resampled_as_timm_does(tmp_path):
    config = ModelConfig(
        architecture="dpt",
        encoder="tu-vit_tiny_patch16_224",
        image_size=96,
        encoder_weights=f"file:{tmp_path / 'vit.pth'}",
    )
    source = build_model("dpt", {**config.arguments(), "image_size": 160}).encoder.state_dict()
    source["model.pos_embed"] = torch.rand_like(source["model.pos_embed"])
    torch.save({name.removeprefix("model."): tensor for name, tensor in source.items()}, tmp_path / "vit.pth")
    model = build_model("dpt", config.arguments())
    load_encoder_weights(model, config)
    for name, tensor in model.encoder.state_dict().items():
        given = source[name]
        wanted = resample_abs_pos_embed(given, [6, 6], num_prefix_tokens=1) if name == "model.pos_embed" else given
        assert torch.equal(tensor, wanted), name


def test_a_dinov2_of_transformers_gives_its_own_maps(tmp_path):
    torch.manual_seed(0)
    shape = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 56, "patch_size": 14}
    theirs = Dinov2Model(Dinov2Config(**shape, layerscale_value=0.5)).eval()
    with torch.no_grad():
        theirs.embeddings.position_embeddings.normal_()
    theirs.save_pretrained(tmp_path)
    config = ModelConfig(
        architecture="dpt",
        encoder="tu-vit_small_patch14_dinov2",
        image_size=56,
        encoder_weights=f"file:{tmp_path}",
    )
    model = build_model("dpt", config.arguments()).eval()
    load_encoder_weights(model, config)
    seen_NCHW = torch.rand(2, 3, 56, 56)
    with torch.inference_mode():
        maps_NCHW = model.encoder.model.forward_intermediates(seen_NCHW, 4, intermediates_only=True)[-1]
        tokens_NPC = theirs(seen_NCHW, output_hidden_states=True).hidden_states[-1][:, 1:]
    torch.testing.assert_close(maps_NCHW.flatten(2).transpose(1, 2), tokens_NPC, rtol=1e-4, atol=1e-4)


def test_weights_of_a_larger_transformer_are_refused(tmp_path):
    config = ModelConfig(
        architecture="dpt", encoder="tu-vit_tiny_patch16_224", encoder_weights=f"file:{tmp_path / 'w.pth'}"
    )
    with torch.device("meta"):
        other = build_model("dpt", {"encoder": "tu-vit_small_patch16_224"}).encoder.state_dict()
    torch.save({name: torch.zeros(tensor.shape) for name, tensor in other.items()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"pos_embed.*needs the shape \(1, 197, 192\) .*have \(1, 197, 384\)"):
        load_encoder_weights(build_model("dpt", config.arguments()), config)
