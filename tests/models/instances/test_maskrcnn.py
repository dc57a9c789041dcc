"""Mask R-CNN on a pyramid: torchvision's own as a peer, parameter counts, limits, weights."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection import mask_rcnn
from torchvision.models.detection._utils import Matcher
from torchvision.ops import MultiScaleRoIAlign, box_iou

from histofold.core.objects import Objects, pairwise_iou
from histofold.core.objects.paste import paste_masks
from histofold.models.instances.anchors import AnchorMatcher
from histofold.models.instances.build import build_detector
from histofold.models.instances.maskrcnn import RoiPool, mask_targets
from histofold.models.weights import load_encoder_weights
from histofold.schema.network import SHIPPED_ENCODER, ModelConfig
from object_tiles import targets_of, tile_of

pytestmark = pytest.mark.slow


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("heads", "theirs"),
    [("v1", mask_rcnn.maskrcnn_resnet50_fpn), ("v2", mask_rcnn.maskrcnn_resnet50_fpn_v2)],
)
def test_tensors_are_torchvisions(heads, theirs):
    """The same names and shapes, but for the counters of batch normalisation that its frozen one lacks."""
    with torch.device("meta"):
        ours = build_detector("maskrcnn", {"heads": heads}).state_dict()
        wanted = theirs(weights=None, weights_backbone=None, num_classes=2).state_dict()
    counted = {name: tuple(t.shape) for name, t in ours.items() if not name.endswith("num_batches_tracked")}
    assert counted == {n: tuple(t.shape) for n, t in wanted.items() if not n.endswith("num_batches_tracked")}


@pytest.mark.parametrize(("encoder", "convolutions"), [("resnet50", 23_454_912), ("resnet101", 42_394_816)])
def test_parameters_are_those_of_detectron2s_fpn(encoder, convolutions):
    """R-50-FPN and R-101-FPN for one class, by hand; detectron2 counts no weights of its frozen normalisation.

    The ResNets' convolutions (25,557,032 and 44,549,160 less 2,049,000 of the classifier and 53,120 and 105,344 of
    normalisation), the pyramid (1x1 from 256, 512, 1024, 2048 channels and 3x3, each to 256 with biases), proposals
    (3x3; three anchors of one logit and four moves), the box head (12544 to 1024 to 1024), class and box, and the mask
    head (four 3x3, a deconvolution of 2x2, 1x1). Ours, as torchvision's, has the background's four moves and its mask
    besides.
    """
    pyramid = 256 * (256 + 512 + 1024 + 2048) + 4 * 256 + 4 * (256 * 256 * 9 + 256)
    proposals = 256 * 256 * 9 + 256 + 3 * (1 + 4) * (256 + 1)
    box_head = 12544 * 1024 + 1024 + 1024 * 1024 + 1024
    predictor = 2 * (1024 + 1) + 4 * (1024 + 1)
    mask_head = 4 * (256 * 256 * 9 + 256) + 256 * 256 * 4 + 256 + (256 + 1)
    background = 4 * (1024 + 1) + (256 + 1)
    with torch.device("meta"):
        model = build_detector("maskrcnn", {"encoder": encoder, "norm": "frozen"})
    assert parameters(model.encoder) == convolutions
    assert parameters(model) == convolutions + pyramid + proposals + box_head + predictor + mask_head + background


def test_a_flat_map_is_pooled_to_itself_and_a_ramp_to_the_centres_of_its_cells():
    """Value x + 0.5 at column x: what a box shows of it is where its cells' centres lie, which torchvision shifts."""
    ramp = (torch.arange(64) + 0.5).expand(1, 1, 64, 64)
    boxes = [torch.tensor([[10.0, 8.0, 24.0, 22.0], [12.5, 8.0, 19.5, 36.0]])]
    pooled = RoiPool((1,), 7, 2)([ramp], boxes)
    torch.testing.assert_close(pooled[0, 0, 0], 10 + torch.arange(7) * 2 + 1.0)
    torch.testing.assert_close(pooled[1, 0, 3], 12.5 + torch.arange(7) + 0.5)


