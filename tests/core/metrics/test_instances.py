import math

import numpy as np
import pytest

from histofold.core.metrics import aji, glas_object_scores, panoptic_quality
from histofold.core.objects import Objects
from object_scenes import moved, pixel_sets, random_labels, random_masks, set_iou

SHAPE = (11, 17)
EMPTY = np.zeros(SHAPE, int)


def scenes(count=200, seed=0):
    """Pairs of answer and truth: label images, and lists of masks that overlap."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        if index % 2:
            yield random_masks(rng, SHAPE), random_masks(rng, SHAPE)
        else:
            truth = random_labels(rng, SHAPE)
            yield moved(rng, truth), truth


def object_sets(predicted, true):
    return [[pixels for pixels in pixel_sets(side) if pixels] for side in (predicted, true)]


def naive_aji(predicted, true):
    found, truth = object_sets(predicted, true)
    if not found and not truth:
        return 1.0
    shared, union, used = 0, 0, set()
    for pixels in truth:
        best = max(range(len(found)), key=lambda index: set_iou(pixels, found[index]), default=None)
        if best is None or not pixels & found[best]:
            union += len(pixels)
            continue
        used.add(best)
        shared += len(pixels & found[best])
        union += len(pixels | found[best])
    return shared / (union + sum(len(found[index]) for index in range(len(found)) if index not in used))


def naive_pq(predicted, true):
    found, truth = object_sets(predicted, true)
    if not found and not truth:
        return 1.0, 1.0, 1.0
    ranking = sorted((-set_iou(a, b), i, j) for i, a in enumerate(truth) for j, b in enumerate(found))
    rows, columns, matched = set(), set(), []
    for negative, i, j in ranking:
        if -negative > 0.5 and i not in rows and j not in columns:
            rows.add(i)
            columns.add(j)
            matched.append(-negative)
    false = len(found) - len(matched), len(truth) - len(matched)
    quality = sum(matched) / (len(matched) + sum(false) / 2)
    return quality, len(matched) / (len(matched) + sum(false) / 2), sum(matched) / len(matched) if matched else 0.0


def naive_hausdorff(one, other):
    points = [[divmod(pixel, SHAPE[1]) for pixel in pixels] for pixels in (one, other)]
    return max(
        max(min(math.dist(here, there) for there in points[1 - side]) for here in points[side]) for side in (0, 1)
    )


def naive_glas(predicted, true):
    found, truth = object_sets(predicted, true)
    if not found or not truth:
        return (1.0, 1.0, 0.0) if found == truth else (0.0, 0.0, math.inf)

    def partner(pixels, others):
        best = max(range(len(others)), key=lambda index: len(pixels & others[index]))
        return best if pixels & others[best] else None

    partners = [partner(pixels, truth) for pixels in found]
    hits = {best for pixels, best in zip(found, partners, strict=True) if best is not None
            and len(pixels & truth[best]) / len(truth[best]) > 0.5}  # fmt: skip
    dice = distance = 0.0
    for objects, others in ((found, truth), (truth, found)):
        total = sum(len(pixels) for pixels in objects)
        for pixels in objects:
            weight, best = len(pixels) / total / 2, partner(pixels, others)
            if best is None:
                distance += weight * min(naive_hausdorff(pixels, other) for other in others)
                continue
            dice += weight * 2 * len(pixels & others[best]) / (len(pixels) + len(others[best]))
            distance += weight * naive_hausdorff(pixels, others[best])
    return 2 * len(hits) / (len(found) + len(truth)), dice, distance


def test_aji_is_the_algorithm_of_the_paper():
    values = [(aji(*scene), naive_aji(*scene)) for scene in scenes()]
    assert [ours for ours, _ in values] == pytest.approx([naive for _, naive in values], abs=1e-12)
    assert len({ours for ours, _ in values}) > 100


def test_panoptic_quality_is_the_definition():
    values = [(panoptic_quality(*scene), naive_pq(*scene)) for scene in scenes(seed=1)]
    assert np.array([ours for ours, _ in values]) == pytest.approx(np.array([naive for _, naive in values]), abs=1e-12)
    assert len({ours for ours, _ in values}) > 30


def test_glas_scores_are_the_definition():
    values = [(glas_object_scores(*scene), naive_glas(*scene)) for scene in scenes(seed=2)]
    assert np.array([ours for ours, _ in values]) == pytest.approx(np.array([naive for _, naive in values]), abs=1e-9)
    assert len({ours for ours, _ in values}) > 100


@pytest.mark.parametrize(
    ("metric", "perfect", "missed"),
    [(aji, 1.0, 0.0), (panoptic_quality, (1, 1, 1), (0, 0, 0)), (glas_object_scores, (1, 1, 0), (0, 0, math.inf))],
)
def test_empty_sides(metric, perfect, missed):
    full = np.eye(*SHAPE, dtype=int)
    for empty in (EMPTY, [], [EMPTY > 0], Objects.from_labels(EMPTY)):
        assert metric(empty, EMPTY) == metric([], empty) == perfect
        assert metric(empty, full) == metric(full, empty) == missed
    assert metric(full, full) == perfect


def test_labels_masks_and_objects_are_the_same_scene():
    rng = np.random.default_rng(3)
    truth = random_labels(rng, SHAPE)
    answer = moved(rng, truth)
    masks = [answer == label for label in np.unique(answer)[1:]]
    for metric in (aji, panoptic_quality, glas_object_scores):
        expected = metric(answer, truth)
        assert (
            metric(masks, truth)
            == metric(np.array(masks), truth)
            == metric(Objects.from_masks(masks), truth)
            == expected
        )
        assert metric(answer.astype(np.uint16) * 9, truth.T.copy().T) == expected


def test_a_true_object_that_two_masks_cover_is_found_once():
    mask = np.ones(SHAPE, bool)
    assert glas_object_scores([mask, mask], [mask])[0] == 2 / 3
    assert panoptic_quality([mask, mask], [mask]) == (2 / 3, 2 / 3, 1)


def test_half_of_an_object_is_no_hit_and_an_iou_of_half_no_match():
    truth, half = np.zeros(SHAPE, int), np.zeros(SHAPE, int)
    truth[0, :4], half[0, :2] = 1, 1
    assert glas_object_scores(half, truth)[0] == panoptic_quality(half, truth)[0] == 0
    half[0, 2] = 1
    assert glas_object_scores(half, truth)[0] == 1
    assert panoptic_quality(half, truth) == (0.75, 1, 0.75)


@pytest.mark.parametrize("metric", [aji, panoptic_quality, glas_object_scores])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.ones((17, 11), int), "size first"),
        (np.ones(SHAPE, bool), r"\[mask\]"),
        (np.ones(SHAPE), "whole numbers"),
        (-np.ones(SHAPE, int), "0 or more"),
        ([np.ones(SHAPE, bool), np.ones((3, 4), bool)], r"mask 1 is \(3, 4\)"),
    ],
)
def test_what_is_no_scene_is_refused(metric, answer, message):
    with pytest.raises(ValueError, match=message):
        metric(answer, np.ones(SHAPE, int))
