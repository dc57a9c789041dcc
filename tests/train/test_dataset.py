from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch

from histofold.core.faults import InputError
from histofold.data.tiles.files import write_tile
from histofold.data.tiles.masks import IGNORED_BIT
from histofold.imaging.tissue import tissue_mask
from histofold.schema.experiment import AugmentConfig
from histofold.train.augment.pipeline import Augmenter
from histofold.train.augment.pixels import jitter_stains
from histofold.train.dataset import TileDataset, make_loader
from histofold.train.sampler import BalancedSampler

OWN_STEPS = """
transform:
  __class_fullname__: Compose
  transforms:
    - {__class_fullname__: GaussNoise, p: 0.5}
    - {__class_fullname__: GridDistortion, p: 0.5}
    - {__class_fullname__: histofold.TransferStain, p: 0.5}
"""
OFF = AugmentConfig(flip=0, rotate90=0, affine=0, sharpness=0, colour=0, hed=0)


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
        image, mask, _ = augmenter(*tile_pair(position), (0, 0, position))
        assert image.shape == (32, 32, 3)
        assert mask.shape == (32, 32)
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 1}


def test_image_and_mask_move_together():
    mask = tile_pair()[1]
    image = np.repeat(mask[:, :, None] * 255, 3, axis=2)
    geometric = AugmentConfig(affine=0, sharpness=0, colour=0, hed=0, crop=32)
    for position in range(20):
        moved, moved_mask, _ = Augmenter(geometric, 64)(image, mask, (0, 0, position))
        np.testing.assert_array_equal(moved[:, :, 0] > 0, moved_mask > 0)


def test_everything_off_is_the_identity():
    image, mask = tile_pair()
    same_image, same_mask, log_zoom = Augmenter(OFF, 64)(image, mask, (0, 0, 0))
    np.testing.assert_array_equal(same_image, image)
    np.testing.assert_array_equal(same_mask, mask)
    assert log_zoom == 0


def test_stain_jitter_of_strength_zero_is_the_identity_and_white_survives():
    image = tile_pair()[0]
    np.testing.assert_array_equal(jitter_stains(image, 0.0, np.random.default_rng(0)), image)
    white = np.full((8, 8, 3), 255, np.uint8)
    assert jitter_stains(white, 0.1, np.random.default_rng(1)).min() > 150


def test_stain_jitter_follows_scikit_image():
    from skimage.color import hed_from_rgb

    from histofold.core.stain import stain_jitter_map

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
            example, single = together[draw], alone[draw]
            assert torch.equal(example["image"], single["image"])
            assert torch.equal(example["mask"] >> number & 1, single["mask"])
            assert example["log_zoom"] == single["log_zoom"]
            assert 0 < single["mask"].sum() < 32 * 32
    batch = next(iter(make_loader(together, BalancedSampler(index["bin"], 0, True, 2, 0), 2, 0)))
    assert tuple(batch["mask"].shape) == (2, 32, 32)


def test_the_default_collate_makes_a_batch_of_every_entry(tile_folder):
    folder, index = tile_folder
    index = index.assign(organ=["lung", "", "kidney", "spleen", "lung", "kidney"])
    config = AugmentConfig(crop=32, affine=1.0)
    dataset = TileDataset(folder, index, Augmenter(config, 64), 0, organs=("kidney", "lung"))
    batch = next(iter(make_loader(dataset, [(tile, 0, tile) for tile in range(6)], 6, 0)))
    found = {name: (part.dtype, tuple(part.shape)) for name, part in batch.items()}
    assert found == {
        "image": (torch.uint8, (6, 32, 32, 3)),
        "mask": (torch.uint8, (6, 32, 32)),
        "organ": (torch.int64, (6,)),
        "log_zoom": (torch.float32, (6,)),
    }
    assert batch["organ"].tolist() == [1, -1, 0, -1, 1, 0]
    assert batch["log_zoom"].abs().max() > 0
    assert TileDataset(folder, index[["tile_id", "bin"]], Augmenter(config, 64), 0)[0, 0, 0]["organ"] == -1


