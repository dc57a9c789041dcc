import numpy as np
import pytest

from histofold.core.stain import (
    DENSITY_OF_VALUE,
    HED_FROM_RUIFROK,
    StainStatistics,
    image_of_densities,
    lab_statistics,
    macenko_map,
    macenko_statistics,
    reinhard_map,
    stain_basis,
    stain_jitter_map,
)

HED = HED_FROM_RUIFROK / np.linalg.norm(HED_FROM_RUIFROK, axis=1, keepdims=True)
H_AND_E, H_DAB = HED[[0, 1]], HED[[0, 2]]


def stained(vectors_23, strengths_2=(1.2, 0.9), seed=0, shape_hw=(61, 97), noise=0.0, least=0.0):
    """An image of two stains: some pixels of one alone, most of both, one corner of glass."""
    rng = np.random.default_rng(seed)
    amounts_HW2 = np.maximum(rng.uniform(0, 1, (*shape_hw, 2)) ** 2, least)
    alone_HW = rng.integers(0, 4, shape_hw)
    amounts_HW2[alone_HW == 0, 0] *= 0
    amounts_HW2[alone_HW == 1, 1] *= 0
    amounts_HW2[:9, :9] = 0
    densities_HWC = (amounts_HW2 * np.array(strengths_2)) @ vectors_23
    densities_HWC += noise * rng.standard_normal(densities_HWC.shape)
    return image_of_densities(densities_HWC.astype(np.float32))


def pixels(image_HWC):
    return image_HWC.reshape(-1, 3)


def degrees_between(first_3, second_3):
    return np.degrees(np.arccos(np.clip(first_3 @ second_3, -1, 1)))


def test_densities_and_grey_levels_undo_each_other():
    values = np.arange(256, dtype=np.uint8)
    assert (image_of_densities(DENSITY_OF_VALUE[values]) == values).all()
    assert DENSITY_OF_VALUE[255] == 0
    assert (np.diff(DENSITY_OF_VALUE) < 0).all()


def test_densities_beyond_the_range_are_clipped():
    assert image_of_densities(np.array([-1.0, 50.0], np.float32)).tolist() == [255, 0]


def test_jitter_map_scales_and_shifts_the_amounts():
    rng = np.random.default_rng(0)
    amounts, scales, shifts = rng.random((5, 3)), rng.uniform(0.9, 1.1, 3), rng.uniform(-0.1, 0.1, 3)
    matrix, offset = stain_jitter_map(scales, shifts)
    np.testing.assert_allclose(amounts @ HED @ matrix + offset, (amounts * scales + shifts) @ HED, atol=1e-12)


def test_the_basis_decomposes_every_density():
    basis_33 = stain_basis(H_DAB)
    assert basis_33[:2] == pytest.approx(H_DAB)
    assert basis_33[2] @ H_DAB.T == pytest.approx([0, 0], abs=1e-12)
    densities_NC = np.random.default_rng(0).random((20, 3))
    np.testing.assert_allclose(densities_NC @ np.linalg.inv(basis_33) @ basis_33, densities_NC, atol=1e-12)


@pytest.mark.parametrize("vectors_23", [H_AND_E, H_DAB])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_stain_vectors_are_recovered_from_a_made_image(vectors_23, noise):
    found = macenko_statistics(pixels(stained(vectors_23, noise=noise)))
    for stain in range(2):
        assert degrees_between(found.vectors_23[stain], vectors_23[stain]) < 4
    assert found.strengths_2 == pytest.approx([1.2, 0.9], rel=0.12)
    assert np.linalg.norm(found.vectors_23, axis=1) == pytest.approx([1, 1])


def test_colours_that_do_not_tell_two_stains_are_refused():
    glass = np.full((500, 3), 250, np.uint8)
    one_stain = pixels(stained(H_DAB, strengths_2=(1.2, 0.0)))
    flat = np.tile(np.array([[120, 60, 150]], np.uint8), (500, 1))
    for refused in (glass, one_stain, flat, np.zeros((0, 3), np.uint8), flat[:2]):
        assert macenko_statistics(refused) is None


