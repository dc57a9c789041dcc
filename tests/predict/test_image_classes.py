"""Several classes in one pass: each as if it were alone."""

import dataclasses

import numpy as np
import pytest
import tifffile

from histofold.core.rle.runs import class_runs, runs_from_mask
from histofold.imaging.slide import open_slide
from histofold.predict.image import ImagePrediction, predict_image, predict_masks
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample
from small_stages import stage_of

NAMES = ("gland", "lumen", "nerve")
PHYSICAL = Manifest(
    competition="folder", preprocessing=Preprocessing(target_pixel_size_um=1.0), tile=64, halo=8, classes=NAMES
)
WHOLE = Manifest(competition="folder", preprocessing=Preprocessing(scale_mode="whole", whole_size=96), classes=NAMES)


def colours(images_NHWC):
    """A network whose classes are the three channels."""
    return images_NHWC.transpose(0, 3, 1, 2).astype(np.float32) / 255


def channel(number):
    """A network of one class that gives one of them alone."""
    return lambda images_NHWC: colours(images_NHWC)[:, number : number + 1]


@pytest.fixture
def sample(tmp_path):
    """A slide of 83 x 131 pixels in which the channels overlap, first and last pixel set, and blue is nowhere."""
    rng = np.random.default_rng(3)
    image_HWC = np.kron(rng.integers(0, 256, (12, 19, 3)), np.ones((7, 7, 1), int))[:83, :131].astype(np.uint8)
    image_HWC[0, 0] = image_HWC[-1, -1] = 255
    image_HWC[..., 2] = 0
    tifffile.imwrite(tmp_path / "s.tif", image_HWC)
    return Sample(id="s", image_path=tmp_path / "s.tif", pixel_size_um=1.0)


@pytest.mark.parametrize("manifest", [PHYSICAL, dataclasses.replace(PHYSICAL, blend=True), WHOLE])
@pytest.mark.parametrize("pixel_size_um", [1.0, 0.6])
def test_each_class_is_what_a_network_of_it_alone_gives(sample, manifest, pixel_size_um):
    thresholds = [0.5, 0.3]
    with open_slide(sample.image_path) as slide:
        together = predict_image([stage_of(colours, manifest)], slide, pixel_size_um, thresholds)
        for number, name in enumerate(NAMES):
            one = dataclasses.replace(manifest, classes=(name,))
            alone = predict_image([stage_of(channel(number), one)], slide, pixel_size_um, thresholds)
            for threshold in thresholds:
                assert together.runs[threshold][number] == alone.runs[threshold]
    assert together.runs[0.5][0].area > 0
    assert together.runs[0.5][2].area == 0


def test_each_class_is_cut_at_its_own_threshold(sample):
    with open_slide(sample.image_path) as slide:
        prediction = predict_image([stage_of(colours, PHYSICAL)], slide, 1.0, [0.2, 0.7, (0.2, 0.7, 0.2)])
    low, high, mixed = (prediction.runs[cut] for cut in (0.2, 0.7, (0.2, 0.7, 0.2)))
    assert mixed == (low[0], high[1], low[2])
    assert low[1].area > high[1].area > 0


def test_a_slide_gives_a_mask_a_class_and_threshold(sample):
    masks = predict_masks([stage_of(colours, PHYSICAL)], sample, [0.5, (0.1, 0.2, 0.3)], never_empty=True)
    assert [len(class_runs(each)) for each in masks] == [3, 3]
    assert masks[0][2].area == 0, "of several classes one may be absent"
    one = dataclasses.replace(PHYSICAL, classes=("blue",))
    (blue,) = predict_masks([stage_of(channel(2), one)], sample, [0.5], never_empty=True)
    assert blue.area > 0


def test_small_components_are_dropped_class_by_class():
    masks_KHW = np.zeros((2, 40, 50), bool)
    masks_KHW[0, 3:6, 3:6] = masks_KHW[1, 10:20, 10:14] = True
    runs = tuple(map(runs_from_mask, masks_KHW))
    prediction = ImagePrediction((40, 50), {0.5: runs}, runs[0], 2.0)
    assert [each.area for each in prediction.masks(0.5, PHYSICAL, True)] == [9, 40]
    larger = dataclasses.replace(PHYSICAL, min_area_um2=4 * 10.0)
    assert [each.area for each in prediction.masks(0.5, larger, True)] == [0, 40]


@pytest.mark.parametrize("classes", [("one",), ("one", "two"), ("one", "two", "three", "four")])
def test_a_network_of_other_classes_than_the_manifest_is_refused(sample, classes):
    manifest = dataclasses.replace(PHYSICAL, classes=classes)
    with open_slide(sample.image_path) as slide, pytest.raises(ValueError, match="zip"):
        predict_image([stage_of(colours, manifest)], slide, 1.0, [0.5])
