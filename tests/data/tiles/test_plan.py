"""Where tiles come from: grids, objects, scales and regions."""

import numpy as np
import pytest
from scipy import ndimage

from histofold.core.rle.runs import runs_from_mask
from histofold.data.tiles.plan import RegionMap, SlidePlan, drawn_boxes, keeps_background, object_boxes, shifted_origins
from histofold.schema.dataset import TilesConfig
from histofold.schema.preprocessing import Preprocessing

SHAPE = (300, 413)


def plan_of(mask_HW, regions=None, whole=False, **tiles):
    spec = Preprocessing(scale_mode="whole", whole_size=64) if whole else Preprocessing(target_pixel_size_um=0.5)
    return SlidePlan(
        sample_id="a_1",
        shape_hw=mask_HW.shape,
        pixel_size_um=0.5,
        target=runs_from_mask(mask_HW),
        regions=regions or {},
        preprocessing=spec,
        tiles=TilesConfig(**{"size": 64, "stride": 48} | tiles),
    )


def blobs(order="F", seed=0):
    """Some objects of all sizes, corners and borders included."""
    mask_HW = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 5) > 0.06
    mask_HW[0, 0] = mask_HW[-1, -1] = True
    mask_HW[120:260, 100:330] = True
    return mask_HW


@pytest.mark.parametrize("order", ["F", "C"])
def test_boxes_are_those_of_the_labelled_mask(order):
    mask_HW = blobs()
    labels_HW, count = ndimage.label(mask_HW, np.ones((3, 3)))
    expected = sorted((y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(labels_HW))
    found_N4 = object_boxes(runs_from_mask(mask_HW, order))
    assert len(found_N4) == count
    assert sorted(map(tuple, found_N4.tolist())) == expected


@pytest.mark.parametrize("order", ["F", "C"])
def test_boxes_of_nothing_of_everything_and_of_single_pixels(order):
    mask_HW = np.zeros((5, 9), bool)
    assert object_boxes(runs_from_mask(mask_HW, order)).shape == (0, 4)
    mask_HW[4, 0] = mask_HW[0, 1] = True  # neighbours in the runs' order alone
    assert sorted(object_boxes(runs_from_mask(mask_HW, order)).tolist()) == [[0, 1, 1, 2], [4, 0, 5, 1]]
    assert object_boxes(runs_from_mask(np.ones((5, 9)), order)).tolist() == [[0, 0, 5, 9]]


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.7])
@pytest.mark.parametrize("jitter", [0.0, 0.45])
def test_every_object_has_a_tile_that_holds_its_middle(scale, jitter):
    mask_HW = blobs()
    plan = plan_of(mask_HW, grids=("objects",), scales=(scale,), object_jitter=jitter)
    planned, (view_hw,) = plan.planned(), plan.views()
    assert {tile.grid for tile in planned} == {"objects"}
    zoom = np.array(view_hw) / SHAPE
    for y0, x0, y1, x1 in object_boxes(runs_from_mask(mask_HW)):
        middle_y, middle_x = np.array([y0 + y1, x0 + x1]) / 2 * zoom
        assert any(t.y.start <= middle_y <= t.y.stop and t.x.start <= middle_x <= t.x.stop for t in planned)
    assert all(0 <= t.y.start < t.y.stop <= view_hw[0] and t.y.stop - t.y.start == 64 for t in planned)
    assert all(0 <= t.x.start < t.x.stop <= view_hw[1] and t.x.stop - t.x.start == 64 for t in planned)


def test_an_object_larger_than_a_tile_is_covered_by_several():
    mask_HW = np.zeros(SHAPE, bool)
    mask_HW[90:260, 100:330] = True
    planned = plan_of(mask_HW, grids=("objects",)).planned()
    seen_HW = np.zeros_like(mask_HW)
    for tile in planned:
        seen_HW[tile.y, tile.x] = True
    np.testing.assert_array_equal(seen_HW, mask_HW)


def test_jitter_comes_from_the_seed_and_is_bounded():
    mask_HW = np.zeros(SHAPE, bool)
    mask_HW[100:110, 100:300:50] = mask_HW[200:210, 100:300:50] = True

    def origins(**settings):
        return np.array([(t.y.start, t.x.start) for t in plan_of(mask_HW, grids=("objects",), **settings).planned()])

    still, moved = origins(object_jitter=0), origins(object_jitter=0.2)
    np.testing.assert_array_equal(moved, origins(object_jitter=0.2))
    assert (moved != still).any()
    assert (moved != origins(object_jitter=0.2, seed=1)).any()
    distances = np.abs(moved[:, None] - still[None]).max(axis=2)
    assert len(moved) == len(still) == 8
    assert distances.min(axis=1).max() <= 0.2 * 64 + 1
    assert distances.min(axis=0).max() <= 0.2 * 64 + 1


def test_of_many_objects_a_part_is_drawn():
    boxes = np.arange(400).reshape(100, 4)
    drawn = drawn_boxes(boxes, 10, np.random.default_rng(0))
    assert len({tuple(box) for box in drawn.tolist()} & {tuple(box) for box in boxes.tolist()}) == 10
    assert drawn_boxes(boxes, 0, np.random.default_rng(0)) is boxes
    assert drawn_boxes(boxes, 100, np.random.default_rng(0)) is boxes


