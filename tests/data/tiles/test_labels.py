"""Labels of objects: painted for a region alone, stored, told apart, joined."""

import cv2
import numpy as np
import pytest
import tifffile

from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import runs_from_mask
from histofold.data.tiles.cut import TileJob, cut_slides
from histofold.data.tiles.files import has_tile, read_tile, tile_paths, write_tile
from histofold.data.tiles.labels import (
    IGNORED_LABEL,
    joined_labels,
    separate_objects,
    structure_pixels,
    target_labels,
    touching_pixels,
)
from histofold.schema.dataset import TilesConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample
from object_scenes import random_labels, random_masks

SHAPE = (37, 53)
WHOLE = (slice(0, SHAPE[0]), slice(0, SHAPE[1]))


def painted(masks, ignored_HW=None):
    """Every mask over the whole image, the largest first, over what is ignored; numbers are places + 1."""
    labels_HW = np.zeros(SHAPE, int)
    if ignored_HW is not None:
        labels_HW[ignored_HW] = IGNORED_LABEL
    for place in sorted(range(len(masks)), key=lambda place: -masks[place].sum()):
        labels_HW[masks[place]] = place + 1
    return labels_HW


def sampled(labels_HW, scaled_hw, y, x):
    """The pixel under the middle of each scaled one, one by one."""
    places = [
        [int((n + 0.5) * own / scaled) for n in range(scaled)] for own, scaled in zip(SHAPE, scaled_hw, strict=True)
    ]
    return labels_HW[np.ix_(*places)][y, x]


def compact(labels_HW):
    """Labels numbered from 1 on in their own order; what is ignored stays."""
    kept = sorted(set(labels_HW.ravel().tolist()) - {0, IGNORED_LABEL})
    numbers = {0: 0, IGNORED_LABEL: IGNORED_LABEL} | {label: n + 1 for n, label in enumerate(kept)}
    return np.vectorize(numbers.get, otypes=[np.uint16])(labels_HW)


@pytest.mark.parametrize("seed", range(30))
def test_a_region_is_cut_out_of_the_whole_scaled_label_image(seed):
    rng = np.random.default_rng(seed)
    masks = random_masks(rng, SHAPE)
    ignored_HW = rng.random(SHAPE) < 0.2 if seed % 3 else None
    ignored = None if ignored_HW is None else runs_from_mask(ignored_HW)
    objects, whole_HW = Objects.from_masks(masks, SHAPE), painted(masks, ignored_HW)
    for scaled_hw in (SHAPE, (19, 27), (80, 40), (1, 1)):
        spans = [sorted(rng.choice(side + 1, 2, replace=False)) for side in scaled_hw]
        y, x = (slice(int(first), int(last)) for first, last in spans)
        labels_HW = target_labels(objects, scaled_hw, y, x, ignored)
        assert labels_HW.dtype == np.uint16
        np.testing.assert_array_equal(labels_HW, compact(sampled(whole_HW, scaled_hw, y, x)))


def test_no_object_a_full_one_and_one_of_a_pixel_in_each_corner():
    assert not target_labels(Objects.from_masks([], SHAPE), SHAPE, *WHOLE).any()
    corners = [np.zeros(SHAPE, bool) for _ in range(2)]
    corners[0][0, 0] = corners[1][-1, -1] = True
    masks = [np.ones(SHAPE, bool), *corners]
    labels_HW = target_labels(Objects.from_masks(masks), SHAPE, *WHOLE)
    assert (labels_HW[0, 0], labels_HW[-1, -1], labels_HW[0, -1]) == (2, 3, 1)


def test_the_smaller_object_lies_on_top_and_one_that_is_hidden_has_no_number():
    masks = [np.zeros(SHAPE, bool) for _ in range(3)]
    masks[0][5:10, 5:10] = masks[1][5:9, 5:10] = masks[2][9, 5:10] = True  # the first is under both others
    labels_HW = target_labels(Objects.from_masks(masks), SHAPE, *WHOLE)
    assert set(labels_HW[5:9, 5:10].ravel()) == {1}
    assert set(labels_HW[9, 5:10]) == {2}


