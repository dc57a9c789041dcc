import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from histofold.core.metrics import SurfaceDice, _surface_areas, dice, openimages_ap, surface_dice


def test_dice_is_sklearns_f1_on_random_masks():
    rng = np.random.default_rng(0)
    for _ in range(50):
        shape = rng.integers(1, 30, 2)
        prediction, truth = rng.random(shape) < rng.random(), rng.random(shape) < rng.random()
        if prediction.any() or truth.any():
            assert dice(prediction, truth) == pytest.approx(f1_score(truth.ravel(), prediction.ravel()))


def test_both_empty_is_one_and_one_empty_is_zero():
    empty, full = np.zeros((3, 5), bool), np.ones((3, 5), bool)
    assert dice(empty, empty) == 1.0
    assert dice(empty, full) == dice(full, empty) == 0.0
    assert dice(full, full) == 1.0


def test_any_dtype_counts_non_zero():
    mask = np.array([[0, 255, 3]], np.uint8)
    assert dice(mask, mask.astype(float) / 255) == 1.0


def test_shapes_are_not_broadcast():
    with pytest.raises(ValueError, match="resize"):
        dice(np.ones((2, 3)), np.ones((3, 2)))


# --- average precision of instances -----------------------------------------------------------------------------------


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
    for _ in range(60):
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


# --- surface Dice of volumes ------------------------------------------------------------------------------------------

CORNERS = list(itertools.product((0, 1), repeat=3))
R2, R3 = math.sqrt(2), math.sqrt(3)
# Area by the squared distances between the set corners, at most four of them: no two of the 14 kinds share these.
AREA_BY_DISTANCES = {
    (0, ()): 0,
    (1, ()): R3 / 8,
    (2, (1,)): R2 / 2,
    (2, (2,)): R3 / 4,
    (2, (3,)): R3 / 4,
    (3, (1, 1, 2)): 1 / 2 + 3 * R3 / 8,
    (3, (2, 2, 2)): 3 * R3 / 8,
    (3, (1, 2, 3)): R2 / 2 + R3 / 8,
    (4, (1, 1, 1, 1, 2, 2)): 1,
    (4, (1, 1, 1, 2, 2, 2)): 3 * R3 / 4,
    (4, (1, 1, 1, 2, 2, 3)): R2 / 2 + R3 / 2,
    (4, (1, 1, 2, 2, 2, 3)): 1 / 2 + R3 / 2,
    (4, (1, 1, 2, 2, 3, 3)): R2,
    (4, (2, 2, 2, 2, 2, 2)): R3 / 2,
}


def cube_area(cube):
    """Area of one 2x2x2 cube by the distances between its set corners, or its unset ones if these are fewer."""
    chosen = [corner for corner in CORNERS if cube[corner]]
    if len(chosen) > 4:
        chosen = [corner for corner in CORNERS if not cube[corner]]
    pairs = itertools.combinations(chosen, 2)
    distances = sorted(sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in pairs)
    return AREA_BY_DISTANCES[len(chosen), tuple(distances)]


def naive_surface_dice(prediction, truth):
    volumes = [np.pad(volume != 0, 1) for volume in (prediction, truth)]
    shared = total = 0.0
    for z, y, x in np.ndindex(*(size - 1 for size in volumes[0].shape)):
        areas = [cube_area(volume[z : z + 2, y : y + 2, x : x + 2]) for volume in volumes]
        total += sum(areas)
        shared += sum(areas) if min(areas) > 0 else 0
    return shared / total if total else 1.0


def cube_of(code):
    return np.unpackbits(np.array([code], np.uint8)).reshape(2, 2, 2)


def test_areas_are_those_of_the_distances_and_sum_to_the_hosts():
    areas = _surface_areas()
    assert areas == pytest.approx([cube_area(cube_of(code)) for code in range(256)])
    assert areas.sum() == pytest.approx(241.34314, abs=5e-6)
    assert np.flatnonzero(areas == 0).tolist() == [0, 255]
    assert areas[15] == areas[240] == areas[51] == areas[85] == 1  # planes across z, y and x


def test_areas_do_not_change_when_a_cube_is_turned_mirrored_or_inverted():
    areas = _surface_areas()
    for code in range(256):
        cube = cube_of(code)
        for twin in (cube.transpose(1, 2, 0), cube.transpose(1, 0, 2), cube[::-1], 1 - cube):
            assert areas[np.packbits(twin.ravel())[0]] == areas[code]


