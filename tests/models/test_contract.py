"""What every network keeps to, whatever its family: sizes, gradients, precision, saving, independence, encoder."""

from __future__ import annotations

import ast
import copy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import histofold
from histofold.kaggle.bundle.bundler import closure
from histofold.models.build import build_model
from histofold.models.folding import fold_norms

pytestmark = pytest.mark.slow

NARROW = [16, 16, 8, 8, 8]
NETWORKS = {
    "unet": {"encoder": "resnet18", "decoder_channels": NARROW},
    "unetplusplus": {"encoder": "tu-lcnet_035", "decoder_channels": NARROW},
    "manet": {"encoder": "resnet18", "decoder_channels": NARROW},
    "fpn": {"encoder": "resnet18"},
    "pan": {"encoder": "resnet18"},
    "unext50": {},
    "effunet-b0": {},
    "deeplabv3": {"encoder": "resnet18"},
    "deeplabv3plus": {"encoder": "tu-convnext_atto"},
    "deeplabv3_resnet101": {"head_channel": 7},
    "segformer": {"encoder": "mit_b0"},
    "upernet": {"encoder": "tu-convnext_atto"},
    "dpt": {"encoder": "tu-vit_tiny_patch16_224"},
}
STRIDES = {"pan": 128, "deeplabv3": 8, "deeplabv3plus": 16, "deeplabv3_resnet101": 8}
HEAVY = ("deeplabv3_resnet101", "effunet-b0", "unetplusplus", "unext50", "upernet", "dpt", "pan")
FITTING_HW = (64, 96)
ODD_HW = (31, 50)


def build(name, classes=1, **more):
    return build_model(name, {**NETWORKS[name], "classes": classes, **more})


def images_NCHW(batch, hw, seed=0):
    return torch.rand(batch, 3, *hw, generator=torch.Generator().manual_seed(seed)) * 4 - 2


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ()) for name in NETWORKS],
)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def network(name):
    """One network of two classes in evaluation mode, with statistics of some images; tests leave it as it is."""
    torch.manual_seed(0)
    model = build(name, classes=2)
    with torch.no_grad():
        model.train()(images_NCHW(2, FITTING_HW, seed=9))
    return model.eval()


@pytest.mark.parametrize("hw", [FITTING_HW, ODD_HW, (1, 7), (33, 32), (1, 1)])
def test_every_size_is_taken(network, hw):
    with torch.inference_mode():
        logits = network(images_NCHW(1, hw))
    assert logits.shape == (1, 2, *hw)
    assert logits.isfinite().all()


def test_sizes_that_fit_are_untouched_and_others_are_padded_and_cropped(name, network):
    stride = STRIDES.get(name, 32)
    fitting = images_NCHW(1, (stride * 4, stride * 5))
    with torch.inference_mode():
        assert torch.equal(network(fitting), network.net(fitting))
        odd = fitting[:, :, : stride * 4 - 3, : stride * 5 - 1]
        mirrored = torch.cat([odd, odd[:, :, -4:-1].flip(2)], dim=2)
        mirrored = torch.cat([mirrored, mirrored[:, :, :, -2:-1]], dim=3)
        assert torch.equal(network(odd), network.net(mirrored)[:, :, :-3, :-1])


@pytest.mark.parametrize(("classes", "activation", "channels"), [(1, "sigmoid", 1), (5, "softmax", 6)])
def test_each_class_has_its_channel_and_gradients_reach_every_parameter(name, classes, activation, channels):
    """Logits of the images' size; the other tests have two classes."""
    torch.manual_seed(0)
    model = build(name, classes, activation=activation).train()
    logits = model(images_NCHW(2, FITTING_HW))
    assert logits.shape == (2, channels, *FITTING_HW)
    logits.square().mean().backward()
    assert all(p.requires_grad for p in model.parameters())
    lost = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert lost == []
    assert any(p.grad.any() for p in model.encoder.parameters())


