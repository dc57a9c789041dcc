"""What changes grey levels and moves nothing, each by the law that it follows."""

import cv2
import numpy as np
import pytest

from histofold.core.stain import DENSITY_OF_VALUE
from histofold.train.augment.geometry import elastic_shifts, grid_shifts
from histofold.train.augment.pixels import (
    add_noise,
    change_thickness,
    compress_jpeg,
    cut_out,
    equalise_locally,
    jitter_colours,
    lose_detail,
    sharpen_or_blur,
    show_grey,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def noise_tile(shape_hw=(60, 80), seed=0):
    return rng(seed).integers(0, 256, (*shape_hw, 3), np.uint8)


def test_without_strength_nothing_changes():
    image_HWC = noise_tile()
    for seed in range(5):
        assert (jitter_colours(image_HWC, 0.0, rng(seed)) == image_HWC).all()
        assert (change_thickness(image_HWC, 1.0, rng(seed)) == image_HWC).all()
        assert (lose_detail(image_HWC, 1.0, rng(seed)) == image_HWC).all()
        assert (add_noise(image_HWC, 0.0, rng(seed)) == image_HWC).all()
        assert (cut_out(image_HWC, 0.0, rng(seed)) == image_HWC).all()


def test_jittered_greys_stay_grey_and_the_mean_follows_the_brightness():
    grey_HWC = np.repeat(rng().integers(60, 160, (40, 50, 1), np.uint8), 3, axis=2)
    changes = set()
    for seed in range(20):
        new_HWC = jitter_colours(grey_HWC, 0.3, rng(seed)).astype(int)
        assert np.ptp(new_HWC, axis=2).max() <= 1
        brightness = 1 + rng(seed).uniform(-0.3, 0.3, 3)[0]
        assert new_HWC.mean() == pytest.approx(brightness * grey_HWC.mean(), rel=0.02)
        changes.add(round(new_HWC.std() / grey_HWC.std(), 3))
    assert len(changes) > 10


def test_jittered_hues_turn_by_the_drawn_angle_at_most():
    pure_HWC = np.full((1, 1, 3), (160, 90, 90), np.uint8)
    hues = [
        float(cv2.cvtColor(jitter_colours(pure_HWC, 0.4, rng(seed)), cv2.COLOR_RGB2HSV)[0, 0, 0]) for seed in range(200)
    ]
    degrees = (np.array(hues) * 2 + 180) % 360 - 180
    assert np.abs(degrees).max() <= 0.4 / 8 * 360 * 1.3
    assert degrees.min() < -8
    assert degrees.max() > 8


def test_a_thicker_section_has_its_density_scaled_alike_everywhere():
    flat_HWC = np.zeros((30, 30, 3), np.uint8) + np.array([120, 160, 200], np.uint8)
    factors = []
    for seed in range(40):
        new_HWC = change_thickness(flat_HWC, 2.0, rng(seed))
        assert (new_HWC == new_HWC[0, 0]).all()
        ratio_3 = DENSITY_OF_VALUE[new_HWC[0, 0]] / DENSITY_OF_VALUE[flat_HWC[0, 0]]
        assert np.ptp(ratio_3) < 0.04
        factors.append(ratio_3.mean())
    assert 0.49 < min(factors) < 0.6
    assert 1.7 < max(factors) < 2.03
    white_HWC = np.full((8, 8, 3), 255, np.uint8)
    assert (change_thickness(white_HWC, 2.0, rng()) == 255).all()


def test_a_thicker_section_is_blurred_and_a_thinner_one_is_not():
    image_HWC = np.full((41, 41, 3), 200, np.uint8)
    image_HWC[20, 20] = 20
    seen = set()
    for seed in range(30):
        new_HWC = change_thickness(image_HWC, 2.0, rng(seed)).astype(int)
        background = new_HWC[0, 0, 0]
        if not 172 < background < 215:
            seen.add(background < 200)
            assert (new_HWC[20, 21, 0] < background) == (background < 200)
    assert seen == {False, True}


def test_lost_detail_is_fine_detail():
    fine_HWC = np.repeat((np.indices((64, 64)).sum(axis=0) % 2 * 255)[..., None], 3, axis=2).astype(np.uint8)
    coarse_HWC = np.kron(fine_HWC[:4, :4], np.ones((16, 16, 1), np.uint8))
    for seed in range(20):
        factor = 3 ** rng(seed).uniform(0, 1)
        fine_left, coarse_left = (
            lose_detail(each, 3.0, rng(seed)).std() / each.std() for each in (fine_HWC, coarse_HWC)
        )
        assert coarse_left > 0.8
        assert fine_left < 0.8 or factor < 1.4
        assert fine_left < 0.3 or factor < 2


def test_noise_has_no_mean_and_the_drawn_deviation():
    grey_HWC = np.full((200, 300, 3), 128, np.uint8)
    for seed in range(5):
        noise_HWC = add_noise(grey_HWC, 0.1, rng(seed)).astype(int) - 128
        sigma = 25.5 * rng(seed).uniform(0.2, 1)
        assert noise_HWC.std() == pytest.approx(sigma, rel=0.03)
        assert abs(noise_HWC.mean()) < 0.02 * sigma + 0.02
        across = (
            np.corrcoef(noise_HWC.reshape(-1, 3).T)[0, 1],
            np.corrcoef(noise_HWC[:, 1:, 0].ravel(), noise_HWC[:, :-1, 0].ravel()),
        )
        assert abs(across[0]) < 0.02
        assert abs(across[1][0, 1]) < 0.02


def test_noise_of_a_size_that_is_no_multiple_of_eight_bytes():
    assert add_noise(noise_tile((1, 1)), 0.5, rng()).shape == (1, 1, 3)
    assert add_noise(noise_tile((3, 7)), 0.5, rng()).shape == (3, 7, 3)


def test_compression_keeps_the_order_of_the_colours_and_harms_more_at_lower_quality():
    red_HWC = np.zeros((32, 32, 3), np.uint8) + np.array([200, 40, 30], np.uint8)
    assert np.abs(compress_jpeg(red_HWC, 40, rng()).astype(int) - red_HWC).max() <= 4
    image_HWC = noise_tile((64, 64))
    harms = [np.abs(compress_jpeg(image_HWC, 1, rng(seed)).astype(int) - image_HWC).mean() for seed in range(20)]
    qualities = [rng(seed).integers(1, 96) for seed in range(20)]
    assert harms[int(np.argmin(qualities))] > 1.2 * harms[int(np.argmax(qualities))]


def test_holes_have_the_mean_colour_and_never_cover_more_than_asked():
    image_HWC = noise_tile((60, 90))
    mean_3 = np.rint(image_HWC.reshape(-1, 3).mean(axis=0))
    covered = []
    for seed in range(60):
        new_HWC = cut_out(image_HWC, 0.2, rng(seed))
        changed_HW = (new_HWC != image_HWC).any(axis=2)
        assert (np.abs(new_HWC[changed_HW] - mean_3) <= 1).all()
        covered.append(changed_HW.mean())
    assert min(covered) > 0
    assert 0.1 < max(covered) <= 0.2


def test_grey_equalised_and_sharpened_tiles():
    image_HWC = noise_tile()
    assert np.ptp(show_grey(image_HWC, rng()), axis=2).max() == 0
    faint_HWC = (120 + image_HWC // 16).astype(np.uint8)
    assert equalise_locally(faint_HWC, 4.0, rng()).std() > 1.2 * faint_HWC.std()
    deviations = [sharpen_or_blur(faint_HWC, rng(seed)).std() for seed in range(20)]
    assert min(deviations) < 0.7 * faint_HWC.std()
    assert max(deviations) > 1.3 * faint_HWC.std()


@pytest.mark.parametrize(
    "make", [lambda seed: elastic_shifts(128, 0.12, rng(seed)), lambda seed: grid_shifts(128, 0.5, rng(seed))]
)
def test_deformations_move_much_and_hardly_ever_fold(make):
    folded = []
    for seed in range(30):
        shifts_HW2 = make(seed)
        assert shifts_HW2.shape == (128, 128, 2)
        assert shifts_HW2.dtype == np.float32
        assert np.abs(shifts_HW2).max() > 1
        across_x = 1 + np.diff(shifts_HW2[:-1, :, 0], axis=1)
        across_y = 1 + np.diff(shifts_HW2[:, :-1, 1], axis=0)
        turned = np.diff(shifts_HW2[:-1, :, 1], axis=1) * np.diff(shifts_HW2[:, :-1, 0], axis=0)
        folded.append((across_x * across_y - turned <= 0).mean())
    assert np.mean(folded) < 0.002


def test_a_stretched_grid_keeps_its_border_and_its_order():
    for seed in range(20):
        shifts_HW2 = grid_shifts(100, 0.9, rng(seed))
        assert np.abs(shifts_HW2[:, [0, -1], 0]).max() < 1e-3
        assert np.abs(shifts_HW2[[0, -1], :, 1]).max() < 1e-3
        assert (np.diff(shifts_HW2[0, :, 0]) > -1).all()
        assert (np.diff(shifts_HW2[:, 0, 1]) > -1).all()
