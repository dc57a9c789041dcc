"""Networks that know organs: the plain network at first and for all other organs, one of its own for each."""

import copy
import json
import threading

import pytest
import torch

from histofold.core.faults import InputError
from histofold.models.build import build_model
from histofold.models.film import SEEN, organs_seen
from histofold.schema.network import ModelConfig

pytestmark = pytest.mark.slow

ORGANS = ["kidney", "lung"]
NETWORKS = {
    "unet": {"encoder": "tu-lcnet_035", "decoder_channels": [16, 16, 8, 8, 8]},
    "unetplusplus": {"encoder": "tu-lcnet_035", "decoder_channels": [16, 16, 8, 8, 8]},
    "manet": {"encoder": "resnet18", "decoder_channels": [16, 16, 8, 8, 8]},
    "fpn": {"encoder": "tu-lcnet_035"},
    "pan": {"encoder": "resnet18"},
    "deeplabv3": {"encoder": "resnet18"},
    "deeplabv3plus": {"encoder": "tu-lcnet_035"},
    "upernet": {"encoder": "tu-lcnet_035"},
    "dpt": {"encoder": "tu-vit_tiny_patch16_224"},
}


def images_NCHW(count=2):
    return torch.rand(count, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def unet(activation="sigmoid"):
    """A small U-Net whose tables are no longer zero."""
    torch.manual_seed(0)
    model = build_model("unet", {**NETWORKS["unet"], "organs": ORGANS, "activation": activation}).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "film" in name:
                tensor.normal_()
    return model


def logits(model, images, *organs):
    with torch.inference_mode(), organs_seen(organs):
        return model(images)


@pytest.mark.parametrize("architecture", NETWORKS)
def test_it_starts_as_the_plain_network(architecture):
    torch.manual_seed(0)
    plain = build_model(architecture, NETWORKS[architecture]).eval()
    knowing = build_model(architecture, {**NETWORKS[architecture], "organs": ORGANS}).eval()
    tables = {name: tensor for name, tensor in knowing.state_dict().items() if name.startswith("film.")}
    assert tables
    knowing.load_state_dict({**plain.state_dict(), **tables}, strict=True)
    images = images_NCHW()
    wanted = logits(plain, images)
    assert torch.equal(logits(knowing, images, "kidney", "lung"), wanted)
    with torch.no_grad():
        for name, tensor in knowing.state_dict().items():
            if name.startswith("film."):
                tensor[0] = 0.5
    assert not torch.allclose(logits(knowing, images, "kidney"), wanted, atol=1e-4)
    for other in ("lung", "spleen", ""):
        assert torch.equal(logits(knowing, images, other), wanted)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_each_image_of_a_batch_has_its_organ(activation):
    model, images = unet(activation), images_NCHW(3)
    mixed = logits(model, images, "lung", "", "kidney")
    alone = [logits(model, images, organ)[place] for place, organ in enumerate(("lung", "", "kidney"))]
    torch.testing.assert_close(mixed, torch.stack(alone), rtol=1e-4, atol=1e-4)
    twice = logits(model, images[:1].repeat(2, 1, 1, 1), "lung", "lung")
    assert torch.equal(twice[0], twice[1])
    assert not torch.allclose(logits(model, images, "lung"), logits(model, images, "kidney"), atol=1e-2)


def test_an_organ_teaches_its_own_row_and_unknown_ones_none():
    model = unet().train()
    with organs_seen(["kidney", "spleen"]):
        model(images_NCHW()).square().mean().backward()
    tables = [p for name, p in model.named_parameters() if "film" in name]
    assert all(table.grad[0].any() and not table.grad[1].any() for table in tables)
    model.zero_grad()
    model(images_NCHW()).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters()), "processes wait for every gradient"
    assert not any(table.grad.any() for table in tables)


def test_a_copy_has_tables_of_its_own():
    model, images = unet(), images_NCHW()
    twin, wanted = copy.deepcopy(model), logits(model, images, "lung")
    with torch.no_grad():
        for name, tensor in twin.named_parameters():
            if "film" in name:
                tensor.zero_()
    assert torch.equal(logits(model, images, "lung"), wanted)
    assert torch.equal(logits(twin, images, "lung"), logits(model, images, "nothing"))


def test_what_one_thread_sees_another_does_not():
    found = []
    with organs_seen(["lung"]):
        thread = threading.Thread(target=lambda: found.append(SEEN.get()))
        thread.start()
        thread.join()
        with organs_seen(["kidney"]):
            assert SEEN.get() == ("kidney",)
        assert SEEN.get() == ("lung",)
    assert (found, SEEN.get()) == ([()], ())


def test_settings_travel_and_what_no_network_reads_is_refused():
    arguments = ModelConfig(organs=("kidney", "lung")).arguments()
    assert json.loads(json.dumps(arguments))["organs"] == ORGANS
    assert "organs" not in ModelConfig().arguments()
    for architecture in ("unext50", "effunet-b0", "segformer", "deeplabv3_resnet101", "maskrcnn"):
        with pytest.raises(ValueError, match=f"not read by {architecture}"):
            ModelConfig(architecture=architecture, organs=("kidney",))
    for organs in (("kidney", "kidney"), ("",)):
        with pytest.raises(ValueError, match="name each organ once"):
            ModelConfig(organs=organs)
    with pytest.raises(InputError, match="known by networks of smp"):
        build_model("unext50", {"organs": ORGANS})
