"""Segment Anything asked in tiles: as its own processor asks it, and of a planted scene what was planted."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from transformers import Sam2ImageProcessor, Sam2Processor, SamImageProcessor, SamProcessor

from histofold.core.faults import InputError
from histofold.models.sam.network import Sam
from histofold.predict.views import normalise_tiles
from histofold.schema.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from histofold.schema.sam import SamConfig
from small_sam import GRID, SIDE, RuledNet, label_answer, random_sam, random_sam2

pytestmark = pytest.mark.slow

POINTS = np.array([[10.5, 30.5], [40.5, 3.5], [0.5, 47.5]])
BOXES = np.array([[3.5, 5.5, 30.5, 45.5], [0.5, 0.5, 64.0, 48.0]])


def processor_of(net, side=SIDE):
    if net.config.model_type == "sam":
        sizes = {"size": {"longest_edge": side}, "pad_size": {"height": side, "width": side}}
        return SamProcessor(SamImageProcessor(**sizes))
    return Sam2Processor(Sam2ImageProcessor(size={"height": side, "width": side}), target_size=side)


def normalised(image_HWC):
    values = torch.from_numpy(image_HWC).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(part)[:, None, None] for part in (IMAGENET_MEAN, IMAGENET_STD))
    return (values - mean) / std


@pytest.mark.parametrize(
    ("made", "shape_hw"), [(random_sam, (64, 48)), (random_sam, (40, 64)), (random_sam2, (64, 64))]
)
def test_prompts_are_answered_as_by_its_own_processor(made, shape_hw):
    net = made()
    image_HWC = np.random.default_rng(0).integers(0, 256, (*shape_hw, 3), np.uint8)
    points = np.minimum(POINTS, np.subtract(shape_hw, 0.5))
    boxes = np.minimum(BOXES, np.tile(shape_hw, 2))
    xy = (points[:, ::-1] - 0.5)[:, None].tolist()
    inputs = processor_of(net)(image_HWC, input_points=[xy], input_labels=[[[1]] * len(xy)], return_tensors="pt")
    sam = Sam(net, SamConfig(), finds_objects=True)
    with torch.inference_mode():
        theirs = net(**{key: inputs[key] for key in ("pixel_values", "input_points", "input_labels")})
        (ours,) = sam(normalised(image_HWC), [points])
        (boxed,) = sam(normalised(image_HWC), [boxes])
        swapped = boxes[:, [1, 0, 3, 2]] - 0.5
        inputs = processor_of(net)(image_HWC, input_boxes=[swapped.tolist()], return_tensors="pt")
        whole = net(pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"], multimask_output=False)
    best = theirs.iou_scores[0].argmax(dim=1)
    wanted = theirs.pred_masks[0][torch.arange(len(points)), best]
    assert torch.allclose(ours.masks_Mhw, wanted.sigmoid(), atol=1e-4)
    assert torch.allclose(ours.scores_M, theirs.iou_scores[0].amax(dim=1).clamp(1e-3, 1), atol=1e-5)
    assert torch.allclose(boxed.masks_Mhw, whole.pred_masks[0][:, 0].sigmoid(), atol=1e-4)
    assert len(torch.unique(ours.masks_Mhw.flatten(1), dim=0)) == len(points), "each point has an answer of its own"


class WavyNet(RuledNet):
    """Gives smooth random fields, whatever it is asked."""

    def forward(self, image_embeddings, multimask_output, input_points, input_labels):
        generator = torch.Generator().manual_seed(3)
        count = input_points.shape[1]
        coarse = torch.randn((count * 3, 1, 4, 4), generator=generator) * torch.rand((count * 3, 1, 1, 1)) * 30
        fields = torch.nn.functional.interpolate(coarse, (16, 16), mode="bicubic").reshape(1, count, 3, 16, 16)
        self.given = fields, torch.rand((1, count, 3), generator=generator)
        return SimpleNamespace(pred_masks=self.given[0], iou_scores=self.given[1])


def test_the_segments_of_a_grid_are_kept_as_its_own_processor_keeps_them():
    net = WavyNet(None)
    sam = Sam(net, SamConfig(points_per_side=6, min_iou=0.4, min_stability=0.8, max_area_share=1.0), False)
    logits_HW = sam(torch.zeros(1, 3, SIDE, SIDE))[0, 0]
    fields, scores = net.given
    frame = torch.tensor([0, 0, 16, 16])
    masks, kept, _ = processor_of(random_sam()).image_processor.filter_masks(
        fields[0], scores[0], (16, 16), frame, pred_iou_thresh=0.4, stability_score_thresh=0.8
    )
    assert 3 < len(masks) < 50
    assert float(logits_HW.sigmoid().max()) == pytest.approx(float(kept.max()), abs=1e-6)
    found = torch.unique(logits_HW.sigmoid())
    assert all(float((kept - value).abs().min()) < 1e-5 for value in found if value > 1e-3)


def planted(shape_hw, seed=0):
    """Discs that do not touch, five at most, as labels, and the image that `label_answer` reads."""
    rng, labels_HW = np.random.default_rng(seed), np.zeros(shape_hw, np.uint8)
    for _ in range(40):
        disc_HW = np.zeros(shape_hw, np.uint8)
        cv2.circle(disc_HW, (int(rng.integers(8, shape_hw[1] - 8)), int(rng.integers(8, shape_hw[0] - 8))), 7, 1, -1)
        if labels_HW.max() < 5 and not labels_HW[cv2.dilate(disc_HW, np.ones((7, 7))) > 0].any():
            labels_HW[disc_HW > 0] = labels_HW.max() + 1
    image = torch.zeros(1, 3, *shape_hw)
    image[0, 0] = torch.from_numpy(labels_HW) * 5 / 255
    return labels_HW, image


@pytest.mark.parametrize("shape_hw", [(64, 64), (64, 40), (48, 64)])
def test_a_grid_finds_what_was_planted_and_no_ground(shape_hw):
    labels_HW, image = planted(shape_hw)
    sam = Sam(RuledNet(label_answer), SamConfig(**GRID), finds_objects=False)
    logits_HW = sam(image)[0, 0].numpy()
    assert logits_HW.shape == shape_hw
    found_HW = logits_HW > 0
    truth_HW = labels_HW > 0
    assert 2 * (found_HW & truth_HW).sum() / (found_HW.sum() + truth_HW.sum()) > 0.9
    assert 1 / (1 + np.exp(-logits_HW.max())) == pytest.approx(0.9, abs=1e-6)
    assert logits_HW.min() < -10, "beside all segments there is nothing"
    (finds,) = sam(image, finds_objects=True)
    assert len(finds) == labels_HW.max(), "each object once, and no ground"


def test_a_segment_of_more_than_the_share_is_ground():
    labels_HW, image = planted((64, 64))
    ground = Sam(RuledNet(label_answer), SamConfig(**{**GRID, "max_area_share": 1.0}), finds_objects=True)
    assert len(ground(image)[0]) == labels_HW.max() + 1
    strict = Sam(RuledNet(label_answer), SamConfig(**{**GRID, "max_area_share": 0.001}), finds_objects=True)
    assert len(strict(image)[0]) == 0
    unsure = Sam(RuledNet(label_answer), SamConfig(**{**GRID, "min_iou": 0.96}), finds_objects=False)
    assert float(unsure(image).max()) < -10


def test_the_second_version_sees_a_tile_stretched():
    net = RuledNet(label_answer, model_type="sam2")
    image = torch.zeros(1, 3, 64, 32)
    image[:, 0, 20:36, 6:20] = 5 / 255
    (finds,) = Sam(net, SamConfig(**GRID), True)(image)
    assert len(finds) == 1
    assert finds.boxes_M4.tolist() == [[0, 0, 64, 32]], "its mask lies over the whole tile"
    assert float((finds.masks_Mhw > 0.5).sum()) == pytest.approx(16 * 28 / 16, abs=3)
    assert np.ptp([x for x, _ in net.asked]) == pytest.approx(SIDE * 7 / 8), "the grid fills the square"


def test_what_is_not_finite_is_shown_to_whoever_can_compute_it_again():
    def broken(image_CHW, prompt):
        return torch.zeros(1, 64, 64, dtype=torch.bool), [float("nan")]

    sam = Sam(RuledNet(broken), SamConfig(**GRID), False)
    assert sam(torch.zeros(1, 3, 64, 64)).isnan().all()
    assert sam(torch.zeros(1, 3, 64, 64), finds_objects=True)[0].scores_M.isnan().all()


def test_no_prompts_give_nothing_and_those_of_the_truth_must_be_given():
    sam = Sam(random_sam(), SamConfig(prompts="truth_boxes"), True)
    (finds,) = sam(torch.zeros(1, 3, 64, 64), [np.zeros((0, 4))])
    assert len(finds) == 0
    assert float(sam(torch.zeros(1, 3, 64, 64), [np.zeros((0, 2))], finds_objects=False).max()) < -10
    with pytest.raises(InputError, match="prompted by the truth"):
        sam(torch.zeros(1, 3, 64, 64))


def test_one_slice_is_seen_as_a_grey_picture():
    grey_HW = np.random.default_rng(1).integers(0, 256, (48, 64), np.uint8)
    seen = Preprocessing(slices=1)
    slice_N1HW = normalise_tiles(torch.from_numpy(grey_HW)[None, None].expand(1, 3, -1, -1), seen)
    assert slice_N1HW.shape == (1, 1, 48, 64)
    sam = Sam(random_sam(), SamConfig(), finds_objects=True)
    (one,), (picture,) = sam(slice_N1HW, [POINTS[:2]]), sam(normalised(np.stack([grey_HW] * 3, axis=2)), [POINTS[:2]])
    assert torch.allclose(one.masks_Mhw, picture.masks_Mhw, atol=1e-4)
