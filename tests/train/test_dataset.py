from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch

from histoseg.core.faults import InputError
from histoseg.data.tile_files import write_tile
from histoseg.schema.experiment import AugmentConfig, Experiment, TrainConfig
from histoseg.schema.parse import load_toml, to_toml
from histoseg.train.augment import Augmenter, jitter_stains
from histoseg.train.dataset import BalancedSampler, TileDataset, make_loader

BINS = pd.Series(["none"] * 40 + ["very_small"] * 3 + ["small"] * 10 + ["large"] * 27)


def draws(count, start=0, rank=0, ranks=1, batch=4, balanced=True, seed=0):
    sampler = BalancedSampler(BINS, seed, balanced, batch, start, rank, ranks)
    return list(islice(iter(sampler), count))


def test_bins_are_drawn_equally():
    drawn = BINS.to_numpy()[[tile for tile, _, _ in draws(80 * 30)]]
    shares = pd.Series(drawn).value_counts(normalize=True)
    assert shares["none"] == pytest.approx(0.5, abs=0.02)
    for name in ("very_small", "small", "large"):
        assert shares[name] == pytest.approx(0.5 / 3, abs=0.02)


def test_within_a_bin_no_tile_comes_much_more_often_than_another():
    tiles = np.array([tile for tile, _, _ in draws(80)])
    for name in BINS.unique():
        members = np.flatnonzero(BINS.to_numpy() == name)
        counts = np.bincount(tiles, minlength=80)[members]
        assert counts.max() - counts.min() <= 1


def test_unbalanced_order_is_a_permutation():
    assert sorted(tile for tile, _, _ in draws(80, balanced=False)) == list(range(80))


def test_starting_late_is_the_rest_of_the_same_order():
    everything = draws(200)
    for start in (1, 7, 30):
        assert draws(200 - start * 4, start=start) == everything[start * 4 :]


def test_processes_share_the_order_of_one():
    whole = draws(160, batch=8)
    parts = [draws(80, rank=rank, ranks=2, batch=4) for rank in range(2)]
    for step in range(20):
        both = parts[0][step * 4 : step * 4 + 4] + parts[1][step * 4 : step * 4 + 4]
        assert both == whole[step * 8 : step * 8 + 8]


def test_only_masked_or_only_unmasked_tiles():
    for name in ("none", "some"):
        sampler = BalancedSampler(pd.Series([name] * 5), 0, True, 2, 0)
        assert sorted(tile for tile, _, _ in islice(iter(sampler), 5)) == list(range(5))


def tile_pair(seed=0, side=64):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (side, side, 3), np.uint8)
    return image, (rng.random((side, side)) < 0.3).astype(np.uint8)


