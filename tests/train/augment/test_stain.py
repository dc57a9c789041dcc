from dataclasses import replace

import cv2
import numpy as np
import pytest

from histofold.core.stain import HED_FROM_RUIFROK, image_of_densities
from histofold.imaging.shift import SECOND_STAINS
from histofold.schema.experiment import AugmentConfig
from histofold.train.augment.pipeline import Augmenter
from histofold.train.augment.stain import (
    COLOUR_SPACES,
    TEMPLATE_TILES,
    fit_templates,
    is_blank,
    kept_templates,
    shift_to_template,
    transfer_stain,
)

HED = HED_FROM_RUIFROK / np.linalg.norm(HED_FROM_RUIFROK, axis=1, keepdims=True)
STILL = AugmentConfig(flip=0, rotate90=0, affine=0, sharpness=0, colour=0, hed=0)
OPTIONS = {"stain_transfer": 1.0, "stain_template": 1.0, "grey": 1.0, "all": 1.0}


def tile(seed=0, second=2, shape_hw=(64, 96), strength=0.8):
    """Blobs of haematoxylin and of a second stain with glass between them, and the mask of the former."""
    rng = np.random.default_rng(seed)
    noise_HW2 = cv2.GaussianBlur(rng.standard_normal((*shape_hw, 2)), (0, 0), 3)
    amounts_HW2 = np.clip(noise_HW2 / noise_HW2.std(), 0, 2) * strength
    image_HWC = image_of_densities((amounts_HW2 @ HED[[0, second]]).astype(np.float32))
    return image_HWC, (amounts_HW2[..., 0] > 0.3).astype(np.uint8)


def square(seed=0):
    return tile(seed, shape_hw=(64, 64))


def config_of(option):
    names = [name for name in OPTIONS if name != "all"] if option == "all" else [option]
    return replace(STILL, **dict.fromkeys(names, 1.0))


TEMPLATES = fit_templates({"a": [tile(seed)[0] for seed in range(4)], "b": [tile(9, second=1)[0]]})


@pytest.mark.parametrize("option", OPTIONS)
def test_the_key_alone_decides(option):
    image_HWC, mask_HW = square()
    first, again = (Augmenter(config_of(option), 64, TEMPLATES) for _ in range(2))
    again(*square(5), (1, 2, 3))
    results = [augmenter(image_HWC, mask_HW, (0, 1, 2))[0] for augmenter in (first, again)]
    assert (results[0] == results[1]).all()
    if option != "grey":
        assert any((first(image_HWC, mask_HW, key)[0] != results[0]).any() for key in ((1, 1, 2), (0, 2, 2), (0, 1, 3)))


@pytest.mark.parametrize("option", OPTIONS)
def test_colours_change_and_the_mask_does_not(option):
    image_HWC, mask_HW = square()
    before_HWC = image_HWC.copy()
    for position in range(5):
        new_HWC, new_HW, _ = Augmenter(config_of(option), 64, TEMPLATES)(image_HWC, mask_HW, (0, 0, position))
        assert new_HWC.dtype == np.uint8
        assert new_HWC.shape == image_HWC.shape
        assert (new_HWC != image_HWC).any()
        assert (new_HW == mask_HW).all()
    assert (image_HWC == before_HWC).all()


def test_nothing_changes_at_probability_zero():
    image_HWC, mask_HW = square()
    for position in range(5):
        new_HWC, new_HW, _ = Augmenter(STILL, 64)(image_HWC, mask_HW, (0, 0, position))
        assert (new_HWC == image_HWC).all()
        assert (new_HW == mask_HW).all()


def test_the_new_options_are_off_and_leave_the_other_draws_alone():
    image_HWC, mask_HW = square()
    rare = replace(AugmentConfig(), stain_transfer=1e-12, stain_template=1e-12, grey=1e-12)
    for position in range(8):
        plain_HWC = Augmenter(AugmentConfig(), 64)(image_HWC, mask_HW, (0, 0, position)).image_HWC
        rare_HWC = Augmenter(rare, 64, TEMPLATES)(image_HWC, mask_HW, (0, 0, position)).image_HWC
        assert (rare_HWC == plain_HWC).all()


@pytest.mark.parametrize("change", [transfer_stain, shift_to_template])
def test_blank_tiles_stay(change):
    arguments = (1.0,) if change is transfer_stain else (TEMPLATES, 1.0)
    for blank in (np.full((40, 50, 3), 244, np.uint8), np.zeros((1, 1, 3), np.uint8)):
        assert is_blank(blank)
        assert change(blank, *arguments, np.random.default_rng(0)) is blank
    one_pixel = np.full((1, 1, 3), 100, np.uint8)
    assert change(one_pixel, *arguments, np.random.default_rng(0)).shape == (1, 1, 3)


