import contextlib
import io
import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from histofold.core.metrics import coco_ap, openimages_ap
from histofold.core.objects import Objects


def naive_openimages_ap(detections, truths, iou=0.6):
    """The definition, with loops and sets: one ranking over all images, then the area step by step."""
    truth_pixels = [[frozenset(np.flatnonzero(mask).tolist()) for mask in masks] for masks in truths]
    total = sum(len(masks) for masks in truth_pixels)
    if total == 0:
        return math.nan
    ranking = sorted(
        (
            (float(score), image, mask)
            for image, (masks, scores) in enumerate(detections)
            for score, mask in zip(scores, masks, strict=True)
        ),
        key=lambda entry: -entry[0],
    )
    taken, points, hits = set(), [], 0
    for rank, (_, image, mask) in enumerate(ranking, start=1):
        pixels, best, best_iou = frozenset(np.flatnonzero(mask).tolist()), None, -1.0
        for index, other in enumerate(truth_pixels[image]):
            value = len(pixels & other) / len(pixels | other) if pixels | other else 0.0
            if value > best_iou:
                best, best_iou = index, value
        if best_iou >= iou and (image, best) not in taken:
            taken.add((image, best))
            hits += 1
        points.append((hits / total, hits / rank))
    area, recall_before = 0.0, 0.0
    for index, (recall, _) in enumerate(points):
        area += (recall - recall_before) * max(precision for _, precision in points[index:])
        recall_before = recall
    return area


def boxes(*corners, shape_hw=(8, 11)):
    """Masks_NHW of boxes (y, x, bottom, right)."""
    masks = np.zeros((len(corners), *shape_hw), bool)
    for mask, (y, x, bottom, right) in zip(masks, corners, strict=True):
        mask[y:bottom, x:right] = True
    return masks


def random_instances(rng, count, shape_hw):
    masks = np.zeros((count, *shape_hw), rng.choice([bool, np.uint8, np.float32]))
    for mask in masks:
        y, x = rng.integers(0, shape_hw[0]), rng.integers(0, shape_hw[1])
        mask[y : y + rng.integers(0, 5), x : x + rng.integers(1, 6)] = 1
    return masks


def shaken(rng, masks):
    """Copies of instances with some pixels dropped: good and bad detections of them."""
    return np.where(rng.random(masks.shape) < rng.choice([0.05, 0.4]), 0, masks)


@pytest.mark.parametrize("iou", [0.3, 0.6, 1.0])
def test_ap_is_the_definition_on_random_images(iou):
    rng = np.random.default_rng(3)
    values = []
    for _ in range(70):
        shape_hw, detections, truths = (9, 13), [], []
        for _ in range(rng.integers(1, 4)):
            truth = random_instances(rng, rng.integers(0, 6), shape_hw)
            found = np.concatenate([shaken(rng, truth), shaken(rng, truth), random_instances(rng, 3, shape_hw)])
            found = found[rng.permutation(len(found))[: rng.integers(0, len(found) + 1)]]
            detections.append((found, rng.integers(0, 4, len(found)) / 4))  # few values: many ties
            truths.append(truth)
        values.append(openimages_ap(detections, truths, iou))
        assert values[-1] == pytest.approx(naive_openimages_ap(detections, truths, iou), abs=1e-12, nan_ok=True)
    assert len(set(values)) > 10


def test_perfect_detections_score_one_and_none_score_zero():
    truth = boxes((0, 0, 2, 3), (5, 7, 8, 11))
    assert openimages_ap([(truth[::-1], np.array([0.1, 0.9]))], [truth]) == 1.0
    assert openimages_ap([(np.array([]), np.array([]))], [truth]) == 0.0


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, object])
@pytest.mark.parametrize("shape", [(0,), (0, 8, 11), (0, 5, 4)])
def test_empty_arrays_of_any_kind_are_no_masks(dtype, shape):
    truth, empty = boxes((0, 0, 2, 3)), np.zeros(shape, dtype)
    nothing = (empty, np.zeros(0, dtype))
    assert openimages_ap([nothing, (truth, np.ones(1))], [empty, truth]) == 1.0
    assert openimages_ap([nothing], [truth]) == 0.0
    assert openimages_ap([(truth, np.ones(1)), (truth, np.ones(1))], [empty, truth]) == 0.5  # the false alarm is first


