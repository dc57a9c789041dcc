"""Vessels of a synthetic kidney: what is drawn is what is outlined, one by one."""

import numpy as np
import pytest

from histofold.synth.drawing.canvas import paint
from histofold.synth.drawing.slide import SlideSpec, SyntheticSlide
from histofold.synth.drawing.tissue import draw_stain


@pytest.fixture(scope="module")
def slide() -> SyntheticSlide:
    stain = draw_stain(np.random.default_rng(2), "pas")
    shape_hw = (720, 990)
    return SyntheticSlide(
        SlideSpec(key=(4, 2), organ="kidney vessels", stain=stain, shape_hw=shape_hw, pixel_size_um=0.5)
    )


def painted(slide: SyntheticSlide, kind: str) -> np.ndarray:
    """How many outlines of a kind cover each pixel."""
    count = np.zeros(slide.shape_hw, dtype=np.uint8)
    for outline in slide.outlines[kind]:
        one = np.zeros(slide.shape_hw, dtype=np.uint8)
        paint(one, outline, 1)
        count += one
    return count


def test_the_mask_is_the_union_of_all_vessels_and_no_two_overlap(slide):
    vessels, unsure = painted(slide, "blood_vessel"), painted(slide, "unsure")
    assert len(slide.outlines["blood_vessel"]) > 8
    assert (vessels + unsure).max() == 1
    assert (slide.whole().mask_HW == (vessels + unsure > 0)).all()
    assert not ((vessels > 0) & (painted(slide, "glomerulus") > 0)).any()


def test_hollows_lie_in_their_vessels_and_are_paler(slide):
    hollow, vessels = painted(slide, "vessel_lumen") > 0, painted(slide, "blood_vessel") > 0
    assert hollow.any()
    assert not (hollow & ~vessels).any()
    grey = slide.whole().image_HWC.mean(axis=-1)
    assert grey[hollow].mean() > grey[vessels & ~hollow].mean() + 20
    assert grey[hollow].mean() > grey[painted(slide, "unsure") > 0].mean() + 15


def test_a_part_equals_the_crop_of_the_whole(slide):
    part = SyntheticSlide(slide.spec).read(slice(301, 420), slice(577, 700))
    whole = slide.whole()
    assert (part.image_HWC == whole.image_HWC[301:420, 577:700]).all()
    assert (part.mask_HW == whole.mask_HW[301:420, 577:700]).all()
