import math

import pytest

from histofold.schema.augment import AugmentConfig
from histofold.schema.experiment import Experiment, PredictConfig
from histofold.schema.preprocessing import Preprocessing


def test_physical_scale_gives_the_same_size_in_um():
    spec = Preprocessing(target_pixel_size_um=1.6)
    for shape, pixel in [((3000, 2000), 0.4), ((523, 1999), 0.4945), ((160, 200), 6.263)]:
        scaled = spec.scaled_hw(shape, pixel)
        for side, after in zip(shape, scaled, strict=True):
            assert after * 1.6 == pytest.approx(side * pixel, abs=1.6)


def test_zoom_is_clamped():
    spec = Preprocessing(target_pixel_size_um=1.0, min_zoom=0.5, max_zoom=2.0)
    assert spec.scaled_hw((100, 50), 0.01) == (50, 25)
    assert spec.scaled_hw((100, 50), 100.0) == (200, 100)


def test_organs_are_seen_at_scales_of_their_own_and_views_zoom_them_alike():
    spec = Preprocessing(target_pixel_size_um=1.0, target_pixel_size_by_organ={"prostate": 2.0})
    assert spec.scaled_hw((400, 200), 0.5, "prostate") == (100, 50)
    assert spec.scaled_hw((400, 200), 0.5, "lung") == spec.scaled_hw((400, 200), 0.5) == (200, 100)
    assert spec.zoomed(2).scaled_hw((400, 200), 0.5, "prostate") == (200, 100)
    with pytest.raises(ValueError, match="by_organ"):
        Preprocessing(target_pixel_size_by_organ={"lung": 0.0})


def test_a_zoom_that_is_not_allowed_is_said():
    spec = Preprocessing(target_pixel_size_um=0.8)
    assert spec.clipped_words(6.263) == "its pixels of 6.263 um ask for a zoom of 7.8: it is seen at 4, 1.57 um"
    assert spec.clipped_words(0.4) == spec.clipped_words(None) == ""
    assert Preprocessing(scale_mode="whole").clipped_words(6.263) == ""


def test_pixels_are_capped():
    spec = Preprocessing(target_pixel_size_um=1.0, max_megapixels=0.01)
    height, width = spec.scaled_hw((4000, 1000), 1.0)
    assert height * width == pytest.approx(10_000, rel=0.02)
    assert height / width == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize("pixel", [None, math.nan, 0.0, -1.0, math.inf])
def test_unknown_pixel_size_falls_back_on_the_whole_image(pixel):
    assert Preprocessing(whole_size=768).scaled_hw((3000, 1500), pixel) == (768, 384)


def test_whole_mode():
    assert Preprocessing(scale_mode="whole", whole_size=512).scaled_hw((100, 200), 0.4) == (256, 512)
    stretch = Preprocessing(scale_mode="whole", whole_size=512, whole_fit="stretch")
    assert stretch.scaled_hw((100, 200), 0.4) == (512, 512)


def test_never_smaller_than_a_pixel():
    assert Preprocessing(scale_mode="whole", whole_size=32).scaled_hw((1, 5000), None) == (1, 32)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_pixel_size_um": 0.0},
        {"min_zoom": 0.0},
        {"min_zoom": 3.0, "max_zoom": 2.0},
        {"whole_size": 500},
        {"max_megapixels": 0.0},
        {"std": (1.0, 0.0, 1.0)},
    ],
)
def test_impossible_specs_are_refused(settings):
    with pytest.raises(ValueError, match=r"must|positive"):
        Preprocessing(**settings)


def test_changes_of_colours_are_refused_for_networks_that_see_other_slices_than_three():
    spec = Preprocessing(slices=5)
    plain = {"augment": AugmentConfig(preset="none"), "predict": PredictConfig(views=("identity",))}
    assert Experiment(preprocessing=spec, **plain).preprocessing.channels == 5
    assert Preprocessing(slices=1).channels == 3
    with pytest.raises(ValueError, match=r"slices=5: augment.colour, augment.hed would change colours"):
        Experiment(preprocessing=spec, augment=AugmentConfig(preset="light"))