def test_no_truth_at_all_is_nan():
    assert math.isnan(openimages_ap([], []))
    assert math.isnan(openimages_ap([(np.zeros(0), np.zeros(0))], [np.zeros(0)]))
    assert math.isnan(openimages_ap([(boxes((0, 0, 2, 3)), np.ones(1))], [np.zeros((0, 8, 11))]))


def test_a_taken_truth_gives_no_second_choice():
    truth = boxes((0, 0, 4, 5), (0, 0, 5, 4))  # they share 16 of 24 pixels, IoU 2/3
    twice = np.stack([truth[0], truth[0]])
    assert openimages_ap([(twice, np.array([0.9, 0.8]))], [truth]) == 0.5  # COCO would give the second truth away


def test_equal_iou_takes_the_lowest_truth_and_equal_scores_the_given_order():
    truth = boxes((0, 0, 2, 3), (0, 0, 2, 3))
    assert openimages_ap([(truth, np.ones(2))], [truth]) == 0.5  # both go for truth 0
    one, hit_and_miss = truth[:1], boxes((0, 0, 2, 3), (6, 6, 8, 8))
    assert openimages_ap([(hit_and_miss, np.ones(2))], [one]) == 1.0
    assert openimages_ap([(hit_and_miss[::-1], np.ones(2))], [one]) == 0.5


def test_iou_equal_to_the_threshold_is_a_hit():
    truth = boxes((0, 0, 1, 5))
    assert openimages_ap([(boxes((0, 0, 1, 3)), np.ones(1))], [truth]) == 1.0  # 3 of 5 pixels
    assert openimages_ap([(boxes((0, 0, 1, 2)), np.ones(1))], [truth]) == 0.0


def test_envelope_lifts_precision_before_a_later_better_point():
    truth = boxes((0, 0, 2, 2), (0, 4, 2, 6), (4, 0, 6, 2))
    found = np.concatenate([boxes((6, 9, 8, 11)), truth])
    # Precision by rank: 0, 1/2, 2/3, 3/4; the envelope is 3/4 at every hit.
    assert openimages_ap([(found, np.array([4, 3, 2, 1]))], [truth]) == 0.75


def test_images_are_pooled_not_averaged():
    truth = boxes((0, 0, 2, 2))
    sure_miss, late_hit = (boxes((4, 4, 6, 6)), np.array([0.9])), (truth, np.array([0.1]))
    assert openimages_ap([sure_miss, late_hit], [truth, truth]) == 0.25


def test_an_empty_mask_meets_nothing():
    truth = np.concatenate([np.zeros((1, 8, 11), bool), boxes((0, 0, 2, 2))])
    assert openimages_ap([(truth, np.array([0.1, 0.9]))], [truth]) == 0.5


@pytest.mark.parametrize(
    ("detections", "truths", "message"),
    [
        ([], [np.zeros(0)], "one entry an image"),
        ([(np.ones((1, 2, 3)),)], [np.zeros(0)], r"masks_NHW, scores_N"),
        ([(np.ones((2, 3)), np.ones(2))], [np.zeros(0)], r"\(N, H, W\)"),
        ([(np.ones((1, 2, 3)), np.ones(1))], [np.ones((2, 3))], "truth of image 0"),
        ([(np.ones((1, 2, 3)), np.ones(2))], [np.zeros(0)], "one score a mask"),
        ([(np.ones((2, 2, 3)), np.ones((2, 1)))], [np.zeros(0)], "one score a mask"),
        ([(np.zeros(0), np.ones(1))], [np.zeros(0)], "one score a mask"),
        ([(np.ones((1, 2, 3)), np.array([np.nan]))], [np.zeros(0)], "finite"),
        ([(np.ones((1, 2, 3)), np.array(["high"]))], [np.zeros(0)], "finite numbers"),
        ([(np.ones((1, 2, 3)), np.ones(1))], [np.ones((1, 3, 2))], "size of the image"),
    ],
)
def test_ap_refuses_what_does_not_fit_together(detections, truths, message):
    with pytest.raises(ValueError, match=message):
        openimages_ap(detections, truths)


@pytest.mark.parametrize("iou", [0.0, -0.5, 60, math.nan])
def test_ap_refuses_a_threshold_that_is_no_iou(iou):
    with pytest.raises(ValueError, match="at most 1"):
        openimages_ap([], [], iou)


