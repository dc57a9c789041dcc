"""Shifted slides: other stains, thickness and detail on the same grid, whatever piece is read."""

import pickle

import cv2
import numpy as np
import pytest

from histofold.core.stain import DENSITY_OF_VALUE, image_of_densities
from histofold.imaging.resample import ScaledSlide
from histofold.imaging.shift import (
    HAEMATOXYLIN,
    SECOND_STAINS,
    STAINS,
    Shift,
    absorb_more,
    own_stains,
    restain,
    shifted_sample,
    usual_transfer,
)
from histofold.imaging.slide import open_sample
from histofold.schema.sample import Sample

SHAPE_HW = (97, 141)


def stained(second, shape_hw=SHAPE_HW, seed=0):
    """Blobs of haematoxylin and of a second stain, glass between them."""
    noise_HW2 = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((*shape_hw, 2)), (0, 0), 3)
    amounts_HW2 = np.clip(noise_HW2 / noise_HW2.std(), 0, 2)
    second_3 = SECOND_STAINS[second] / np.linalg.norm(SECOND_STAINS[second])
    return image_of_densities((amounts_HW2 @ np.stack([HAEMATOXYLIN, second_3])).astype(np.float32))


def sample_of(image_HWC, folder):
    path = folder / "slide.png"
    cv2.imwrite(str(path), image_HWC[..., ::-1])
    return Sample(id="s", image_path=path, organ="lung")


SHIFTS = [
    Shift(stain="H&E"),
    Shift(stain="PAS", thicker=2.5),
    Shift(stain="H&E", coarser=1.25),
    Shift(stain="PAS", coarser=15.7, thicker=8.0),
    Shift(stain="H&E", coarser=500.0, thicker=0.5),
]


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("shape_hw", [SHAPE_HW, (1, 1), (3, 200)])
def test_tiles_of_a_shifted_slide_are_pieces_of_the_whole(shift, shape_hw, tmp_path):
    sample = sample_of(stained(0, shape_hw), tmp_path)
    rng = np.random.default_rng(1)
    with open_sample(shifted_sample(sample, shift)) as slide:
        assert slide.shape_hw == shape_hw
        whole_HWC = slide.read_all()
        for _ in range(25):
            starts = [int(rng.integers(side)) for side in shape_hw]
            rows, columns = (slice(a, int(rng.integers(a, side)) + 1) for a, side in zip(starts, shape_hw, strict=True))
            assert (slide.read(rows, columns) == whole_HWC[rows, columns]).all()
        assert (slide.read(slice(0, 1), slice(0, 1)) == whole_HWC[:1, :1]).all()
        assert (slide.read(slice(-1 + shape_hw[0], None), slice(-1 + shape_hw[1], None)) == whole_HWC[-1:, -1:]).all()


@pytest.mark.parametrize("second", range(3))
@pytest.mark.parametrize("stain", STAINS)
def test_a_slide_comes_to_show_the_wanted_stain_and_keeps_its_colours_where_it_has_it(second, stain, tmp_path):
    image_HWC = stained(second)
    with open_sample(shifted_sample(sample_of(image_HWC, tmp_path), Shift(stain=stain))) as slide:
        shown_HWC = slide.read_all()
    assert own_stains(DENSITY_OF_VALUE[shown_HWC.reshape(-1, 3)])[0] == STAINS.index(stain)
    assert (shown_HWC == image_HWC).all() == (STAINS[second] == stain)


def test_glass_of_any_light_stays_as_it_is(tmp_path):
    image_HWC = stained(0)
    glass_HW = (image_HWC == 255).all(axis=2)
    lamp_3 = np.array([240, 236, 244])
    image_HWC = (image_HWC * (lamp_3 / 255)).round().astype(np.uint8)
    with open_sample(shifted_sample(sample_of(image_HWC, tmp_path), Shift(stain="PAS"))) as slide:
        shown_HWC = slide.read_all()
    assert glass_HW.mean() > 0.02
    assert (shown_HWC[glass_HW] == lamp_3).all()
    assert (shown_HWC != image_HWC).any()


