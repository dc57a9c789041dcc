"""The C4 layout: parameters and shapes as detectron2's, and one fifth stage for boxes and masks."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import resnet50

from histofold.models.instances.build import build_detector
from histofold.models.weights import load_encoder_weights
from histofold.schema.network import ModelConfig
from object_tiles import targets_of, tile_of

pytestmark = pytest.mark.slow

FEW = {"proposals_before_nms": 20, "proposals_after_nms": 20, "sampled_boxes": 8, "max_detections": 3}


@pytest.mark.parametrize(("encoder", "convolutions"), [("resnet50", 23_454_912), ("resnet101", 42_394_816)])
def test_parameters_are_those_of_detectron2s_c4(encoder, convolutions):
    """R-50-C4 and R-101-C4 for one class, by hand; detectron2 counts no weights of its frozen normalisation.

    The ResNet's convolutions, the fifth stage's among them (25,557,032 and 44,549,160 parameters less 2,049,000 of the
    classifier and 53,120 and 105,344 of normalisation), proposals (3x3 on 1024 channels; fifteen anchors of one logit
    and four moves), class and box on 2048 channels, and the mask head (a deconvolution of 2x2 to 256, 1x1). Ours, as
    torchvision's, has the background's four moves and its mask besides.
    """
    proposals = 1024 * 1024 * 9 + 1024 + 15 * (1 + 4) * (1024 + 1)
    predictor = 2 * (2048 + 1) + 4 * (2048 + 1)
    mask_head = 2048 * 256 * 4 + 256 + (256 + 1)
    background = 4 * (2048 + 1) + (256 + 1)
    with torch.device("meta"):
        model = build_detector("maskrcnn_c4", {"encoder": encoder, "norm": "frozen"})
    assert sum(p.numel() for p in model.encoder.parameters()) == convolutions
    found = sum(p.numel() for p in model.parameters())
    assert found == convolutions + proposals + predictor + mask_head + background


def test_shapes_are_those_of_detectron2s_c4():
    torch.manual_seed(0)
    model = build_detector("maskrcnn_c4", FEW).eval()
    images = torch.zeros(2, 3, 64, 96)
    boxes = [torch.tensor([[0.0, 0, 20, 30]]), torch.tensor([[3.0, 4, 90, 60], [50, 5, 60, 9]])]
    with torch.inference_mode():
        levels = list(model.backbone(images).values())
        features = model.box_features(levels, boxes)
        logits, moves = model.roi_heads.box_predictor(features)
        masks = model.roi_heads.mask_predictor(features)
    assert [tuple(level.shape) for level in levels] == [(2, 1024, 4, 6)]
    assert model.roi_heads.box_roi_pool(levels, boxes).shape == (3, 1024, 14, 14)
    assert features.shape == (3, 2048, 7, 7)
    assert (logits.shape, moves.shape, masks.shape) == ((3, 2), (3, 8), (3, 2, 14, 14))


def test_weights_of_a_resnet_reach_all_five_stages(tmp_path):
    theirs = resnet50(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    config = ModelConfig(architecture="maskrcnn_c4", encoder_weights=f"file:{tmp_path / 'resnet50.pth'}")
    model = build_detector("maskrcnn_c4", config.arguments())
    load_encoder_weights(model, config)
    assert torch.equal(model.roi_heads.box_head[2].conv3.weight, theirs.layer4[2].conv3.weight)
    assert torch.equal(model.backbone.layer3[0].conv1.weight, theirs.layer3[0].conv1.weight)


def test_the_fifth_stage_learns_from_masks_too():
    torch.manual_seed(0)
    model = build_detector("maskrcnn_c4", FEW).train()
    image, labels = tile_of(3, (64, 64))
    model(image[None], [targets_of(labels)])["loss_mask"].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.roi_heads.box_head.parameters())
    assert all(p.grad is None for p in model.roi_heads.box_predictor.parameters())