def test_the_same_key_gives_the_same_example_and_others_differ():
    augmenter = Augmenter(AugmentConfig(crop=32), 64)
    image, mask = tile_pair()
    first = augmenter(image, mask, (0, 1, 2))
    augmenter(image, mask, (9, 9, 9))
    again = Augmenter(AugmentConfig(crop=32), 64)(image, mask, (0, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert (augmenter(image, mask, other)[0] != first[0]).any()


def test_examples_have_their_types_and_masks_stay_binary():
    augmenter = Augmenter(AugmentConfig(crop=32, affine=1.0, colour=1.0, hed=1.0, sharpness=1.0), 64)
    for position in range(30):
        image, mask = augmenter(*tile_pair(position), (0, 0, position))
        assert image.shape == (32, 32, 3)
        assert mask.shape == (32, 32)
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 1}


def test_image_and_mask_move_together():
    mask = tile_pair()[1]
    image = np.repeat(mask[:, :, None] * 255, 3, axis=2)
    geometric = AugmentConfig(affine=0, sharpness=0, colour=0, hed=0, crop=32)
    for position in range(20):
        moved, moved_mask = Augmenter(geometric, 64)(image, mask, (0, 0, position))
        np.testing.assert_array_equal(moved[:, :, 0] > 0, moved_mask > 0)


def test_everything_off_is_the_identity():
    off = AugmentConfig(flip=0, rotate90=0, affine=0, sharpness=0, colour=0, hed=0)
    image, mask = tile_pair()
    same_image, same_mask = Augmenter(off, 64)(image, mask, (0, 0, 0))
    np.testing.assert_array_equal(same_image, image)
    np.testing.assert_array_equal(same_mask, mask)


def test_stain_jitter_of_strength_zero_is_the_identity_and_white_survives():
    image = tile_pair()[0]
    np.testing.assert_array_equal(jitter_stains(image, 0.0, np.random.default_rng(0)), image)
    white = np.full((8, 8, 3), 255, np.uint8)
    assert jitter_stains(white, 0.1, np.random.default_rng(1)).min() > 150


def test_stain_jitter_follows_scikit_image():
    from skimage.color import hed_from_rgb

    from histoseg.core.stain import stain_jitter_map

    # scikit-image normalises no row; the map must be the same for any scaling of rows where only factors jitter.
    rgb_from_hed = np.linalg.inv(hed_from_rgb)
    scales = np.array([1.2, 0.9, 1.05])
    matrix, offset = stain_jitter_map(scales, np.zeros(3))
    np.testing.assert_allclose(matrix, hed_from_rgb @ np.diag(scales) @ rgb_from_hed, atol=1e-9)
    np.testing.assert_allclose(offset, 0)


def store_tiles(folder, masks, classes=1):
    """Six tiles as the builder stores them; masks uint8 with a bit for each class."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, bits in enumerate(masks):
        write_tile(folder, f"t{number}", tile_pair(number)[0], bits, classes)
    return folder, pd.DataFrame({"tile_id": [f"t{n}" for n in range(6)], "bin": ["none", "small"] * 3})


@pytest.fixture
def tile_folder(tmp_path):
    return store_tiles(tmp_path, [tile_pair(number)[1] for number in range(6)])


def test_classes_move_through_augmentation_as_each_alone(tmp_path):
    """One mask of three bits is moved as three masks would be: the same key, the same pixels."""
    bits = [np.random.default_rng(number).integers(0, 8, (64, 64), np.uint8) for number in range(6)]
    folder, index = store_tiles(tmp_path / "all", bits, classes=3)
    config = AugmentConfig(crop=32, affine=1.0, sharpness=1.0, colour=1.0, hed=1.0)
    together = TileDataset(folder, index, Augmenter(config, 64), 0, classes=3)
    for number in range(3):
        folder, index = store_tiles(tmp_path / str(number), [each >> number & 1 for each in bits])
        alone = TileDataset(folder, index, Augmenter(config, 64), 0)
        for draw in ((0, 0, 0), (3, 1, 5), (5, 2, 1)):
            images, masks = together[draw]
            image, mask = alone[draw]
            assert torch.equal(images, image)
            assert tuple(masks.shape) == (3, 32, 32)
            assert torch.equal(masks[number], mask)
            assert 0 < masks[number].sum() < 32 * 32
    batch = next(iter(make_loader(together, BalancedSampler(index["bin"], 0, True, 2, 0), 2, 0)))
    assert tuple(batch[1].shape) == (2, 3, 32, 32)


def test_a_missing_tile_says_what_to_do(tile_folder):
    folder, index = tile_folder
    (folder / "masks" / "t3.png").unlink()
    with pytest.raises(FileNotFoundError, match="build the dataset anew"):
        TileDataset(folder, index, Augmenter(AugmentConfig(crop=32), 64), 0)[(3, 0, 0)]


REGIONS = pd.Series((["Cortex"] * 5 + ["Medulla"] * 2 + [""]) * 10)


def region_shares(shares, balanced, epochs=40):
    sampler = BalancedSampler(BINS, 0, balanced, 4, 0, regions=REGIONS, shares=shares)
    tiles = np.concatenate([sampler.epoch_order(epoch) for epoch in range(epochs)])
    return tiles, pd.Series(REGIONS.to_numpy()[tiles]).value_counts(normalize=True)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize(
    "shares", [{"Medulla": 0.5}, {"Cortex": 0.2, "Medulla": 0.7}, {"Cortex": 0.25, "Medulla": 0.75}]
)
def test_regions_get_their_shares_of_the_draws(shares, balanced):
    _, found = region_shares(shares, balanced)
    for name, share in shares.items():
        assert found[name] == pytest.approx(share, abs=0.04)
    others = [name for name in ("Cortex", "Medulla", "") if name not in shares]
    assert sum(found.get(name, 0) for name in others) == pytest.approx(1 - sum(shares.values()), abs=0.04)


def test_within_a_region_bins_are_balanced_and_tiles_drawn_evenly():
    tiles, _ = region_shares({"Cortex": 0.8}, balanced=True, epochs=200)
    drawn = BINS.to_numpy()[tiles[REGIONS.to_numpy()[tiles] == "Cortex"]]
    shares = pd.Series(drawn).value_counts(normalize=True)
    assert shares["none"] == pytest.approx(0.5, abs=0.04)
    masked = set(BINS[REGIONS == "Cortex"]) - {"none"}
    for name in masked:
        assert shares[name] == pytest.approx(0.5 / len(masked), abs=0.04)
    order = BalancedSampler(BINS, 0, False, 4, 0, regions=REGIONS, shares={"Cortex": 0.8}).epoch_order(0)
    for name in ("Cortex", "Medulla"):
        counts = np.bincount(order, minlength=80)[REGIONS.eq(name)]
        assert counts.max() - counts.min() <= 1


def test_without_shares_the_order_does_not_know_regions():
    for balanced in (True, False):
        plain = BalancedSampler(BINS, 3, balanced, 4, 0).epoch_order(2)
        for shares in (None, {}):
            known = BalancedSampler(BINS, 3, balanced, 4, 0, regions=REGIONS, shares=shares)
            np.testing.assert_array_equal(known.epoch_order(2), plain)


def test_a_region_without_tiles_is_named_with_those_that_have_some():
    with pytest.raises(InputError, match=r"train\.regions\.Papilla") as caught:
        BalancedSampler(BINS, 0, True, 4, 0, regions=REGIONS, shares={"Papilla": 0.5})
    assert "Cortex, Medulla" in caught.value.faults[0].remedy


@pytest.mark.parametrize("regions", [{"Cortex": 0.0}, {"Cortex": -0.5}, {"Cortex": 0.6, "Medulla": 0.5}])
def test_shares_that_are_none_are_refused(regions):
    with pytest.raises(ValueError, match="regions"):
        TrainConfig(regions=regions)


def test_shares_of_regions_survive_the_experiment_file(tmp_path):
    experiment = Experiment(train=TrainConfig(regions={"Cortex": 0.75, "Outer stripe": 0.25}))
    (tmp_path / "e.toml").write_text(to_toml(experiment))
    assert load_toml(Experiment, tmp_path / "e.toml") == experiment


def test_batches_do_not_depend_on_workers(tile_folder):
    folder, index = tile_folder

    def batches(workers):
        dataset = TileDataset(folder, index, Augmenter(AugmentConfig(crop=32), 64), seed=3)
        sampler = BalancedSampler(index["bin"], 3, True, 2, 0)
        return [[part.clone() for part in batch] for batch in islice(make_loader(dataset, sampler, 2, workers), 5)]

    for alone, shared in zip(batches(0), batches(2), strict=True):
        assert (alone[0] == shared[0]).all()
        assert (alone[1] == shared[1]).all()
        assert alone[0].dtype == alone[1].dtype
        assert tuple(alone[0].shape) == (2, 32, 32, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_global_generator_alone(tile_folder, workers):
    """A resumed run has just restored it: a draw by the loader would change every dropout after it."""
    folder, index = tile_folder
    dataset = TileDataset(folder, index, Augmenter(AugmentConfig(crop=32), 64), seed=3)
    before = torch.get_rng_state()
    next(iter(make_loader(dataset, BalancedSampler(index["bin"], 3, True, 2, 0), 2, workers)))
    assert torch.equal(torch.get_rng_state(), before)


def test_colours_are_read_as_rgb(tile_folder):
    import cv2

    folder, index = tile_folder
    cv2.imwrite(str(folder / "images" / "t0.bmp"), np.full((64, 64, 3), (0, 0, 200), np.uint8))  # red in OpenCV's BGR
    off = AugmentConfig(flip=0, rotate90=0, affine=0, sharpness=0, colour=0, hed=0)
    image, _ = TileDataset(folder, index, Augmenter(off, 64), 0)[(0, 0, 0)]
    assert image[0, 0].tolist() == [200, 0, 0]
