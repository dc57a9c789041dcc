"""CutMix: each pixel is one of two tiles of an organ, drawn from the key alone."""

from functools import partial
from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch

from histofold.data.tiles.files import write_tile
from histofold.data.tiles.labels import IGNORED_LABEL
from histofold.schema.experiment import AugmentConfig
from histofold.train.augment.cutmix import CutMix
from histofold.train.augment.pipeline import Augmenter
from histofold.train.dataset import TileDataset, make_loader
from histofold.train.sampler import BalancedSampler

ORGANS = ["kidney", "lung", "kidney", "lung", "kidney", "spleen", "spleen", "prostate", ""]
SLIDES = ["k1", "l1", "k2", "l1", "k1", "s1", "s2", "p1", "x1"]
KEYS = [(seed, epoch, position) for seed in range(3) for epoch in range(4) for position in range(40)]


def cuts(tile, cutmix, shape_hw=(64, 48)):
    return [cut for key in KEYS if (cut := cutmix.draw(tile, key, shape_hw)) is not None]


def test_partners_are_all_tiles_of_the_same_organ_on_other_slides():
    cutmix = CutMix(ORGANS, SLIDES, probability=1.0, area=0.5)
    for tile, (organ, slide) in enumerate(zip(ORGANS, SLIDES, strict=True)):
        wanted = {n for n, other in enumerate(ORGANS) if organ and other == organ and SLIDES[n] != slide}
        found = cuts(tile, cutmix)
        assert {cut.partner for cut in found} == wanted
        assert len(found) == (len(KEYS) if wanted else 0)
    assert cutmix.tiles_with_partner == 5


def test_partners_are_drawn_evenly():
    cutmix = CutMix(["a"] * 5, list("abccc"), probability=1.0, area=0.5)
    counts = pd.Series([cut.partner for cut in cuts(0, cutmix)]).value_counts(normalize=True)
    for partner in (1, 2, 3, 4):
        assert counts[partner] == pytest.approx(0.25, abs=0.07)


def test_tiles_without_any_organ_are_partners_of_each_other_only_where_none_is_known():
    known = CutMix(["", "", "lung"], list("abc"), probability=1.0, area=0.5)
    assert known.tiles_with_partner == 0
    none = CutMix(["", "", ""], list("abc"), probability=1.0, area=0.5)
    assert none.tiles_with_partner == 3
    assert {cut.partner for cut in cuts(1, none)} == {0, 2}


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_the_probability_is_kept(probability):
    found = cuts(0, CutMix(ORGANS, SLIDES, probability=probability, area=0.5))
    assert len(found) / len(KEYS) == pytest.approx(probability, abs=0.06 if 0 < probability < 1 else 0)