def test_flat_colours_have_no_moments():
    assert lab_statistics(np.full((50, 3), 128, np.uint8)) is None
    assert lab_statistics(np.zeros((0, 3), np.uint8)) is None


def test_macenko_of_its_own_statistics_changes_nothing():
    image_HWC = stained(H_DAB)
    own = macenko_statistics(pixels(image_HWC))
    assert (macenko_map(own, own)(image_HWC) == image_HWC).all()


def test_reinhard_of_its_own_statistics_changes_nothing():
    image_HWC = stained(H_DAB)
    own = lab_statistics(pixels(image_HWC))
    assert (reinhard_map(own, own)(image_HWC) == image_HWC).all()


def test_macenko_gives_the_vectors_and_strengths_of_the_reference():
    reference = macenko_statistics(pixels(stained(H_AND_E, seed=1)))
    image_HWC = stained(H_DAB, strengths_2=(0.7, 1.1))
    found = macenko_statistics(pixels(macenko_map(macenko_statistics(pixels(image_HWC)), reference)(image_HWC)))
    for stain in range(2):
        assert degrees_between(found.vectors_23[stain], reference.vectors_23[stain]) < 3
    assert found.strengths_2 == pytest.approx(reference.strengths_2, rel=0.05)


def test_macenko_twice_is_macenko_once():
    reference = macenko_statistics(pixels(stained(H_AND_E, seed=1)))
    image_HWC = stained(H_DAB)
    once_HWC = macenko_map(macenko_statistics(pixels(image_HWC)), reference)(image_HWC)
    twice_HWC = macenko_map(macenko_statistics(pixels(once_HWC)), reference)(once_HWC)
    assert np.abs(twice_HWC.astype(int) - once_HWC).mean() < 1.5
    assert np.abs(once_HWC.astype(int) - image_HWC).mean() > 5


def test_reinhard_gives_the_moments_of_the_reference_and_twice_is_once():
    reference = lab_statistics(pixels(stained(H_AND_E, (0.8, 0.7), seed=1, least=0.3)[10:]))
    image_HWC = stained(H_DAB, (0.8, 0.7), least=0.3)[10:]
    once_HWC = reinhard_map(lab_statistics(pixels(image_HWC)), reference)(image_HWC)
    before = np.abs(lab_statistics(pixels(image_HWC))[0] - reference[0]).max()
    after = np.abs(lab_statistics(pixels(once_HWC))[0] - reference[0]).max()
    assert before > 8
    assert after < 0.35 * before
    twice_HWC = reinhard_map(lab_statistics(pixels(once_HWC)), reference)(once_HWC)
    assert np.abs(twice_HWC.astype(int) - once_HWC).mean() < 2.5


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_a_map_of_a_region_is_the_region_of_the_map_and_glass_stays(method):
    image_HWC = stained(H_DAB)
    if method == "macenko":
        stain_map = macenko_map(macenko_statistics(pixels(image_HWC)), StainStatistics(H_AND_E, np.array([1.5, 1.0])))
    else:
        own = lab_statistics(pixels(image_HWC))
        stain_map = reinhard_map(own, (own[0] + np.array([-20, 15, -10]), own[1] * 1.4))
    mapped_HWC = stain_map(image_HWC)
    assert mapped_HWC.dtype == np.uint8
    for y, x in ((slice(0, 1), slice(0, 1)), (slice(3, 40), slice(11, 96)), (slice(60, 61), slice(0, 97))):
        assert (stain_map(image_HWC[y, x]) == mapped_HWC[y, x]).all()
    assert (mapped_HWC[:9, :9] == 255).all()
    assert np.abs(mapped_HWC.astype(int) - image_HWC).mean() > 3