def test_blank_slides_keep_their_colours(tmp_path):
    for value in (0, 244, 255):
        image_HWC = np.full((*SHAPE_HW, 3), value, np.uint8)
        with open_sample(shifted_sample(sample_of(image_HWC, tmp_path), Shift(stain="H&E", coarser=3.0))) as slide:
            assert (slide.read_all() == image_HWC).all()


def test_stains_are_mixed_as_the_formula_says():
    """Amounts by least squares, the flow added to them, and mixed again, in double precision."""
    image_HWC, transfer = stained(0), usual_transfer(1)
    _, own_23 = own_stains(DENSITY_OF_VALUE[image_HWC.reshape(-1, 3)])
    across_3 = np.cross(*own_23)
    basis_33 = np.vstack([own_23, across_3 / np.linalg.norm(across_3)])
    glass_3 = np.array([0.03, 0.0, 0.1], np.float32)
    amounts_HW3 = (-np.log((image_HWC + 1.0) / 256) - glass_3) @ np.linalg.inv(basis_33)
    light_HW = np.maximum(amounts_HW3[..., 0], 0)
    light_HW = light_HW / (1 + light_HW / transfer.light) * transfer.share
    new_33 = np.vstack([transfer.vectors_23, np.cross(*transfer.vectors_23)])
    new_33[2] /= np.linalg.norm(new_33[2])
    new_HW3 = amounts_HW3 * transfer.gains_3
    new_HW3[..., 0] -= light_HW * transfer.gains_3[0]
    new_HW3[..., 1] += light_HW * transfer.boost
    wanted_HWC = np.clip(256 * np.exp(-new_HW3 @ new_33 - glass_3) - 1, 0, 255)
    assert np.abs(restain(image_HWC, transfer, own_23, glass_3) - wanted_HWC).max() < 0.51


def test_a_thick_slide_absorbs_more_and_a_thin_one_less(tmp_path):
    sample = sample_of(stained(0), tmp_path)
    means = []
    for thicker in (0.5, 1.0, 2.5):
        with open_sample(shifted_sample(sample, Shift(stain="H-DAB", thicker=thicker))) as slide:
            means.append(DENSITY_OF_VALUE[slide.read_all()].mean())
    assert means[0] < 0.9 * means[1]
    assert means[2] > 1.1 * means[1]
    assert (absorb_more(stained(0), 0.0) == stained(0)).all()


def test_coarse_pixels_lose_fine_detail_and_keep_what_is_larger(tmp_path):
    fine_HW = np.indices((96, 128)).sum(axis=0) % 2 * 100 + 100
    coarse_HW = np.indices((96, 128)).sum(axis=0) // 32 % 2 * 100 + 100
    left = []
    for plane_HW in (fine_HW, coarse_HW):
        sample = sample_of(np.repeat(plane_HW[..., None], 3, axis=2).astype(np.uint8), tmp_path)
        contrasts = []
        for coarser in (1.0, 4.0):
            with open_sample(shifted_sample(sample, Shift(stain="H&E", coarser=coarser))) as slide:
                contrasts.append(slide.read_all()[..., 1].std())
        left.append(contrasts[1] / contrasts[0])
    assert left[0] < 0.05
    assert 0.7 < left[1] < 1


def test_a_shifted_sample_travels_to_other_processes_and_is_the_same_each_time(tmp_path):
    sample = shifted_sample(sample_of(stained(0), tmp_path), SHIFTS[1])
    with open_sample(sample) as slide, open_sample(pickle.loads(pickle.dumps(sample))) as again:
        assert slide.organ == "lung"
        assert (slide.read_all() == again.read_all()).all()
        half = ScaledSlide(slide, (48, 70))
        assert (
            half.read(slice(5, 20), slice(60, 70))
            == ScaledSlide(again, (48, 70)).read(slice(None), slice(None))[5:20, 60:]
        ).all()


@pytest.mark.parametrize(
    "settings", [{"stain": "H"}, {"stain": "PAS", "coarser": 0.9}, {"stain": "PAS", "thicker": 0.0}]
)
def test_impossible_shifts_are_refused(settings):
    with pytest.raises(ValueError, match=list(settings)[-1]):
        Shift(**settings)
