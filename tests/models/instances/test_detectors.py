"""What every detector keeps to: losses, gradients, finds, precision, saving, and its place outside kernels of masks."""

from __future__ import annotations

import copy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

import histofold
from histofold.core.faults import InputError
from histofold.core.metrics.calibration import scaled_score
from histofold.kaggle.bundle.bundler import closure
from histofold.models.instances.build import build_detector, build_network
from histofold.models.instances.finds import BOXES_AT_ONCE
from histofold.models.instances.mask2former import Mask2Former
from histofold.schema.network import DetectorArchitecture, DetectorConfig, ModelConfig
from object_tiles import targets_of, tile_of

pytestmark = pytest.mark.slow

FEW = {"proposals_before_nms": 20, "proposals_after_nms": 20, "sampled_boxes": 8, "max_detections": 5}
NETWORKS = {
    "maskrcnn": {"encoder": "resnet18", **FEW},
    "maskrcnn v2": {"encoder": "resnet18", "heads": "v2", **FEW},
    "maskrcnn on timm": {"encoder": "tu-convnext_atto", **FEW},
    "maskrcnn_c4": {"encoder": "resnet50", **FEW},
    "mask2former": {"queries": 7, "max_detections": 5},
    "yolo": {"encoder": "yolo11n-seg", "max_detections": 5},
}
YOLO = pytest.mark.skipif(not find_spec("ultralytics"), reason="ultralytics, under the AGPL, is the user's to install")
HW = (64, 96)


TINY_SWIN = {"embed_dim": 12, "num_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1], "window_size": 4}
TINY_DECODER = {
    **dict.fromkeys(
        ("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim", "dim_feedforward"), 32
    ),
    "encoder_layers": 1,
    "decoder_layers": 3,
    "num_attention_heads": 2,
    "train_num_points": 64,
    "num_queries": 7,
}


def tiny_mask2former():
    """Mask2Former of its own parts, each small."""
    swin = SwinConfig(**TINY_SWIN, out_features=[f"stage{n}" for n in range(1, 5)])
    hf = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=swin, num_labels=1, **TINY_DECODER))
    return Mask2Former(hf, DetectorConfig(**NETWORKS["mask2former"]))


def build(name):
    torch.manual_seed(0)
    if name == "mask2former":
        return tiny_mask2former()
    model = build_detector(name.split()[0], NETWORKS[name])
    if name == "yolo":  # its scores begin where nothing is found
        for branch in model.net.model[-1].cv3:
            torch.nn.init.zeros_(branch[-1].bias)
    return model


def batch(counts, hw=HW):
    tiles = [tile_of(count, hw, seed=seed) for seed, count in enumerate(counts)]
    return torch.stack([image for image, _ in tiles]), [targets_of(labels) for _, labels in tiles]


@pytest.fixture(scope="module", params=[pytest.param(name, marks=YOLO if name == "yolo" else ()) for name in NETWORKS])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def network(name):
    """One network in evaluation mode, with statistics of some images; tests leave it as it is."""
    model = build(name).train()
    with torch.no_grad():
        model(*batch([3, 2]))
    return model.eval()


def assert_equal(finds, others):
    assert len(finds) == len(others)
    for one, other in zip(finds, others, strict=True):
        for part in ("boxes_M4", "scores_M", "masks_Mhw"):
            torch.testing.assert_close(getattr(one, part), getattr(other, part), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (5, 5)])
def test_losses_are_finite_and_gradients_reach_every_parameter(name, counts):
    model = build(name).train()
    losses = model(*batch(counts))
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    learning = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
    lost = [key for key, grad in learning.items() if grad is None or not grad.isfinite().all()]
    assert lost == []
    assert any(p.grad.any() for p in model.encoder.parameters())
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@pytest.mark.parametrize("hw", [HW, (32, 64), (128, 32)])
def test_finds_lie_in_their_tile_best_first(network, hw):
    images, _ = batch([2, 0], hw)
    with torch.inference_mode():
        found = network(images)
    assert len(found) == 2
    for finds in found:
        assert 0 < len(finds) <= FEW["max_detections"]
        assert finds.boxes_M4.dtype == finds.scores_M.dtype == finds.masks_Mhw.dtype == torch.float32
        y0, x0, y1, x1 = finds.boxes_M4.T
        assert ((y0 >= 0) & (y0 < y1) & (y1 <= hw[0]) & (x0 >= 0) & (x0 < x1) & (x1 <= hw[1])).all()
        assert (finds.scores_M.diff() <= 0).all()
        assert ((finds.scores_M > DetectorConfig.score_threshold) & (finds.scores_M <= 1)).all()
        assert ((finds.masks_Mhw >= 0) & (finds.masks_Mhw <= 1)).all()
        assert len(finds.masks_Mhw) == len(finds)


def test_evaluation_is_deterministic_and_blind_to_batch_mates(network):
    images, _ = batch([4, 1])
    with torch.inference_mode():
        together = network(images)
        for one, other in zip(together, network(images), strict=True):
            assert torch.equal(one.boxes_M4, other.boxes_M4)
            assert torch.equal(one.masks_Mhw, other.masks_Mhw)
        assert_equal(together, [*network(images[:1]), *network(images[1:])])


def test_saved_weights_and_copies_find_the_same(name, network, tmp_path):
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    images, _ = batch([3])
    with torch.inference_mode():
        wanted = network(images)
        fresh = build(name).eval()
        fresh.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
        assert_equal(fresh(images), wanted)
        twin = copy.deepcopy(network)
        for tensor in network.state_dict().values():
            assert not any(tensor is other for other in twin.state_dict().values())
        for parameter in fresh.parameters():
            parameter.zero_()
        assert_equal(twin(images), wanted)


