import itertools

import numpy as np
import pytest

from histofold.core.objects import Objects
from histofold.core.objects.seams import TileObjects, merge_tiles
from histofold.core.tiles import TileGrid
from object_scenes import pixel_sets, random_labels, set_iou

SHAPE = (23, 31)
GRID = TileGrid(SHAPE, size=12, stride=7)


def cut(labels, tile, score=1.0):
    objects = Objects.from_labels(labels[tile.read])
    return TileObjects(objects, np.full(len(objects), score), (tile.read[0].start, tile.read[1].start))


def masks_of(objects):
    return {frozenset(np.flatnonzero(runs.to_mask()).tolist()) for runs in objects}


def disjoint_boxes(rng):
    """Boxes with a gap around each."""
    labels, count = np.zeros(SHAPE, int), 0
    for y, x in itertools.product(range(0, SHAPE[0], 6), range(0, SHAPE[1], 8)):
        if rng.random() < 0.7:
            count += 1
            labels[y : y + rng.integers(1, 6), x : x + rng.integers(1, 8)] = count
    return labels


def test_objects_that_tiles_cut_are_whole_again():
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = disjoint_boxes(rng)
        objects, scores = merge_tiles([cut(labels, tile, score=sum(tile.index)) for tile in GRID], SHAPE)
        assert masks_of(objects) == masks_of(Objects.from_labels(labels))
        assert len(objects) == len(scores) == labels.max() if labels.any() else len(objects) == 0
        for runs, score in zip(objects, scores.tolist(), strict=True):
            mask = runs.to_mask()
            assert score == max(sum(tile.index) for tile in GRID if mask[tile.read].any())


def naive_merge(tiles, iou):
    """Pair by pair with sets of pixels, then group by group."""
    entries = []
    for index, tile in enumerate(tiles):
        (y, x), (height, width) = tile.offset, tile.objects.shape_hw
        window = np.zeros(SHAPE, bool)
        window[y : y + height, x : x + width] = True
        for runs, score in zip(tile.objects, tile.scores, strict=True):
            mask = np.zeros(SHAPE, bool)
            mask[y : y + height, x : x + width] = runs.to_mask()
            entries.append((index, *pixel_sets([window, mask]), score))
    groups = [{index} for index in range(len(entries))]
    for one, other in itertools.combinations(range(len(entries)), 2):
        a, b = entries[one], entries[other]
        if a[0] != b[0] and set_iou(a[2] & b[1], b[2] & a[1]) > iou:
            joined = next(g for g in groups if one in g) | next(g for g in groups if other in g)
            groups = [g for g in groups if not g & joined] + [joined]
    return sorted((sorted(set().union(*(entries[i][2] for i in g))), max(entries[i][3] for i in g)) for g in groups)


@pytest.mark.parametrize("iou", [0.5, 0.8])
def test_merging_is_the_pairwise_loop_where_tiles_disagree(iou):
    rng, joined = np.random.default_rng(1), 0
    for _ in range(25):
        labels, tiles = random_labels(rng, SHAPE), []
        for tile in GRID:
            seen = np.where(rng.random(SHAPE) < rng.choice([0.02, 0.3]), 0, labels)
            part = cut(seen, tile)
            tiles.append(part._replace(scores=rng.random(len(part.objects)).round(3)))
        objects, scores = merge_tiles(tiles, SHAPE, iou)
        ours = [(np.flatnonzero(runs.to_mask()).tolist(), score) for runs, score in zip(objects, scores, strict=True)]
        assert sorted(ours) == naive_merge(tiles, iou)
        joined += len(objects) < sum(len(tile.objects) for tile in tiles)
    assert joined > 15


def test_an_object_that_crosses_many_tiles_is_one_and_runs_end_with_their_columns():
    labels = np.zeros(SHAPE, int)
    labels[:, 4:9] = 1
    labels[9:12, 4:] = 1
    objects, _ = merge_tiles([cut(labels, tile) for tile in GRID], SHAPE)
    whole = Objects.from_labels(labels)
    assert (objects.starts.tolist(), objects.lengths.tolist()) == (whole.starts.tolist(), whole.lengths.tolist())


def test_tiles_that_share_no_pixels_leave_objects_cut():
    labels = np.ones((4, 10), int)
    halves = [TileObjects(Objects.from_labels(labels[:, :5]), np.ones(1), (0, x)) for x in (0, 5)]
    objects, scores = merge_tiles(halves, (4, 10))
    assert objects.areas.tolist() == [20, 20]
    assert scores.tolist() == [1, 1]


def test_no_tiles_and_tiles_without_objects_give_none():
    for tiles in ([], [TileObjects(Objects.from_masks([], (4, 5)), np.zeros(0), (2, 3))]):
        objects, scores = merge_tiles(tiles, SHAPE)
        assert (len(objects), len(scores), objects.shape_hw) == (0, 0, SHAPE)


def test_all_faults_of_tiles_are_named_at_once():
    mask = Objects.from_masks([np.ones((4, 5))])
    tiles = [TileObjects(mask, np.ones(1), (20, 0)), TileObjects(mask, np.ones(2), (0, 0))]
    with pytest.raises(ValueError, match=r"tile 0 at .* beyond the image[^$]*tile 1: 1 objects and scores"):
        merge_tiles(tiles, SHAPE)
    with pytest.raises(ValueError, match=r"at least 0\.5"):
        merge_tiles([], SHAPE, 0.3)