@pytest.mark.parametrize("area", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("shape_hw", [(1, 1), (5, 64), (64, 48)])
def test_rectangles_lie_inside_and_are_no_larger_than_asked_for(area, shape_hw):
    height, width = shape_hw
    found = cuts(0, CutMix(ORGANS, SLIDES, probability=1.0, area=area), shape_hw)
    for cut in found:
        assert 0 <= cut.y.start < cut.y.stop <= height
        assert 0 <= cut.x.start < cut.x.stop <= width
        rows, columns = cut.y.stop - cut.y.start, cut.x.stop - cut.x.start
        # Sides are rounded, and at least one pixel.
        assert rows <= max(1, height * area**0.5 + 0.5)
        assert columns <= max(1, width * area**0.5 + 0.5)
    if min(shape_hw) >= 48 and area >= 0.5:
        shares = [(c.y.stop - c.y.start) * (c.x.stop - c.x.start) / (height * width) for c in found]
        assert np.mean(shares) == pytest.approx(area / 2, abs=0.05)
        assert min(c.y.start for c in found) == min(c.x.start for c in found) == 0
        assert max(c.y.stop for c in found) == height
        assert max(c.x.stop for c in found) == width


def test_a_draw_depends_on_its_key_alone():
    cutmix = CutMix(ORGANS, SLIDES, probability=0.5, area=0.5)
    first = [cutmix.draw(0, key, (64, 64)) for key in KEYS]
    again = CutMix(ORGANS, SLIDES, probability=0.5, area=0.5)
    assert [again.draw(0, key, (64, 64)) for key in reversed(KEYS)][::-1] == first
    drawn = [(key, cut) for key, cut in zip(KEYS, first, strict=True) if cut is not None]
    assert all(cut.key[1:] == key[1:] and cut.key[0] != key[0] for key, cut in drawn)
    # Every draw is its own: no part of the key is left out.
    assert len({cut.key[0] for _, cut in drawn}) == len(drawn)


@pytest.fixture
def tiles(tmp_path):
    """Nine tiles, each of a colour of its own, whose mask says which: bits of three classes."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(9):
        image = np.full((64, 64, 3), 20 * number + 10, np.uint8)
        write_tile(tmp_path, f"t{number}", image, np.full((64, 64), number % 8, np.uint8), 3)
    index = pd.DataFrame({"tile_id": [f"t{n}" for n in range(9)], "id": SLIDES, "organ": ORGANS, "bin": "small"})
    return tmp_path, index


OFF = AugmentConfig(flip=0, rotate90=0, affine=0, sharpness=0, colour=0, hed=0)


def made_dataset(tiles, config, probability=1.0):
    folder, index = tiles
    cutmix = CutMix(index["organ"], index["id"], probability=probability, area=0.5)
    organs = ("kidney", "lung", "prostate", "spleen")
    return TileDataset(folder, index, Augmenter(config, 64), 7, classes=3, organs=organs, cutmix=cutmix)


def test_each_pixel_is_one_of_two_tiles_image_and_mask_alike(tiles):
    dataset = made_dataset(tiles, OFF)
    mixed = 0
    for position in range(60):
        tile = position % 9
        example = dataset[tile, 0, position]
        numbers_HW = (example["image"][:, :, 0].numpy() - 10) // 20
        np.testing.assert_array_equal(example["image"].numpy(), np.repeat(numbers_HW[..., None] * 20 + 10, 3, axis=2))
        np.testing.assert_array_equal(example["mask"].numpy(), numbers_HW % 8)
        (others,) = [set(np.unique(numbers_HW)) - {tile}]
        assert len(others) <= 1
        for other in others:
            assert ORGANS[other] == ORGANS[tile]
            assert SLIDES[other] != SLIDES[tile]
            where = np.argwhere(numbers_HW == other)
            height, width = where.max(axis=0) - where.min(axis=0) + 1
            assert len(where) == height * width <= 0.52 * 64 * 64
            mixed += 1
    assert mixed > 20


def test_objects_of_two_tiles_are_never_one(tmp_path):
    """And the pasted ones are those of the partner, renumbered."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for tile in range(2):
        labels_HW = np.kron(rng.integers(0, 4, (4, 4)), np.ones((16, 16))).astype(np.uint16)
        labels_HW[0, 0], labels_HW[-1, -1] = 3, IGNORED_LABEL
        write_tile(tmp_path, f"t{tile}", np.full((64, 64, 3), 100 * tile, np.uint8), labels_HW, 1)
    index = pd.DataFrame({"tile_id": ["t0", "t1"], "id": ["a", "b"], "organ": ["", ""]})
    cutmix = CutMix(index["organ"], index["id"], probability=1.0, area=0.5)
    seen = {}
    made = partial(TileDataset, tmp_path, index, Augmenter(OFF, 64, labels=True), 7, cutmix=cutmix)
    dataset = made(as_example=lambda image_HWC, mask_HW: seen.update(image=image_HWC, mask=mask_HW) or {})
    for position in range(20):
        dataset[0, 0, position]
        of_other_HW = seen["image"][..., 0] == 100
        own, others = (set(np.unique(seen["mask"][where_HW])) for where_HW in (~of_other_HW, of_other_HW))
        assert not own & others - {0, IGNORED_LABEL}
        cut = cutmix.draw(0, (7, 0, position), (64, 64))
        theirs_HW = dataset.read(1)[1][cut.y, cut.x]
        moved_HW = seen["mask"][cut.y, cut.x]
        assert len(np.unique(moved_HW)) == len(np.unique(theirs_HW))
        assert len({*zip(moved_HW.ravel().tolist(), theirs_HW.ravel().tolist(), strict=True)}) == len(
            np.unique(moved_HW)
        )


def test_what_is_not_replaced_is_the_example_without_cutmix(tiles):
    """And what is replaced is the partner augmented with the key of the cut."""
    config = AugmentConfig(crop=32, affine=1.0, colour=1.0, hed=1.0, sharpness=1.0)
    with_cuts, without = made_dataset(tiles, config), made_dataset(tiles, config, probability=0.0)
    _, index = tiles
    cutmix = CutMix(index["organ"], index["id"], probability=1.0, area=0.5)
    for position in range(20):
        key = (7, 3, position)
        mixed, plain, cut = with_cuts[0, 3, position], without[0, 3, position], cutmix.draw(0, key, (32, 32))
        partner = Augmenter(config, 64)(*without.read(cut.partner), cut.key)
        expected_image, expected_mask = plain["image"].numpy().copy(), plain["mask"].numpy().copy()
        expected_image[cut.y, cut.x] = partner.image_HWC[cut.y, cut.x]
        expected_mask[cut.y, cut.x] = partner.mask_HW[cut.y, cut.x]
        np.testing.assert_array_equal(mixed["image"].numpy(), expected_image)
        np.testing.assert_array_equal(mixed["mask"].numpy(), expected_mask)
        assert mixed["organ"] == plain["organ"] == 0
        ends = sorted([plain["log_zoom"].item(), partner.log_zoom])
        assert ends[0] - 1e-6 <= mixed["log_zoom"].item() <= ends[1] + 1e-6


def test_batches_do_not_depend_on_workers(tiles):
    config = AugmentConfig(crop=32)

    def batches(workers):
        loader = make_loader(made_dataset(tiles, config), BalancedSampler(tiles[1]["bin"], 7, True, 3, 0), 3, workers)
        return [{name: part.clone() for name, part in batch.items()} for batch in islice(loader, 6)]

    for alone, shared in zip(batches(0), batches(2), strict=True):
        assert all(torch.equal(alone[name], shared[name]) for name in alone)
