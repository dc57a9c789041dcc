"""Labels on the glass around the tissue: taken out there, and nowhere else."""

import numpy as np
import pytest
import tifffile

from histofold.core.faults import InputError
from histofold.core.rle.runs import Runs, runs_from_mask
from histofold.data.cleaning import (
    clean_blank_labels,
    cleaned_targets,
    outside_mask,
    remove_region,
)
from histofold.data.thumbnails import thumbnail
from histofold.imaging.slide import open_slide
from histofold.schema.sample import Sample

HEIGHT, WIDTH = 300, 420


def disc(y, x, radius):
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


@pytest.fixture
def picture():
    """Pink tissue with glass at its right, a lumen inside and a gland whose lumen the left border cuts."""
    rng = np.random.default_rng(0)
    image_HWC = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image_HWC[:] = (190, 120, 170)
    image_HWC = np.clip(image_HWC + rng.integers(-25, 25, image_HWC.shape), 0, 255).astype(np.uint8)
    glass = np.zeros((HEIGHT, WIDTH), bool)
    glass[:, 300:] = True
    image_HWC[glass | disc(150, 150, 30) | disc(80, 0, 40)] = (242, 242, 240)
    return image_HWC, glass


def test_only_the_glass_at_the_border_is_outside(picture):
    image_HWC, glass = picture
    glands = disc(150, 150, 45) | disc(80, 0, 55)
    outside = outside_mask(image_HWC, glands)
    assert not outside[:, :290].any(), "lumens are white and labelled, also the one that the border cuts"
    assert outside[glass].mean() > 0.97
    assert outside[0, -1]
    assert outside[-1, -1]


def test_a_label_on_glass_goes_and_the_glands_stay(picture, tmp_path):
    image_HWC, glass = picture
    glands = disc(150, 150, 45) | disc(80, 0, 55)
    mask = glands | (glass & disc(200, 360, 40)) | (glass & disc(0, WIDTH - 1, 60))
    tifffile.imwrite(tmp_path / "a.tif", image_HWC)
    with open_slide(tmp_path / "a.tif") as slide:
        cleaned = clean_blank_labels(slide, runs_from_mask(mask))
        np.testing.assert_array_equal(cleaned.to_mask(), glands)
        assert clean_blank_labels(slide, cleaned) == cleaned
        only_glass = runs_from_mask(glass & disc(200, 360, 40))
        assert clean_blank_labels(slide, only_glass) == only_glass, "a mask that would lose everything stays"
        nothing = runs_from_mask(np.zeros_like(mask))
        assert clean_blank_labels(slide, nothing) == nothing
    sample = Sample(id="a", image_path=tmp_path / "a.tif")
    classes = runs_from_mask(glands), runs_from_mask(mask)
    assert cleaned_targets([sample], {"a": classes})["a"] == (classes[0], cleaned)
    assert cleaned_targets([sample], {"a": classes[1]}) == {"a": cleaned}


def test_every_slide_that_cannot_be_decoded_is_named(picture, tmp_path):
    image_HWC, glass = picture
    tifffile.imwrite(tmp_path / "good.tif", image_HWC)
    samples = [Sample(id=key, image_path=tmp_path / f"{key}.tif") for key in ("bad", "good", "gone")]
    (tmp_path / "bad.tif").write_bytes((tmp_path / "good.tif").read_bytes()[:-5])
    with pytest.raises(InputError) as caught:
        cleaned_targets(samples, dict.fromkeys(("bad", "good", "gone"), runs_from_mask(glass)))
    assert [fault.id for fault in caught.value.faults] == ["bad", "gone"]


def test_a_corner_that_is_labelled_as_a_whole_is_still_glass(picture):
    image_HWC, glass = picture
    assert outside_mask(image_HWC, glass)[glass].mean() > 0.97


def test_black_padding_is_outside_too(picture):
    image_HWC, glass = picture
    image_HWC[glass] = 0
    assert outside_mask(image_HWC, np.zeros_like(glass))[glass].mean() > 0.97


@pytest.mark.parametrize("level", [0, 120, 245])
def test_an_image_of_one_colour(level):
    image_HWC = np.full((40, 60, 3), level, np.uint8)
    outside = outside_mask(image_HWC, np.zeros((40, 60)))
    assert outside.all() if level != 120 else not outside.any()


def test_one_pixel_and_other_sizes():
    assert outside_mask(np.full((1, 1, 3), 90, np.uint8), np.ones((1, 1))).shape == (1, 1)
    with pytest.raises(ValueError, match="one size"):
        outside_mask(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4)))


def test_pale_tissue_with_structure_is_not_glass(picture):
    image_HWC, glass = picture
    rng = np.random.default_rng(1)
    pale = np.clip(205 + rng.normal(0, 12, (HEIGHT, WIDTH, 1)), 192, 230).astype(np.uint8)
    image_HWC[~glass] = np.broadcast_to(pale, image_HWC.shape)[~glass]
    assert outside_mask(image_HWC, np.zeros_like(glass))[:, :285].mean() < 0.01


@pytest.mark.parametrize("order", ["F", "C"])
@pytest.mark.parametrize("region_hw", [(1, 1), (7, 5), (33, 21), (50, 60)])
def test_removing_a_region_is_what_numpy_says(order, region_hw, monkeypatch):
    monkeypatch.setattr("histofold.data.cleaning._BAND_PIXELS", 70)
    rng = np.random.default_rng(2)
    mask, region = rng.random((33, 21)) < 0.4, rng.random(region_hw) < 0.5
    mask[0, 0] = mask[-1, -1] = True
    rows = np.arange(33) * region_hw[0] // 33
    columns = np.arange(21) * region_hw[1] // 21
    found = remove_region(runs_from_mask(mask, order), region)
    np.testing.assert_array_equal(found.to_mask(), mask & ~region[np.ix_(rows, columns)])
    assert found.order == order


def test_a_large_slide_is_looked_at_small(picture, tmp_path):
    image_HWC, glass = picture
    tifffile.imwrite(tmp_path / "a.tif", np.kron(image_HWC, np.ones((3, 3, 1), np.uint8)))
    with open_slide(tmp_path / "a.tif") as slide:
        empty = Runs(np.zeros(0, int), np.zeros(0, int), slide.shape_hw)
        outside = outside_mask(*thumbnail(slide, empty, 420))
    assert outside.shape == (HEIGHT, WIDTH)
    assert outside[glass].mean() > 0.97
