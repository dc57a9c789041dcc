import numpy as np
import pytest

from histofold.core.objects import Objects, box_iou
from histofold.core.objects.fusion import box_nms, fuse_masks, mask_nms, weighted_boxes_fusion
from object_scenes import pixel_sets, random_masks, set_iou

SHAPE = (11, 17)


def naive_nms(scores, overlap, limit):
    """The definition: the best stays, all that overlap it too much go, and again."""
    left, kept = sorted(range(len(scores)), key=lambda index: -scores[index]), []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [index for index in left if not overlap[best][index] > limit]
    return kept


@pytest.mark.parametrize("limit", [0.0, 0.3, 0.7])
def test_nms_of_masks_is_the_definition(limit):
    rng = np.random.default_rng(0)
    for _ in range(60):
        masks = random_masks(rng, SHAPE, most=12)
        scores, sets = rng.integers(0, 5, len(masks)) / 5, pixel_sets(masks)
        objects = Objects.from_masks(masks, SHAPE)
        ious = [[set_iou(a, b) for b in sets] for a in sets]
        assert mask_nms(objects, scores, limit).tolist() == naive_nms(scores, ious, limit)
        shares = [[len(a & b) / max(1, min(len(a), len(b))) for b in sets] for a in sets]
        assert mask_nms(objects, scores, limit, of_smaller=True).tolist() == naive_nms(scores, shares, limit)


def random_boxes(rng, count):
    low = rng.random((count, 2)) * 20
    return np.hstack([low, low + 2 + rng.random((count, 2)) * 15])


def test_nms_of_boxes_is_the_definition():
    rng = np.random.default_rng(1)
    for _ in range(40):
        boxes = random_boxes(rng, rng.integers(0, 15))
        scores = rng.integers(0, 5, len(boxes)) / 5
        assert box_nms(boxes, scores, 0.4).tolist() == naive_nms(scores, box_iou(boxes, boxes), 0.4)


def naive_wbf(boxes, scores, weights, iou):
    """The paper's steps with lists: each fused box is made anew from all boxes of its cluster."""
    entries = [(score * weight, box) for part, row, weight in zip(boxes, scores, weights, strict=True)
               for box, score in zip(part, row, strict=True)]  # fmt: skip
    clusters, fused = [], []
    for score, box in sorted(entries, key=lambda entry: -entry[0]):
        overlaps = [box_iou(box[None], other[None])[0, 0] for other in fused]
        place = int(np.argmax(overlaps)) if overlaps and max(overlaps) > iou else None
        if place is None:
            clusters.append([])
            fused.append(None)
            place = -1
        clusters[place].append((score, box))
        total = sum(score for score, _ in clusters[place])
        fused[place] = sum(score * box for score, box in clusters[place]) / total
    results = [
        (sum(score for score, _ in cluster) / len(cluster) * min(len(boxes), len(cluster)) / sum(weights), box)
        for cluster, box in zip(clusters, fused, strict=True)
    ]
    return sorted(results, key=lambda result: -result[0])


def test_weighted_boxes_fusion_is_the_rule_of_the_paper():
    rng, fused_any = np.random.default_rng(2), 0
    for _ in range(80):
        truth = random_boxes(rng, rng.integers(0, 5))
        boxes = [truth[rng.random(len(truth)) < 0.8] for _ in range(rng.integers(1, 5))]
        boxes = [part + rng.normal(0, 1, part.shape) for part in boxes]
        boxes = [np.vstack([part, random_boxes(rng, rng.integers(0, 3))]) for part in boxes]
        scores = [rng.integers(1, 20, len(part)) / 20 for part in boxes]
        weights = rng.integers(1, 4, len(boxes)).tolist()
        fused, fused_scores = weighted_boxes_fusion(boxes, scores, weights, 0.5)
        expected = naive_wbf(boxes, scores, weights, 0.5)
        assert fused_scores == pytest.approx([score for score, _ in expected], abs=1e-12)
        ours = sorted(map(tuple, np.column_stack([fused_scores, fused]).round(6).tolist()))
        assert ours == sorted((round(score, 6), *box.round(6).tolist()) for score, box in expected)
        fused_any += len(fused) < sum(map(len, boxes))
    assert fused_any > 40


def test_a_box_that_all_members_see_keeps_its_score_and_one_that_one_sees_is_lowered():
    box = np.array([[2.0, 3, 8, 9]])
    fused, scores = weighted_boxes_fusion([box, box], [[0.8], [0.6]])
    assert (fused.round(9).tolist(), scores.round(9).tolist()) == (box.tolist(), [0.7])
    nothing = np.zeros((0, 4))
    fused, scores = weighted_boxes_fusion([box, nothing, nothing, nothing], [[0.8], [], [], []])
    assert (fused.tolist(), scores.tolist()) == (box.tolist(), [0.2])
    assert [part.shape for part in weighted_boxes_fusion([nothing], [[]])] == [(0, 4), (0,)]


def naive_fused_masks(members, weights, iou):
    entries = [(score * weight, mask) for (masks, scores), weight in zip(members, weights, strict=True)
               for mask, score in zip(masks, scores, strict=True)]  # fmt: skip
    groups = []
    for score, mask in sorted(entries, key=lambda entry: -entry[0]):
        overlaps = [set_iou(*pixel_sets([mask, group[0][1]])) for group in groups]
        if overlaps and max(overlaps) > iou:
            groups[int(np.argmax(overlaps))].append((score, mask))
        else:
            groups.append([(score, mask)])
    for group in groups:
        total = sum(score for score, _ in group)
        votes = sum(score * mask.astype(float) for score, mask in group)
        score = total / len(group) * min(len(members), len(group)) / sum(weights)
        yield round(score, 9), (votes >= total / 2 - 1e-9).tolist()


def test_masks_are_fused_by_the_majority_of_their_scores():
    rng, fused_any = np.random.default_rng(3), 0
    for _ in range(60):
        truth = random_masks(rng, SHAPE)
        members = []
        for _ in range(rng.integers(1, 4)):
            masks = [mask & (rng.random(SHAPE) > 0.15) for mask in truth] + random_masks(rng, SHAPE, 3)
            members.append((masks, rng.integers(1, 5, len(masks)) / 5))
        weights = rng.integers(1, 3, len(members)).tolist()
        parts = [(Objects.from_masks(masks, SHAPE), scores) for masks, scores in members]
        fused, scores = fuse_masks(parts, weights, 0.4)
        ours = [(round(score, 9), runs.to_mask().tolist()) for score, runs in zip(scores.tolist(), fused, strict=True)]
        assert sorted(ours) == sorted(naive_fused_masks(members, weights, 0.4))
        assert (np.diff(scores) <= 0).all()
        fused_any += len(fused) < sum(len(part) for part, _ in parts)
    assert fused_any > 30


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mask_nms(Objects.from_masks([np.ones(SHAPE)]), np.ones(2)), "one finite score"),
        (lambda: box_nms(np.ones((1, 4)), np.array([np.nan])), "one finite score"),
        (lambda: weighted_boxes_fusion([], []), "at least one member"),
        (lambda: weighted_boxes_fusion([np.ones((1, 4))], [[0.5]], [1, 2]), "1 members, scores of 1, 2 weights"),
        (lambda: weighted_boxes_fusion([np.ones((1, 4))], [[0.5]], [0]), "above 0"),
        (lambda: weighted_boxes_fusion([np.ones((2, 4))], [[0.5, 0]]), "above 0"),
        (lambda: fuse_masks([(Objects.from_masks([np.ones(SHAPE)]), np.zeros(1))]), "above 0"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