@pytest.mark.parametrize("seed", range(5))
def test_labels_go_to_a_file_of_16_bits_and_back(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    labels_HW = rng.choice(np.array([0, 0, 1, 2, 255, 256, 40000, IGNORED_LABEL], np.uint16), (64, 64))
    write_tile(tmp_path, "t", np.zeros((64, 64, 3), np.uint8), labels_HW, 1)
    stored_HW = read_tile(tmp_path, "t")[1]
    assert stored_HW.dtype == np.uint16
    np.testing.assert_array_equal(stored_HW, labels_HW)
    assert has_tile(tmp_path, "t")
    assert cv2.imread(str(tile_paths(tmp_path, "t")[1]), cv2.IMREAD_UNCHANGED).dtype == np.uint16


@pytest.mark.parametrize("ground", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_touching_pixels_are_those_with_another_object_in_reach(seed, ground):
    rng = np.random.default_rng(seed)
    labels_HW = random_labels(rng, (11, 16)).astype(np.uint16)
    labels_HW[rng.random(labels_HW.shape) < 0.1] = IGNORED_LABEL
    reach = 1 + seed % 2
    passed_over = {IGNORED_LABEL} if ground else {0, IGNORED_LABEL}
    expected_HW = np.zeros(labels_HW.shape, bool)
    for y, x in np.argwhere(structure_pixels(labels_HW)):
        around = labels_HW[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        expected_HW[y, x] = bool(set(around.ravel().tolist()) - passed_over - {int(labels_HW[y, x])})
    np.testing.assert_array_equal(touching_pixels(labels_HW, reach, ground), expected_HW)


@pytest.mark.parametrize("seed", range(10))
def test_objects_that_are_shown_apart_have_a_component_each(seed):
    labels_HW = np.kron(random_labels(np.random.default_rng(seed), (7, 9)), np.ones((6, 6))).astype(np.uint16)
    _, pieces_HW = cv2.connectedComponents(separate_objects(labels_HW).astype(np.uint8), connectivity=8)
    for piece in range(1, pieces_HW.max() + 1):
        assert len(set(labels_HW[pieces_HW == piece].tolist())) == 1


@pytest.mark.parametrize("seed", range(10))
def test_joined_labels_are_as_many_objects_as_both_have(seed):
    rng = np.random.default_rng(seed)
    first_HW, second_HW = (random_labels(rng, (9, 14)).astype(np.uint16) for _ in range(2))
    first_HW[0, 0] = second_HW[-1, -1] = IGNORED_LABEL
    moved_HW = joined_labels(first_HW, second_HW)
    np.testing.assert_array_equal(compact(moved_HW.astype(int)), compact(second_HW.astype(int)))
    assert not (set(moved_HW.ravel().tolist()) & set(first_HW.ravel().tolist())) - {0, IGNORED_LABEL}


def touching_discs():
    """Labels of two discs that touch, one at the image's border."""
    labels_HW = np.zeros((61, 93), np.uint8)
    cv2.circle(labels_HW, (20, 30), 12, 1, -1)
    cv2.circle(labels_HW, (44, 30), 12, 2, -1)
    return labels_HW


@pytest.fixture
def job(tmp_path):
    labels_HW = touching_discs()
    tifffile.imwrite(tmp_path / "s.tif", np.full((*labels_HW.shape, 3), 120, np.uint8))
    return TileJob(
        sample=Sample(id="s", image_path=tmp_path / "s.tif", pixel_size_um=1.0),
        target=runs_from_mask(labels_HW > 0),
        fold=0,
        preprocessing=Preprocessing(target_pixel_size_um=1.0),
        tiles=TilesConfig(size=32, stride=16, grids=("grid", "objects"), object_jitter=0.0),
        out=tmp_path / "out",
        classes=("nucleus",),
        objects=Objects.from_labels(labels_HW),
    )


def test_tiles_hold_the_labels_of_their_place_and_the_index_counts_objects(job):
    labels_HW = touching_discs()
    index = cut_slides([job], 1).index
    for row in index.to_dict("records"):
        stored_HW = read_tile(job.out, row["tile_id"])[1]
        expected_HW = labels_HW[row["y"] : row["y"] + 32, row["x"] : row["x"] + 32]
        np.testing.assert_array_equal(stored_HW, compact(expected_HW.astype(int)))
        assert row["mask_fraction"] == pytest.approx((expected_HW > 0).mean(), abs=1e-6)
    # A tile on each of two objects that touch, which are one component of the mask.
    assert {(row.y, row.x) for row in index[index["grid"] == "objects"].itertuples()} == {(14, 4), (14, 28)}