def test_boxes_go_to_the_levels_of_torchvisions_pool():
    """Each level holds its own number, so that the pooled value names the level."""
    sides = torch.tensor([4.0, 111, 113, 223, 225, 447, 449, 900])
    boxes = [torch.stack([0 * sides, 0 * sides, sides, sides], dim=1)]
    levels = {str(n): torch.full((1, 1, 1024 >> n + 2, 1024 >> n + 2), float(n)) for n in range(4)}
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 2, 2)(levels, boxes, [(1024, 1024)])
    assert torch.equal(RoiPool((4, 8, 16, 32), 2, 2)(list(levels.values()), boxes), theirs)


@pytest.mark.parametrize("count", [0, 1, 70])
def test_mask_targets_show_each_box_its_object(count):
    masks = torch.zeros(2, 40, 60, dtype=torch.uint8)
    masks[0, 10:20, 5:25] = 1
    masks[1, 30:, 50:] = 1
    boxes = torch.tensor([[5.0, 10, 25, 20], [40, 20, 60, 40]]).repeat(35, 1)[:count]
    grids = mask_targets(masks, boxes, torch.arange(count) % 2, 4)
    assert grids.shape == (count, 4, 4)
    corner = torch.tensor([[0.0] * 4] * 2 + [[0.0, 0, 1, 1]] * 2)
    for place, grid in enumerate(grids):
        torch.testing.assert_close(grid, corner if place % 2 else torch.ones(4, 4), rtol=0, atol=0.1)


def test_masks_in_boxes_of_others_are_those_of_its_own():
    torch.manual_seed(0)
    model = build_detector(
        "maskrcnn", {"encoder": "resnet18", "max_detections": 130, "proposals_after_nms": 300}
    ).eval()
    images = torch.stack([tile_of(6, (64, 64), seed=n)[0] for n in range(2)])
    with torch.inference_mode():
        first, second = model(images)
        masks = model.masks_in(images, [first.boxes_M4[:3], second.boxes_M4[:0]])
    assert len(first) == 130
    torch.testing.assert_close(masks[0], first.masks_Mhw[:3], rtol=1e-4, atol=1e-4)
    assert masks[1].shape == (0, 28, 28)


def test_four_hundred_objects_pass_through_anchors_and_limits():
    """Proposals and detections of a crowded tile are cut at the limits and nowhere before."""
    torch.manual_seed(0)
    limits = {"proposals_before_nms": 700, "proposals_after_nms": 600, "sampled_boxes": 64, "max_detections": 450}
    model = build_detector("maskrcnn", {"encoder": "resnet18", "nms_threshold": 0.9, **limits})
    image, labels = tile_of(400, (192, 192), side=7)
    losses = model.train()(image[None], [targets_of(labels)])
    assert all(loss.isfinite() for loss in losses.values())
    model.eval()
    heads = model.roi_heads
    with torch.inference_mode():
        levels = model._levels(image[None])
        (proposals,), _ = model.rpn(model._image_list(image[None]), levels)
        assert 400 < len(proposals) <= 600
        scores = torch.zeros(len(proposals), 2)
        boxes, kept, _ = heads.postprocess_detections(scores, torch.zeros(len(proposals), 8), [proposals], [(192, 192)])
    assert len(boxes[0]) == min(450, len(proposals))
    assert (kept[0] == 0.5).all()
    sizes = [cell[:, 2:].sub(cell[:, :2]) for cell in model.rpn.anchor_generator.cell_anchors]
    assert [size[1].tolist() for size in sizes] == [[side, side] for side in (8, 16, 32, 64, 128)]


def test_shipped_weights_are_loaded():
    config = ModelConfig(architecture="maskrcnn", encoder=SHIPPED_ENCODER, encoder_weights="shipped")
    model = build_detector("maskrcnn", config.arguments())
    before = model.backbone.body.conv_stem.weight.clone()
    load_encoder_weights(model, config)
    assert not torch.equal(model.backbone.body.conv_stem.weight, before)