# --- COCO -------------------------------------------------------------------------------------------------------------


def pycocotools_ap(detections, truths, limits, iou=0.5):
    """COCOeval's AP of masks at one IoU and each limit of detections."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco, shape_hw = COCO(), next(masks.shape[1:] for masks in truths)
        images = [{"id": image, "height": shape_hw[0], "width": shape_hw[1]} for image in range(1, len(truths) + 1)]

        def annotations(stacks):
            return [
                {"image_id": image, "category_id": 1, "iscrowd": 0, "area": int(mask.sum()), "score": float(score),
                 "segmentation": coco_mask.encode(np.asfortranarray(mask, np.uint8))}
                for image, (masks, scores) in enumerate(stacks, start=1)
                for mask, score in zip(masks, scores, strict=True)
            ]  # fmt: skip

        def numbered(entries):
            return [{**entry, "id": number, "bbox": [0, 0, 1, 1]} for number, entry in enumerate(entries, start=1)]

        truth = numbered(annotations([(masks, np.ones(len(masks))) for masks in truths]))
        coco.dataset = {"images": images, "annotations": truth, "categories": [{"id": 1}]}
        coco.createIndex()
        found = COCO()
        found.dataset = {**coco.dataset, "annotations": numbered(annotations(detections))}
        found.createIndex()
        judge = COCOeval(coco, found, "segm")
        judge.params.iouThrs, judge.params.maxDets = np.array([iou]), list(limits)
        judge.params.areaRng, judge.params.areaRngLbl = [[-1, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    return [judge.eval["precision"][0, :, 0, 0, index].mean() for index in range(len(limits))]


def test_coco_ap_is_pycocotools_on_random_scenes():
    rng, values = np.random.default_rng(11), set()
    for scene in range(200):
        shape_hw, detections, truths = (9, 13), [], []
        for _ in range(rng.integers(1, 4)):
            truth = random_instances(rng, rng.integers(0, 6), shape_hw) != 0
            found = np.concatenate([shaken(rng, truth), truth, random_instances(rng, 3, shape_hw)]) != 0
            found = found[rng.permutation(len(found))[: rng.integers(0, len(found) + 1)]]
            detections.append((found, rng.integers(0, 6, len(found)) / 8))  # few values: many ties
            truths.append(truth)
        iou = (0.3, 0.5, 0.75)[scene % 3]
        ours = [coco_ap(detections, truths, iou, limit) for limit in (2, 5, 100)]
        if not sum(map(len, truths)):
            assert all(map(math.isnan, ours))
            continue
        assert ours == pytest.approx(pycocotools_ap(detections, truths, (2, 5, 100), iou), abs=1e-12)
        values.update(ours)
    assert len(values) > 100


def test_a_limit_of_detections_caps_a_perfect_answer_of_dense_images():
    counts, perfect = [393, 393, 393, 393, 394, 394], []
    for count in counts:
        labels = np.zeros((20, 60), int)
        labels[np.unravel_index(np.arange(count), labels.shape)] = np.arange(1, count + 1)
        perfect.append((Objects.from_labels(labels), np.ones(count)))
    truths = [objects for objects, _ in perfect]
    assert sum(counts) == 2360
    assert coco_ap(perfect, truths) == pytest.approx(0.2574, abs=5e-5)
    assert coco_ap(perfect, truths, max_detections=1000) == 1.0


def test_objects_and_masks_score_the_same():
    rng = np.random.default_rng(12)
    truth = random_instances(rng, 5, (9, 13)) != 0
    found = np.concatenate([shaken(rng, truth), random_instances(rng, 3, (9, 13))]) != 0
    scores = rng.random(8)
    for metric in (openimages_ap, coco_ap):
        as_objects = metric([(Objects.from_masks(found), scores)], [Objects.from_masks(truth)])
        assert as_objects == metric([(found, scores)], [truth])


def test_coco_gives_a_second_choice_and_refuses_no_detections():
    truth = boxes((0, 0, 4, 5), (0, 0, 5, 4))
    assert coco_ap([(np.stack([truth[0], truth[0]]), np.array([0.9, 0.8]))], [truth]) == 1.0
    with pytest.raises(ValueError, match="at least 1"):
        coco_ap([], [], max_detections=0)


# --- What is unsure ---------------------------------------------------------------------------------------------------


def naive_coco_hits(found, truth, iou):
    """Hits of detections that come by descending score, by sets of pixels."""
    taken, hits = set(), []
    for mask in found:
        values = [((mask & true).sum() / max(1, (mask | true).sum()), index) for index, true in enumerate(truth)]
        best = max(((value, index) for value, index in values if index not in taken and value >= iou), default=None)
        hits.append(best is not None)
        taken |= {best[1]} if best else set()
    return hits


def naive_first_hits(found, truth, iou):
    """The same by the rule of Open Images."""
    taken, hits = set(), []
    for mask in found:
        values = [(mask & true).sum() / max(1, (mask | true).sum()) for true in truth]
        best = int(np.argmax(values)) if values else None
        hits.append(best is not None and values[best] >= iou and best not in taken)
        taken |= {best} if hits[-1] else set()
    return hits


@pytest.mark.parametrize(("metric", "naive_hits"), [(openimages_ap, naive_first_hits), (coco_ap, naive_coco_hits)])
def test_ignored_false_alarms_count_neither_way(metric, naive_hits):
    rng, changed = np.random.default_rng(21), 0
    for scene in range(200):
        detections, truths, ignored, left = [], [], [], []
        for _ in range(rng.integers(1, 3)):
            truth = random_instances(rng, rng.integers(0, 5), (9, 13)) != 0
            found = np.concatenate([shaken(rng, truth), truth, random_instances(rng, 4, (9, 13))]) != 0
            found = found[rng.permutation(len(found))]
            unsure = random_instances(rng, rng.integers(0, 4), (9, 13)) != 0
            scores = np.sort(rng.permutation(100)[: len(found)] / 100 + len(detections) / 1000)[::-1]
            hits = np.array(naive_hits(found, truth, 0.5), bool)
            within = np.array([(mask & unsure.any(axis=0)).sum() >= mask.sum() / 2 for mask in found]) & found.any(
                (1, 2)
            )
            detections.append((found, scores))
            left.append((found[hits | ~within], scores[hits | ~within]))
            truths.append(truth)
            ignored.append(unsure)
        value = metric(detections, truths, 0.5, ignored=ignored)
        assert value == pytest.approx(metric(left, truths, 0.5), abs=1e-12, nan_ok=True)
        plain = metric(detections, truths, 0.5)
        if scene % 8 == 0:
            as_objects = [Objects.from_masks(masks, (9, 13)) for masks in ignored]
            assert value == pytest.approx(metric(detections, truths, 0.5, ignored=as_objects), abs=0, nan_ok=True)
            nothing = metric(detections, truths, 0.5, ignored=[np.zeros(0)] * len(truths))
            assert plain == pytest.approx(nothing, abs=0, nan_ok=True)
        changed += value > plain
    assert changed > 20


def test_half_of_a_detection_is_enough_and_hits_are_never_ignored():
    truth, alarm = boxes((0, 0, 2, 4)), boxes((4, 0, 6, 4))
    detections = [(np.concatenate([alarm, truth]), np.array([0.9, 0.8]))]
    assert openimages_ap(detections, [truth]) == 0.5
    assert openimages_ap(detections, [truth], ignored=[boxes((4, 0, 6, 2))]) == 1.0
    assert openimages_ap(detections, [truth], ignored=[boxes((4, 0, 6, 1))]) == 0.5
    assert openimages_ap(detections, [truth], ignored=[boxes((4, 0, 6, 1), (4, 1, 6, 2))]) == 1.0  # their union
    assert openimages_ap(detections, [truth], ignored=[boxes((0, 0, 8, 11))]) == 1.0
    # The limit of detections comes first: the ignored one has used its place up.
    assert coco_ap(detections, [truth], 0.5, 1, ignored=[boxes((4, 0, 6, 4))]) == 0.0
    assert coco_ap(detections, [truth], 0.5, 2, ignored=[boxes((4, 0, 6, 4))]) == 1.0


def test_ignored_objects_must_fit_the_images():
    truth = boxes((0, 0, 2, 3))
    with pytest.raises(ValueError, match="one entry an image"):
        openimages_ap([(truth, np.ones(1))], [truth], ignored=[])
    with pytest.raises(ValueError, match="ignored objects are"):
        coco_ap([(truth, np.ones(1))], [truth], ignored=[np.ones((1, 3, 2))])