def half_glass(folder):
    """A tile whose right half is glass, with a label on every pixel, and one that is all glass."""
    image = tile_pair()[0] // 2
    image[:, 32:] = 240
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    write_tile(folder, "half", image, np.full((64, 64), 5, np.uint8), 3)
    write_tile(folder, "glass", np.full((64, 64, 3), 240, np.uint8), np.zeros((64, 64), np.uint8), 3)
    return image, pd.DataFrame({"tile_id": ["half", "glass"], "id": ["a", "b"]})


def test_blank_glass_is_left_out_with_the_labels_on_it(tmp_path):
    image, index = half_glass(tmp_path)
    augmenter = Augmenter(OFF, 64)
    bits = TileDataset(tmp_path, index, augmenter, 0, classes=3, ignore_blank=True)[0, 0, 0]["mask"].numpy()
    np.testing.assert_array_equal(bits >= IGNORED_BIT, ~tissue_mask(image))
    np.testing.assert_array_equal(bits & 127, 5)
    assert not (bits[:, :30] & IGNORED_BIT).any()
    assert (bits[:, 34:] & IGNORED_BIT).all()
    assert (TileDataset(tmp_path, index, augmenter, 0, classes=3)[0, 0, 0]["mask"] == 5).all()
    blank = TileDataset(tmp_path, index, augmenter, 0, classes=3, ignore_blank=True)[1, 0, 0]["mask"]
    assert (blank == IGNORED_BIT).all()


def test_glass_is_found_on_the_tile_as_cut_and_moves_with_it(tmp_path):
    """Not on what stain normalisation or augmentation make of it: here all glass becomes dark."""
    _, index = half_glass(tmp_path)
    dark = dict.fromkeys(index["id"], lambda image: np.full_like(image, 90))
    for config in (OFF, AugmentConfig(crop=32, affine=1.0, colour=1.0)):
        options = {"classes": 3, "ignore_blank": True}
        plain = TileDataset(tmp_path, index, Augmenter(config, 64), 0, **options)
        mapped = TileDataset(tmp_path, index, Augmenter(config, 64), 0, dark, **options)
        counts = []
        for position in range(8):
            mask = plain[0, 0, position]["mask"]
            assert torch.equal(mask, mapped[0, 0, position]["mask"])
            assert set(mask.unique().tolist()) <= {5, 5 + IGNORED_BIT}
            counts.append(int((mask >= IGNORED_BIT).sum()))
        assert max(counts) > 0


def test_a_missing_tile_says_what_to_do(tile_folder):
    folder, index = tile_folder
    (folder / "masks" / "t3.png").unlink()
    with pytest.raises(InputError, match="build the dataset anew"):
        TileDataset(folder, index, Augmenter(AugmentConfig(crop=32), 64), 0)[(3, 0, 0)]


def test_batches_do_not_depend_on_workers(tile_folder):
    """Nor on their number: with ours and a pipeline of the user's own behind it."""
    folder, index = tile_folder
    (folder / "own.yaml").write_text(OWN_STEPS)
    config = AugmentConfig(crop=32, pipeline=str(folder / "own.yaml"))

    def batches(workers):
        dataset = TileDataset(folder, index, Augmenter(config, 64), seed=3)
        sampler = BalancedSampler(index["bin"], 3, True, 2, 0)
        loader = make_loader(dataset, sampler, 2, workers)
        return [{name: part.clone() for name, part in batch.items()} for batch in islice(loader, 5)]

    for alone, *shared in zip(batches(0), batches(1), batches(2), strict=True):
        assert all(torch.equal(alone[name], each[name]) for name in alone for each in shared)
        assert tuple(alone["image"].shape) == (2, 32, 32, 3)


@pytest.mark.parametrize("count", [1, 2, 3, 9])
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_batch_is_full_however_few_tiles_there_are(tile_folder, count, ranks):
    folder, index = tile_folder
    index = index.iloc[[place % 6 for place in range(count)]]
    dataset = TileDataset(folder, index, Augmenter(AugmentConfig(crop=32), 64), 0)
    for rank in range(ranks):
        loader = make_loader(dataset, BalancedSampler(index["bin"], 0, True, 4, 0, rank, ranks), 4, 0)
        assert [len(batch["image"]) for batch in islice(loader, 2 * count)] == [4] * (2 * count)


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
    image = TileDataset(folder, index, Augmenter(OFF, 64), 0)[(0, 0, 0)]["image"]
    assert image[0, 0].tolist() == [200, 0, 0]