@pytest.mark.parametrize("name", ["maskrcnn"], indirect=True)
def test_scores_are_scaled_by_the_line_of_a_manifest_and_nothing_else(name, network):
    line = [0.5, -1.0]
    scaled = build_detector(name, {**NETWORKS[name], "score_line": line}).eval()
    scaled.load_state_dict(network.state_dict(), strict=True)
    images, _ = batch([3])
    with torch.inference_mode():
        (own,), (found,) = network(images), scaled(images)
        boxes = [own.boxes_M4]
        assert torch.equal(scaled.masks_in(images, boxes)[0], network.masks_in(images, boxes)[0])
    assert torch.equal(found.boxes_M4, own.boxes_M4)
    assert torch.equal(found.masks_Mhw, own.masks_Mhw)
    assert found.scores_M.tolist() == pytest.approx([scaled_score(score, line) for score in own.scores_M.tolist()])


@pytest.mark.parametrize(
    "name", ["maskrcnn", "maskrcnn on timm", "mask2former", pytest.param("yolo", marks=YOLO)], indirect=True
)
def test_bf16_finds_boxes_in_full_precision(network):
    images, _ = batch([3])
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        (finds,) = network(images)
    assert finds.boxes_M4.dtype == finds.scores_M.dtype == finds.masks_Mhw.dtype == torch.float32
    assert len(finds)
    assert finds.masks_Mhw.isfinite().all()


def test_many_proposals_are_looked_at_some_at_a_time():
    """Two thousand at once, of each tile of a batch, would take C4 some ten gigabytes."""
    torch.manual_seed(0)
    many = {"proposals_before_nms": 900, "proposals_after_nms": 900}
    model = build_detector("maskrcnn", {"encoder": "resnet18", "max_detections": 5, **many}).eval()
    counts = []
    model.roi_heads.box_head.register_forward_hook(lambda _, inputs, __: counts.append(len(inputs[0])))
    with torch.inference_mode():
        model(batch([4, 1], (128, 160))[0])
    assert sum(counts) > 2 * BOXES_AT_ONCE
    assert max(counts) == BOXES_AT_ONCE


@pytest.mark.parametrize("name", ["maskrcnn", "maskrcnn_c4", pytest.param("yolo", marks=YOLO)], indirect=True)
def test_an_overflow_is_no_empty_answer(name):
    model = build(name).eval()
    images, _ = batch([3])
    with torch.no_grad():
        next(p for p in model.parameters() if p.ndim == 4).fill_(torch.inf)
        (finds,) = model(images)
    assert finds.scores_M.isnan().all()
    assert len(finds) == len(finds.boxes_M4) == len(finds.masks_Mhw) == 1


def test_sizes_that_do_not_fit_are_refused(network):
    with pytest.raises(ValueError, match=r"96x50 px.*multiples of 32"):
        network(torch.zeros(1, 3, 96, 50))


@pytest.mark.parametrize(
    ("architecture", "arguments", "words"),
    [
        ("unet", {}, "no detector: known are maskrcnn"),
        ("maskrcnn", {"encoder": "resnet7"}, "cannot be built.*known are resnet18"),
        ("maskrcnn", {"encoder": "tu-swin_tiny_patch4_window7_224"}, "mask2former"),
        ("maskrcnn", {"encoder": "tu-test_vit"}, "a pyramid needs 4, 8, 16 and 32"),
        ("maskrcnn", {"classes": 2}, "one class"),
        ("maskrcnn", {"anchor_sizes": [8, 16]}, "five maps"),
        ("maskrcnn", {"depth": 3}, "cannot be built.*depth"),
        ("maskrcnn_c4", {"encoder": "resnet18"}, "known are resnet50"),
        ("mask2former", {"encoder": "resnet50"}, "known are swin_tiny, swin_small"),
        ("yolo", {"encoder": "yolo26n-seg"}, "known are yolov8 and yolo11"),
        ("yolo", {"anchor_sizes": [1]}, "not read by yolo"),
        ("mask2former", {"anchor_sizes": [1]}, "not read by mask2former"),
        ("maskrcnn_c4", {"heads": "v2"}, "not read by maskrcnn_c4"),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(architecture, arguments, words):
    with pytest.raises(InputError, match=words):
        build_detector(architecture, arguments)


def test_without_ultralytics_yolo_names_it_and_its_licence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    monkeypatch.setitem(sys.modules, "ultralytics.cfg", None)
    with pytest.raises(InputError, match=r"pip install 'ultralytics.*AGPL-3.0.*maskrcnn"):
        build_detector("yolo", {})


@YOLO
def test_an_older_ultralytics_is_refused_and_nothing_of_the_process_is_changed(monkeypatch):
    threads, printing = cv2.getNumThreads(), np.get_printoptions()
    build_detector("yolo", {})
    assert (cv2.getNumThreads(), np.get_printoptions()) == (threads, printing)
    monkeypatch.setattr("ultralytics.__version__", "8.3.200")
    with pytest.raises(InputError, match=r"another ultralytics than 8.3.200: pip install"):
        build_detector("yolo", {})


def test_every_network_is_built_by_its_settings():
    with torch.device("meta"):
        dense = build_network("unet", ModelConfig().arguments())
        assert isinstance(dense.encoder, torch.nn.Module)
        for architecture in set(get_args(DetectorArchitecture)) - {"yolo"}:
            model = build_network(architecture, ModelConfig(architecture=architecture).arguments())
            assert sum(p.numel() for p in model.encoder.parameters()) > 2e7


@pytest.mark.parametrize("kernel", ["hubmap_2022", "kidney_2020"])
def test_kernels_of_masks_hold_no_detector(kernel):
    modules = closure(f"histofold.kernels.{kernel}", Path(histofold.__file__).parent)
    assert not [module.name for module in modules if ".models.instances" in module.name]