def test_a_transfer_keeps_glass_and_the_order_of_nuclei_and_glass():
    image_HWC, _ = tile(strength=1.2)
    glass_HW = (image_HWC == 255).all(axis=2)
    dark_HW = image_HWC.mean(axis=2) < 110
    assert glass_HW.any()
    assert dark_HW.any()
    for seed in range(20):
        new_HWC = transfer_stain(image_HWC, 1.0, np.random.default_rng(seed))
        assert (new_HWC[glass_HW] == 255).all()
        assert new_HWC[dark_HW].mean() < 225


def test_a_transfer_without_strength_keeps_a_tile_of_haematoxylin():
    amounts_HW = np.linspace(0, 1, 64 * 64).reshape(64, 64, 1)
    image_HWC = image_of_densities((amounts_HW * HED[0]).astype(np.float32))
    new_HWC = transfer_stain(image_HWC, 0.0, np.random.default_rng(3))
    assert np.abs(new_HWC.astype(int) - image_HWC).max() <= 1


def test_transfers_reach_every_second_stain():
    """The hue of the second stain, as densities over their length, comes near DAB, eosin and PAS."""
    amounts_HW2 = np.zeros((64, 64, 2))
    amounts_HW2[:, :32, 0], amounts_HW2[:, 32:, 1] = 1, 1
    image_HWC = image_of_densities((amounts_HW2 @ HED[[0, 2]]).astype(np.float32))
    found = []
    for seed in range(200):
        values = transfer_stain(image_HWC, 0.3, np.random.default_rng(seed))[32, 48].astype(float)
        densities = -np.log((values + 1) / 256)
        found.append(densities / np.linalg.norm(densities))
    nearest = (np.array(found) @ (SECOND_STAINS / np.linalg.norm(SECOND_STAINS, axis=1, keepdims=True)).T).max(axis=0)
    assert (nearest > np.cos(np.radians(6))).all()


def test_templates_of_each_source_and_space():
    assert [(template.source, template.space) for template in TEMPLATES] == [
        (source, space) for source in "ab" for space in COLOUR_SPACES
    ]
    lab = TEMPLATES[0]
    means = [cv2.cvtColor(tile(seed)[0], cv2.COLOR_RGB2LAB).reshape(-1, 3).mean(axis=0) for seed in range(4)]
    assert lab.mean == pytest.approx(np.mean(means, axis=0), abs=1e-3)
    assert lab.mean_spread == pytest.approx(np.std(means, axis=0), abs=1e-3)
    assert fit_templates({"blank": [np.full((9, 9, 3), 250, np.uint8)]}) == ()


def test_a_template_without_spread_gives_its_moments():
    image_HWC, _ = tile(strength=0.5)
    template = replace(TEMPLATES[2 * 1], space="lab")
    new_HWC = shift_to_template(image_HWC, [template], 0.0, np.random.default_rng(0))
    mean_3 = cv2.cvtColor(new_HWC, cv2.COLOR_RGB2LAB).reshape(-1, 3).mean(axis=0)
    before_3 = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2LAB).reshape(-1, 3).mean(axis=0)
    assert np.abs(mean_3 - template.mean).max() < 0.6 * np.abs(before_3 - template.mean).max()


def test_templates_are_kept_with_the_run_and_read_few_tiles(tmp_path):
    read = []

    def read_image(place):
        read.append(place)
        return tile(place % 5)[0]

    sources = ["x"] * 100 + ["y"] * 3
    fitted = kept_templates(tmp_path / "colours.json", "d", sources, read_image)
    assert len(read) == len(set(read)) == TEMPLATE_TILES + 3
    assert max(read) < len(sources)
    count = len(read)
    assert kept_templates(tmp_path / "colours.json", "d", sources, read_image) == fitted
    assert len(read) == count
    assert kept_templates(tmp_path / "colours.json", "e", sources, read_image) == fitted
    assert len(read) == 2 * count
    kept_templates(tmp_path / "none.json", "d", sources, read_image, keep=False)
    assert not (tmp_path / "none.json").exists()


def test_templates_are_needed_where_they_are_wanted():
    with pytest.raises(ValueError, match="stain_template"):
        Augmenter(config_of("stain_template"), 64)


@pytest.mark.parametrize(
    "settings",
    [
        {"stain_transfer": 1.1},
        {"stain_template": -0.1},
        {"grey": 2.0},
        {"stain_template_spread": 6.0},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        AugmentConfig(**settings)