def test_a_whole_mask_rcnn_of_photographs_is_read_without_its_classes(tmp_path):
    """Under the names of torchvision's published file, which are older than its network's."""
    theirs = mask_rcnn.MaskRCNN(mask_rcnn._resnet_fpn_extractor(mask_rcnn.resnet50(), 5), 91)
    old = {".0.0.weight": ".weight", ".0.0.bias": ".bias"}
    state = {}
    for name, tensor in theirs.state_dict().items():
        for ending, short in old.items():
            if name.startswith("rpn.head.conv"):
                name = name.replace(ending, short)
        if "fpn." in name:
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        if "mask_head" in name:
            place = name.split(".")[2]
            name = f"roi_heads.mask_head.mask_fcn{int(place) + 1}.{name.split('.')[-1]}"
        state[name] = tensor
    torch.save(state, tmp_path / "coco.pth")
    config = ModelConfig(architecture="maskrcnn", encoder_weights=f"file:{tmp_path / 'coco.pth'}")
    model = build_detector("maskrcnn", config.arguments())
    load_encoder_weights(model, config)
    found, wanted = model.state_dict(), theirs.state_dict()
    new = {name for name in wanted if found[name].shape != wanted[name].shape}
    assert new == {
        *(
            f"roi_heads.box_predictor.{part}.{kind}"
            for part in ("cls_score", "bbox_pred")
            for kind in ("weight", "bias")
        ),
        *(f"roi_heads.mask_predictor.mask_fcn_logits.{kind}" for kind in ("weight", "bias")),
    }
    assert all(torch.equal(found[name], wanted[name]) for name in wanted.keys() - new)


@pytest.mark.parametrize("count", [1, 3, 120])
def test_anchors_are_matched_as_torchvision_does(count, monkeypatch):
    monkeypatch.setattr("histofold.models.instances.anchors.PAIRS_AT_ONCE", 1000)
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 90
    boxes = torch.cat([corners, corners + 3 + torch.rand(count, 2, generator=generator) * 40], dim=1)
    corners = torch.rand(2000, 2, generator=generator) * 90
    anchors = torch.cat([corners, corners + 3 + torch.rand(2000, 2, generator=generator) * 40], dim=1)
    wanted = Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(boxes, anchors))
    assert torch.equal(AnchorMatcher()((boxes, anchors)), wanted)
    assert (wanted >= 0).any()
    assert {-1, -2} <= set(wanted.tolist())


def test_an_object_beside_all_anchors_claims_none():
    boxes, anchors = (
        torch.tensor([[50.0, 50, 60, 60], [0, 0, 9, 9]]),
        torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]),
    )
    assert AnchorMatcher()((boxes, anchors)).tolist() == [1, -1]


def test_a_narrow_pyramid_is_narrow_throughout():
    torch.manual_seed(0)
    arguments = {"encoder": SHIPPED_ENCODER, "channels": 32, "max_detections": 2, "proposals_after_nms": 9}
    model = build_detector("maskrcnn", arguments).eval()
    with torch.inference_mode():
        assert {level.shape[1] for level in model.backbone(torch.zeros(1, 3, 64, 64)).values()} == {32}
        assert model(torch.zeros(1, 3, 64, 64))[0].masks_Mhw.shape == (2, 28, 28)
    assert (
        parameters(model.roi_heads) < parameters(build_detector("maskrcnn", {"encoder": SHIPPED_ENCODER}).roi_heads) / 6
    )


def test_it_learns_a_tile_by_heart():
    """Of the five best finds of a narrow network four are objects, and what is pasted of these lies on them."""
    torch.manual_seed(0)
    few = {"proposals_before_nms": 50, "proposals_after_nms": 50, "sampled_boxes": 32, "max_detections": 5}
    model = build_detector("maskrcnn", {"encoder": "tu-lcnet_050", "channels": 32, **few}).train()
    image, labels = tile_of(5, (64, 64), side=14)
    optimiser = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=50)
    for _ in range(50):
        optimiser.zero_grad()
        sum(model(image[None], [targets_of(labels)]).values()).backward()
        optimiser.step()
        schedule.step()
    with torch.inference_mode():
        (finds,) = model.eval()(image[None])
    found = paste_masks(finds.boxes_M4.numpy(), finds.masks_Mhw.numpy(), (64, 64), framed=False)
    overlaps = pairwise_iou(Objects.from_labels(labels), found).max(axis=1)
    assert (overlaps > 0.6).sum() >= 4
