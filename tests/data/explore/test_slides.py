"""Slides at thumbnail size: the same as the scaled view, whatever the bands."""

import numpy as np
import pytest
import tifffile

from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import runs_from_mask
from histofold.data.explore.notices import black_notices
from histofold.data.explore.slides import label_facts, slide_facts, with_objects
from histofold.data.thumbnails import fitting_shape, read_small
from histofold.imaging.resample import ScaledSlide
from histofold.imaging.slide import open_slide
from histofold.schema.sample import Sample


@pytest.mark.parametrize("scaled_hw", [(90, 130), (37, 50), (1, 1), (180, 200)])
def test_bands_change_nothing(tmp_path, monkeypatch, scaled_hw):
    image_HWC = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image_HWC)
    with open_slide(tmp_path / "a.tif") as slide:
        whole = ScaledSlide(slide, scaled_hw).read(slice(None), slice(None)).astype(int)
        monkeypatch.setattr("histofold.data.thumbnails._BAND_SOURCE_PIXELS", 130 * 7)
        assert abs(read_small(slide, scaled_hw) - whole).max() <= 1


def test_twelve_bits_in_sixteen_that_say_nothing_are_a_notice(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (90, 130, 3), np.uint16)
    found = {}
    for name, factor in (("dark", 1), ("plain", 16)):
        tifffile.imwrite(tmp_path / f"{name}.tif", values * factor, photometric="rgb")
        with open_slide(tmp_path / f"{name}.tif") as slide:
            mask = np.eye(90, 130, dtype=bool)
            facts = slide_facts(Sample(id=name, image_path=slide.path), slide, runs_from_mask(mask))
        found[name] = [notice.text for notice in black_notices(facts)]
    assert found["plain"] == []
    assert "12 bits stored in 16?" in found["dark"][0]


def test_an_image_is_never_enlarged():
    assert fitting_shape((30, 40), 100) == (30, 40)
    assert fitting_shape((300, 400), 100) == (75, 100)
    assert fitting_shape((1, 4000), 100) == (1, 100)


@pytest.mark.parametrize("shape_hw", [(1, 1), (1, 300), (300, 2), (33, 34)])
def test_slides_of_hardly_any_pixels_have_facts(tmp_path, shape_hw):
    image_HWC = np.random.default_rng(1).integers(0, 256, (*shape_hw, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image_HWC)
    for mask in (
        np.zeros(shape_hw, bool),
        np.ones(shape_hw, bool),
        np.arange(image_HWC.size // 3).reshape(shape_hw) < 1,
    ):
        with open_slide(tmp_path / "a.tif") as slide:
            facts = slide_facts(Sample(id="a", image_path=slide.path), slide, runs_from_mask(mask))
        assert facts.shape_hw == shape_hw
        assert facts.mask_fraction == mask.mean()
        assert 0 <= facts.blank_fraction <= 1


def test_objects_are_counted_one_by_one_though_they_touch():
    labels_HW = np.zeros((9, 14), int)
    labels_HW[:, :4], labels_HW[:, 4:10] = 1, 2
    sample = Sample(id="a", image_path="none")
    fact = label_facts(sample, runs_from_mask(labels_HW > 0))
    objects = Objects.from_masks([labels_HW == 1, labels_HW == 2, labels_HW == 9])
    found = with_objects(fact, objects)
    assert (fact.objects, fact.object_areas_px) == (1, None)
    assert (found.objects, found.object_area_px, found.object_areas_px.tolist()) == (2, 45, [36, 54])
    assert found.mask_fraction == fact.mask_fraction
    nothing = with_objects(fact, Objects.from_masks([], (9, 14)))
    assert nothing.objects == 0
    assert np.isnan(nothing.object_area_px)
