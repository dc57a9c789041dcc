import itertools
import math

import numpy as np
import pytest

from histofold.core.metrics import SurfaceDice, surface_dice
from histofold.core.metrics.surface import _surface_areas

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