@pytest.mark.parametrize(("length", "size", "stride"), [(413, 64, 48), (100, 64, 48), (88, 64, 48), (87, 64, 48)])
def test_shifted_origins_lie_half_a_stride_beside_those_of_the_grid(length, size, stride):
    origins = shifted_origins(length, size, stride)
    if length >= size + stride // 2:
        assert all(origin % stride == stride // 2 and origin + size <= length for origin in origins)
        assert origins[-1] + stride + size > length
    else:
        assert origins == [0]


def test_shifted_tiles_differ_from_those_of_the_grid():
    planned = plan_of(blobs(), grids=("grid", "shifted")).planned()
    places = {grid: {(t.y.start, t.x.start) for t in planned if t.grid == grid} for grid in ("grid", "shifted")}
    assert places["grid"]
    assert places["shifted"]
    assert not places["grid"] & places["shifted"]


@pytest.mark.parametrize("shape", [SHAPE, (64, 64), (50, 413), (1, 1), (64, 413)])
def test_ids_and_places_are_unique_over_grids_and_scales(shape):
    mask_HW = np.zeros(shape, bool)
    mask_HW[0, 0] = mask_HW[-1, -1] = True
    plan = plan_of(mask_HW, grids=("grid", "shifted", "objects"), scales=(1.0, 0.5, 2.0))
    planned = plan.planned()
    assert {tile.view for tile in planned} == {0, 1, 2}
    assert len({tile.tile_id for tile in planned}) == len(planned)
    assert len({(t.view, t.y.start, t.x.start) for t in planned}) == len(planned), "no tile twice"
    for tile in planned:
        for region, length in zip((tile.y, tile.x), plan.views()[tile.view], strict=True):
            assert region.stop - region.start == min(64, length)


def test_ids_of_two_slides_never_meet():
    """The id of one slide may look like the beginning of another's tile ids."""
    mask_HW = blobs()
    first = plan_of(mask_HW, grids=("grid", "shifted", "objects"), scales=(1.0, 0.5))
    ids = [tile.tile_id for name in ("a", "a_1", "a_0_0", "a_1_0") for tile in _renamed(first, name).planned()]
    assert len(set(ids)) == len(ids)


def _renamed(plan, name):
    return SlidePlan(**{**plan.__dict__, "sample_id": name})


def test_scales_are_relative_to_what_prediction_sees():
    plan = plan_of(blobs(), scales=(0.5, 1.0, 2.0))
    assert plan.views() == [(150, 206), SHAPE, (600, 826)]


def test_whole_mode_is_one_tile_whatever_the_tile_settings_say():
    planned = plan_of(blobs(), whole=True, grids=("objects", "shifted"), scales=(0.5, 2.0)).planned()
    assert [(tile.grid, tile.tile_id) for tile in planned] == [("grid", "a_1_0_0")]


def test_the_region_of_a_tile_is_the_innermost_around_its_middle():
    square = [[0, 0], [412, 0], [412, 299], [0, 299], [0, 0]]
    regions = {"Cortex": [square], "Medulla": [[[200, 100], [330, 100], [330, 290], [200, 290]]], "None": [[]]}
    planned = plan_of(blobs(), regions).planned()
    for tile in planned:
        y, x = (tile.y.start + tile.y.stop) / 2, (tile.x.start + tile.x.stop) / 2
        assert tile.region == ("Medulla" if 200 <= x <= 330 and 100 <= y <= 290 else "Cortex")
    assert {tile.region for tile in planned} == {"Cortex", "Medulla"}
    half = plan_of(blobs(), regions, scales=(0.5,)).planned()
    assert "Medulla" in {tile.region for tile in half}, "regions are in slide pixels, tiles are not"


def test_outside_all_rings_there_is_no_region():
    rings = RegionMap({"Cortex": [[[10, 20], [30, 20], [30, 40]], [[100, 0], [110, 0], [110, 9]]]})
    assert [rings.region_at(21, 20), rings.region_at(5, 109), rings.region_at(39, 11)] == ["Cortex", "Cortex", ""]
    assert RegionMap({}).region_at(0, 0) == ""


def square(low, high):
    return [[low, low], [high, low], [high, high], [low, high], [low, low]]


def test_a_ring_within_a_ring_is_a_hole():
    nested = RegionMap({"Cortex": [square(0, 100), square(20, 60), square(30, 40)], "Medulla": [square(20, 60)]})
    found = [nested.region_at(place, place) for place in (10, 25, 35)]
    assert found == ["Cortex", "Medulla", "Cortex"]
    assert RegionMap({"Cortex": [square(0, 100), square(20, 60)]}).region_at(50, 50) == ""


def test_the_kept_background_is_a_fair_share():
    kept = np.array([keeps_background(0.25, 0, f"s_{number}_0") for number in range(4000)])
    assert kept.mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)
    assert all(keeps_background(1.0, 0, name) and not keeps_background(0.0, 0, name) for name in "abc")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"grids": ()}, "grids"),
        ({"grids": ("grid", "grid")}, "grids"),
        ({"scales": ()}, "scales"),
        ({"scales": (1.0, 1.0)}, "scales"),
        ({"scales": (0.0,)}, "scales"),
        ({"min_saturation": 1.5}, "min_saturation"),
        ({"keep_background": -0.1}, "keep_background"),
        ({"object_jitter": 0.5}, "object_jitter"),
        ({"max_objects": -1}, "max_objects"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, words):
    with pytest.raises(ValueError, match=words):
        TilesConfig(**settings)