def test_its_normalisations_fold_into_its_convolutions(name, network):
    folded = fold_norms(network)
    left = [key for key, layer in folded.named_modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert all("skip_norm" in key or "pyramid" in key for key in left), "these come after an activation, or a sum"
    image = images_NCHW(2, ODD_HW)
    with torch.inference_mode():
        plain, fast = network(image), folded(image)
    assert (plain - fast).abs().max() <= 1e-3 * plain.abs().max()


def test_bf16_stays_finite_and_near_float32(network):
    image = images_NCHW(1, ODD_HW)
    with torch.inference_mode():
        exact = network(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = network(image).float()
    assert rough.isfinite().all()
    assert (rough - exact).abs().max() <= 0.1 * exact.abs().max() + 0.1


@pytest.mark.slow  # and very much so on processors without bf16: our own decoders, and one of each library
@pytest.mark.parametrize("name", ["unet", "segformer", "unext50", "effunet-b0"], indirect=True)
def test_bf16_trains_with_finite_gradients(name):
    model = build(name, classes=2, activation="softmax").train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(images_NCHW(2, (32, 40))).float().square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_saved_weights_give_the_same_logits(name, tmp_path):
    torch.manual_seed(1)
    source, target = (build(name, classes=2, activation="softmax") for _ in range(2))
    with torch.no_grad():
        source.train()(images_NCHW(2, (32, 40)))
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    assert not any("net." in key or "hf." in key for key in state)
    image = images_NCHW(1, ODD_HW)
    with torch.inference_mode():
        wanted = source.eval()(image)
        assert not torch.equal(target.eval()(image), wanted)
        target.load_state_dict(state, strict=True)
        assert torch.equal(target(image), wanted)


def test_a_lost_or_foreign_tensor_is_refused(network):
    state = network.state_dict()
    first = next(iter(state))
    lacking = {key: tensor for key, tensor in state.items() if key != first}
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict(lacking)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        network.load_state_dict({**state, "foreign.weight": torch.zeros(1)})


def test_a_copy_stands_for_itself(network):
    twin = copy.deepcopy(network)
    image = images_NCHW(1, FITTING_HW)
    with torch.inference_mode():
        wanted = network(image)
        assert torch.equal(twin(image), wanted)
        for tensor in twin.parameters():
            tensor.zero_()
        assert not torch.equal(twin(image), wanted)
        assert torch.equal(network(image), wanted)
        twin.load_state_dict(network.state_dict())
        assert torch.equal(twin(image), wanted)


def test_evaluation_is_deterministic_and_blind_to_batch_mates(network):
    pair = images_NCHW(2, FITTING_HW)
    with torch.inference_mode():
        together, again = network(pair), network(pair)
        alone = torch.cat([network(pair[:1]), network(pair[1:])])
    assert torch.equal(together, again)
    assert not torch.allclose(together[0], together[1], atol=1e-3)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=5e-5)  # a batch is summed in another order


@pytest.mark.parametrize("hw", [FITTING_HW, ODD_HW])
def test_the_encoder_is_called_once_and_its_maps_go_from_fine_to_coarse(network, hw):
    calls = []
    handle = network.encoder.register_forward_hook(lambda _, __, maps: calls.append(list(maps)))
    with torch.inference_mode():
        network(images_NCHW(2, hw))
    handle.remove()
    assert len(calls) == 1
    sizes = [feature.shape[2:].numel() for feature in calls[0]]
    assert len(sizes) >= 4
    assert sizes == sorted(sizes, reverse=True)
    assert all(feature.ndim == 4 and len(feature) == 2 for feature in calls[0])
    assert calls[0][-1].shape[1] > 0
    assert sizes[-1] <= 64 * 96 / 64


@pytest.mark.slow
def test_a_swin_takes_every_size_too():
    torch.manual_seed(0)
    model = build_model("upernet", {"encoder": "tu-swin_tiny_patch4_window7_224", "classes": 2})
    model(images_NCHW(2, (64, 64))).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.inference_mode():
        for hw in (FITTING_HW, ODD_HW, (1, 7), (256, 320)):
            pair = images_NCHW(2, hw)
            together = model(pair)
            assert together.shape == (2, 2, *hw)
            torch.testing.assert_close(together[1:], model(pair[1:]), rtol=1e-5, atol=1e-5)


OUTSIDE = {"segmentation_models_pytorch", "timm", "torchvision", "transformers"}
"""What a network may import while it is built; torch stands at the top."""


def outside_imports(module: ast.Module, top: bool) -> set[str]:
    """Third-party packages that a module imports at its top, or anywhere below."""
    statements = module.body if top else [node for node in ast.walk(module) if node not in module.body]
    names = set()
    for node in statements:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names - sys.stdlib_module_names - {"histofold"}


@pytest.mark.parametrize("kernel", ["hubmap_2022", "kidney_2020"])
def test_a_kernel_holds_every_network_and_loads_its_library_late(kernel):
    root = Path(histofold.__file__).parent
    models = {m.name: m.tree for m in closure(f"histofold.kernels.{kernel}", root) if ".models." in m.name}
    assert {f"histofold.models.{part}" for part in ("build", "segformer", "pyramid_unet")} <= models.keys()
    assert "histofold.models.weights" not in models, "a kernel never fetches pretrained weights"
    late = set()
    for module, tree in models.items():
        assert outside_imports(tree, top=True) <= {"torch"}, module
        late |= outside_imports(tree, top=False)
    assert late == OUTSIDE
