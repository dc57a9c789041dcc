import numpy as np
import pytest
from pycocotools import mask as coco_mask

from histofold.core.objects import Objects, box_iou, pairwise_coverage, pairwise_iou
from histofold.core.objects.instances import join_objects
from histofold.core.objects.overlaps import overlapping_pairs
from histofold.core.rle.runs import Runs, runs_from_mask
from object_scenes import pixel_sets, random_labels, random_masks, set_iou

SHAPE = (11, 17)


def filled(masks):
    """Objects of a list of masks that may be empty."""
    return Objects.from_masks(masks, SHAPE)


def test_objects_give_back_their_masks():
    rng = np.random.default_rng(0)
    for _ in range(60):
        masks = random_masks(rng, SHAPE)
        objects = filled(masks)
        assert [runs.to_mask().tolist() for runs in objects] == [mask.tolist() for mask in masks]
        assert objects.areas.tolist() == [mask.sum() for mask in masks]
        chosen = rng.permutation(len(masks))[: rng.integers(0, len(masks) + 1)]
        assert [runs.area for runs in objects.select(chosen)] == [masks[index].sum() for index in chosen]
        both = join_objects([objects, filled([]), objects.select(chosen)])
        assert [runs.area for runs in both] == [mask.sum() for mask in masks + [masks[index] for index in chosen]]


def test_labels_are_objects_by_ascending_label():
    rng = np.random.default_rng(1)
    for _ in range(60):
        labels = random_labels(rng, SHAPE)
        expected = [labels == label for label in np.unique(labels) if label]
        for image in (labels, labels.astype(np.uint8), np.asfortranarray(labels.astype(np.int32))):
            assert [runs.to_mask().tolist() for runs in Objects.from_labels(image)] == [e.tolist() for e in expected]


def test_a_mask_of_all_pixels_has_a_run_a_column():
    full = Objects.from_masks([np.ones(SHAPE)])
    assert (full.starts % SHAPE[0] == 0).all()
    assert full.lengths.tolist() == [SHAPE[0]] * SHAPE[1]
    assert Objects.from_labels(np.ones(SHAPE, int)).starts.tolist() == full.starts.tolist()
    assert full.boxes.tolist() == [[0, 0, *SHAPE]]


def test_boxes_hold_the_outermost_pixels():
    rng = np.random.default_rng(2)
    for _ in range(60):
        masks = random_masks(rng, SHAPE)
        for mask, box in zip(masks, filled(masks).boxes.tolist(), strict=True):
            rows, columns = np.nonzero(mask)
            expected = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1] if len(rows) else [0] * 4
            assert box == expected


def test_iou_and_coverage_are_those_of_pixel_sets_and_of_pycocotools(monkeypatch):
    monkeypatch.setattr("histofold.core.objects.overlaps.BLOCK_PAIRS", 7)  # several blocks a scene
    rng = np.random.default_rng(3)
    for _ in range(100):
        sides = [random_masks(rng, SHAPE), random_masks(rng, SHAPE)]
        one, other = (pixel_sets(side) for side in sides)
        ious = pairwise_iou(*map(filled, sides))
        assert ious.shape == (len(one), len(other))
        assert ious.tolist() == [[set_iou(a, b) for b in other] for a in one]
        coverage = [[len(a & b) / max(1, min(len(a), len(b))) for b in other] for a in one]
        assert pairwise_coverage(*map(filled, sides)).tolist() == coverage
        if one and other:
            codes = [[coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in side] for side in sides]
            assert ious.tolist() == coco_mask.iou(*codes, [0] * len(other)).tolist()


def test_box_iou_is_that_of_their_pixels_in_either_order_of_axes():
    rng = np.random.default_rng(4)
    low, size = rng.integers(0, 8, (2, 12, 2)), rng.integers(0, 6, (2, 12, 2))
    boxes = np.concatenate([low, low + size], axis=2)
    drawn = [[{(y, x) for y in range(b[0], b[2]) for x in range(b[1], b[3])} for b in side] for side in boxes]
    expected = [[set_iou(a, b) for b in drawn[1]] for a in drawn[0]]
    assert box_iou(*boxes).tolist() == expected
    assert box_iou(*boxes[..., [1, 0, 3, 2]]).tolist() == expected
    assert box_iou(np.zeros((0, 4)), boxes[0]).shape == (0, 12)


def test_no_objects_are_objects():
    nothing = Objects.from_masks([])
    assert len(nothing) == len(filled([])) == len(join_objects([])) == 0
    assert pairwise_iou(nothing, filled([np.ones(SHAPE)])).shape == (0, 1)
    assert len(overlapping_pairs(nothing, nothing).shared) == 0
    assert join_objects([filled([]), nothing]).shape_hw == SHAPE


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Objects.from_runs([Runs(np.array([0]), np.array([1]), (3, 4))], (4, 3)), "object 0"),
        (lambda: Objects.from_runs([runs_from_mask(np.ones((3, 4)), "C")], (3, 4)), 'order "F"'),
        (lambda: Objects.from_masks(np.ones((3, 4))), r"mask 0 is \(4,\)"),
        (lambda: pairwise_iou(Objects.from_masks([np.ones((3, 4))]), filled([np.ones(SHAPE)])), "size of the image"),
        (lambda: join_objects([Objects.from_masks([np.ones((3, 4))]), filled([np.ones(SHAPE)])]), "one size"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