def test_surface_dice_is_the_definition_on_random_volumes():
    rng = np.random.default_rng(5)
    for shape in [(1, 1, 1), (2, 3, 4), (5, 3, 2), (4, 6, 5), (1, 4, 7)]:
        for density in (0.1, 0.5, 0.95):
            truth = rng.random(shape) < density
            prediction = truth ^ (rng.random(shape) < 0.2)
            expected = naive_surface_dice(prediction, truth)
            assert surface_dice(prediction, truth) == pytest.approx(expected, abs=1e-12)
            assert surface_dice(truth, prediction) == pytest.approx(expected, abs=1e-12)


def test_volumes_without_mask_and_with_the_same_mask():
    empty, full = np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)
    assert surface_dice(empty, empty) == 1.0
    assert surface_dice(np.zeros((0, 4, 5)), np.zeros((0, 4, 5))) == 1.0
    assert surface_dice(empty, full) == surface_dice(full, empty) == 0.0
    assert surface_dice(full, full) == 1.0  # its surface lies in the layer of zeros around it


@pytest.mark.parametrize("corner", [(0, 0, 0), (2, 3, 4), (2, 0, 4), (0, 3, 0)])
def test_one_voxel_at_the_corners(corner):
    voxel = np.zeros((3, 4, 5), bool)
    voxel[corner] = True
    assert surface_dice(voxel, voxel) == 1.0
    # One voxel sets one corner of 8 cubes: area sqrt(3). Its pair along x shares 4 cubes of both.
    other = np.zeros((3, 4, 5), bool)
    other[corner[0], corner[1], abs(corner[2] - 1)] = True
    assert surface_dice(voxel, other) == pytest.approx(0.5)
    assert surface_dice(voxel, np.roll(voxel, 2, axis=2)) == 0.0


def test_planes_far_apart_share_only_their_rim():
    # A slab one voxel thick against one three thick: the big faces coincide on one side only.
    height, width = 20, 31
    thin, thick = np.zeros((6, height, width), bool), np.zeros((6, height, width), bool)
    thin[1], thick[1:4] = True, True
    face = (height - 1) * (width - 1)  # cubes of one face, 1 each
    edges = 2 * (height - 1 + width - 1) * R2 / 2  # its rim: two corners of a cube
    corners = 4 * R3 / 8
    cap = face + edges + corners
    walls = 2 * (height - 1 + width - 1) + 4 * R2 / 2  # one layer of the thick slab's sides
    shared = cap + cap + edges + corners + walls  # thin's lower rim meets thick's first layer of walls
    assert surface_dice(thin, thick) == pytest.approx(shared / (2 * cap + 2 * cap + 2 * walls))


def test_slices_one_by_one_are_the_volume():
    rng = np.random.default_rng(7)
    prediction, truth = rng.random((6, 5, 9)) < 0.6, rng.random((6, 5, 9)) < 0.6
    metric, buffers = SurfaceDice(), np.zeros((2, 5, 9), np.uint8)
    assert metric.result() == 1.0
    for depth, slices in enumerate(zip(prediction, truth, strict=True), start=1):
        buffers[:] = slices  # the same memory for every slice
        metric.add(*buffers)
        assert metric.result() == surface_dice(prediction[:depth], truth[:depth])  # asking does not end the stream


def test_surface_dice_is_the_same_along_every_axis_and_for_any_dtype_and_strides():
    rng = np.random.default_rng(9)
    prediction, truth = rng.random((4, 5, 7)) < 0.5, rng.random((4, 5, 7)) < 0.5
    score = surface_dice(prediction, truth)
    for axes in itertools.permutations(range(3)):
        assert surface_dice(prediction.transpose(axes), truth.transpose(axes)) == pytest.approx(score, abs=1e-12)
    assert surface_dice(prediction.astype(np.uint16) * 256, truth.astype(np.float32) / 9) == score
    assert surface_dice(np.asfortranarray(prediction)[:, ::-1], truth[:, ::-1]) == pytest.approx(score, abs=1e-12)


def test_surface_dice_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and truth is \(2, 4, 3\)"):
        surface_dice(np.ones((2, 3, 4)), np.ones((2, 4, 3)))
    with pytest.raises(ValueError, match=r"\(D, H, W\)"):
        surface_dice(np.ones((3, 4)), np.ones((3, 4)))


def test_a_refused_slice_leaves_the_stream_as_it_was():
    metric, mask = SurfaceDice(), np.ones((3, 4), bool)
    metric.add(mask, np.zeros((3, 4), bool))
    with pytest.raises(ValueError, match="resize"):
        metric.add(mask, mask.T)
    with pytest.raises(ValueError, match=r"those before are \(3, 4\)"):
        metric.add(mask.T, mask.T)
    with pytest.raises(ValueError, match="one by one"):
        metric.add(mask[None], mask[None])
    assert metric.result() == 0.0
