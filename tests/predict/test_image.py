import dataclasses
import threading
from itertools import pairwise

import numpy as np
import pytest
import tifffile
import torch

from histofold.core.regions import component_areas, label_runs, split_runs
from histofold.core.rle.runs import runs_from_mask
from histofold.imaging.slide import open_slide
from histofold.models.film import SEEN
from histofold.predict.image import ImagePrediction, predict_image
from histofold.predict.postprocess import PeakMap
from histofold.predict.stages import OutOfTimeError
from histofold.predict.tiled import grid_of
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from small_stages import stage_of

PHYSICAL = Manifest(competition="folder", preprocessing=Preprocessing(target_pixel_size_um=1.0), tile=64, halo=8)


def red(images_NHWC):
    """A network whose probability is the red channel."""
    return images_NHWC[:, None, :, :, 0].astype(np.float32) / 255


@pytest.fixture
def slide_path(tmp_path):
    """A slide of 150 x 211 pixels: red where the mask is, in blobs that survive resampling."""
    mask_HW = np.zeros((150, 211), bool)
    mask_HW[20:60, 30:90] = mask_HW[90:150, 150:211] = mask_HW[0:10, 0:10] = True
    image_HWC = np.zeros((150, 211, 3), np.uint8)
    image_HWC[mask_HW, 0] = 255
    tifffile.imwrite(tmp_path / "slide.tiff", image_HWC)
    return tmp_path / "slide.tiff", mask_HW


@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("pixel_size_um", [1.0, 0.5, 2.3])
def test_a_network_that_sees_the_mask_gives_it_back(slide_path, pixel_size_um, blend):
    path, mask_HW = slide_path
    manifest = dataclasses.replace(PHYSICAL, blend=blend)
    with open_slide(path) as slide:
        prediction = predict_image([stage_of(red, manifest)], slide, pixel_size_um, [0.5, 0.9])
    assert prediction.shape_hw == mask_HW.shape
    found_HW = prediction.runs[0.5].to_mask()
    if pixel_size_um == 1.0:
        np.testing.assert_array_equal(found_HW, mask_HW)
    assert (found_HW != mask_HW).mean() < 0.02
    assert prediction.runs[0.9].area <= prediction.runs[0.5].area


@pytest.mark.parametrize("copies", [1, 2])
def test_networks_are_told_what_the_slide_shows_in_whatever_thread_they_run(slide_path, copies):
    told = []

    def watch(images_NHWC):
        told.append((SEEN.get(), threading.get_ident()))
        return red(images_NHWC)

    stage = dataclasses.replace(stage_of(watch, PHYSICAL), networks=stage_of(watch, PHYSICAL).networks * copies)
    with open_slide(slide_path[0]) as slide:
        slide.organ = "lung"
        predict_image([stage], slide, 1.0, [0.5])
    assert {organs for organs, _ in told} == {("lung",)}
    assert (threading.get_ident() in {thread for _, thread in told}) == (copies == 1)
    assert SEEN.get() == ()


@pytest.mark.parametrize("fit", ["long_side", "stretch"])
def test_whole_mode_undoes_its_scale(slide_path, fit):
    path, mask_HW = slide_path
    spec = Preprocessing(scale_mode="whole", whole_size=128, whole_fit=fit)
    manifest = Manifest(competition="folder", preprocessing=spec)
    with open_slide(path) as slide:
        assert len(grid_of(manifest, spec.scaled_hw(slide.shape_hw, None))) == 1
        found_HW = predict_image([stage_of(red, manifest)], slide, None, [0.5]).runs[0.5].to_mask()
    assert found_HW.shape == mask_HW.shape
    assert (found_HW != mask_HW).mean() < 0.04


def test_the_threshold_itself_is_mask(tmp_path):
    tifffile.imwrite(tmp_path / "flat.tiff", np.full((20, 30, 3), 51, np.uint8))
    with open_slide(tmp_path / "flat.tiff") as slide:
        prediction = predict_image([stage_of(red, PHYSICAL)], slide, 1.0, [51 / 255, 0.21])
    assert prediction.runs[51 / 255].area == 600
    assert prediction.runs[0.21].area == 0


def test_cleaning_drops_by_physical_area_and_never_everything():
    mask_HW = np.zeros((40, 50), bool)
    mask_HW[0:3, 0:3] = True  # 9 px
    mask_HW[10:20, 10:14] = True  # 40 px
    peak = runs_from_mask(np.eye(40, 50, dtype=bool))
    prediction = ImagePrediction((40, 50), {0.5: runs_from_mask(mask_HW)}, peak, 2.0)

    def area(prediction, min_area_um2, never_empty):
        manifest = dataclasses.replace(PHYSICAL, min_area_um2=min_area_um2)
        return prediction.masks(0.5, manifest, never_empty).area

    assert area(prediction, 0.0, True) == 49
    assert area(prediction, 4 * 10.0, True) == 40, "10 px of 2 um are 40 um2"
    assert area(prediction, 4 * 41.0, False) == 0
    assert area(prediction, 4 * 41.0, True) == 40, "the largest component stays"
    unknown = dataclasses.replace(prediction, pixel_size_um=None)
    assert area(unknown, 1e9, True) == 49, "without a pixel size nothing is dropped"
    empty = dataclasses.replace(prediction, runs={0.5: runs_from_mask(np.zeros((40, 50), bool))})
    assert empty.masks(0.5, PHYSICAL, False).area == 0
    assert empty.masks(0.5, PHYSICAL, True) == peak


@pytest.mark.parametrize("shape", [(1, 1), (7, 400), (600, 37), (300, 301)])
def test_the_peak_is_around_the_highest_probability(shape):
    rng = np.random.default_rng(sum(shape))
    probs_HW = (rng.random(shape) * 0.1).astype(np.float32)
    y, x = (int(rng.integers(side)) for side in shape)
    probs_HW[y, x] = 0.4
    peak = PeakMap(shape)
    for start in range(0, shape[0], 50):
        peak.add(start, probs_HW[start : start + 50])
    original = (shape[0] * 3, shape[1] * 2)
    runs = peak.runs(original)
    mask_HW = runs.to_mask()
    assert mask_HW.shape == original
    assert mask_HW[y * 3 + 1, x * 2]
    assert len(component_areas(split_runs(runs), label_runs(split_runs(runs)))) == 1
    assert runs.area <= 6 * max(1, -(-max(shape) // 256)) ** 2


def test_the_peak_of_an_image_that_the_network_saw_enlarged_is_never_lost():
    rng = np.random.default_rng(4)
    for _ in range(200):
        scaled, original = (tuple(int(side) for side in rng.integers(1, 400, 2)) for _ in range(2))
        peak = PeakMap(scaled)
        probs_HW = np.zeros(scaled, np.float32)
        probs_HW[rng.integers(scaled[0]), rng.integers(scaled[1])] = 0.3
        peak.add(0, probs_HW)
        assert peak.runs(original).area > 0
        assert peak.runs(original).shape_hw == original


@pytest.mark.parametrize("value", [0.0, 1e-30])
def test_the_peak_of_a_hopeless_image_is_still_a_mask(value):
    peak = PeakMap((20, 30))
    peak.add(0, np.full((20, 30), value, np.float32))
    assert peak.runs((40, 60)).area > 0


def test_masks_of_rising_thresholds_are_nested(slide_path):
    path, _ = slide_path
    rng = torch.Generator().manual_seed(0)

    def noisy(images_NHWC):
        return torch.rand(images_NHWC.shape[0], 1, *images_NHWC.shape[1:3], generator=rng).numpy()

    with open_slide(path) as slide:
        prediction = predict_image([stage_of(noisy, PHYSICAL)], slide, 1.0, [0.2, 0.4, 0.6, 0.8])
    masks = [prediction.runs[t].to_mask() for t in (0.2, 0.4, 0.6, 0.8)]
    for larger, smaller in pairwise(masks):
        assert not (smaller & ~larger).any()
        assert smaller.sum() < larger.sum()


def test_several_stages_meet_at_the_original_size(slide_path):
    path, mask_HW = slide_path

    def stage(target_um, share, value=red):
        spec = Preprocessing(target_pixel_size_um=target_um)
        return stage_of(value, dataclasses.replace(PHYSICAL, preprocessing=spec), share)

    def none(images_NHWC):
        return np.zeros((len(images_NHWC), 1, *images_NHWC.shape[1:3]), np.float32)

    with open_slide(path) as slide:
        (alone,) = predict_image([stage_of(red, PHYSICAL)], slide, 1.0, [0.5]).runs.values()
        same = predict_image([stage(1.0, 0.25), stage(1.0, 0.75)], slide, 1.0, [0.5])
        assert same.runs[0.5] == alone
        mixed = predict_image([stage(1.0, 0.5), stage(2.1, 0.3), stage(0.7, 0.2)], slide, 1.0, [0.5])
        assert (mixed.runs[0.5].to_mask() != mask_HW).mean() < 0.02
        shares = predict_image([stage(1.0, 0.6), stage(2.0, 0.4, none)], slide, 1.0, [0.59, 0.61])
    np.testing.assert_array_equal(shares.runs[0.59].to_mask(), mask_HW)
    assert shares.runs[0.61].area == 0
    assert shares.peak.area > 0


def test_stages_of_other_classes_are_refused(slide_path):
    def two(images_NHWC):
        return np.concatenate([red(images_NHWC)] * 2, axis=1)

    with open_slide(slide_path[0]) as slide, pytest.raises(ValueError, match="different classes"):
        predict_image([stage_of(red, PHYSICAL, 0.5), stage_of(two, PHYSICAL, 0.5)], slide, 1.0, [0.5])


def test_logits_become_probabilities_at_the_end(slide_path):
    path, mask_HW = slide_path
    manifest = dataclasses.replace(PHYSICAL, average="logits")

    def logits(images_NHWC):
        return np.where(images_NHWC[:, None, :, :, 0] > 127, np.float32(2), np.float32(-2))

    high = 1 / (1 + np.exp(-2))
    with open_slide(path) as slide:
        prediction = predict_image([stage_of(logits, manifest)], slide, 1.0, [high - 0.01, high + 0.01])
    np.testing.assert_array_equal(prediction.runs[high - 0.01].to_mask(), mask_HW)
    assert prediction.runs[high + 0.01].area == 0


def test_components_without_a_seed_go(tmp_path):
    image_HWC = np.zeros((40, 90, 3), np.uint8)
    image_HWC[5:20, 5:30, 0] = 153  # 0.6
    image_HWC[5:20, 50:80, 0] = 153
    image_HWC[10, 60, 0] = 230  # 0.9: the seed of the second one
    tifffile.imwrite(tmp_path / "s.tiff", image_HWC)
    manifest = dataclasses.replace(PHYSICAL, seed_threshold=0.8)
    with open_slide(tmp_path / "s.tiff") as slide:
        prediction = predict_image([stage_of(red, manifest)], slide, 1.0, [0.5, 0.85])
    kept_HW = prediction.masks(0.5, manifest, False).to_mask()
    assert kept_HW.sum() == 15 * 30
    assert kept_HW[:, 50:80].sum() == 15 * 30
    assert prediction.masks(0.85, manifest, False).area == 1, "a threshold above the seeds' stays what it is"


@pytest.mark.parametrize("blend", [False, True])
def test_rows_for_which_there_is_no_time_are_empty(slide_path, blend):
    path, _ = slide_path
    calls = []

    def until_late(images_NHWC):
        calls.append(len(images_NHWC))
        if len(calls) > 40:
            raise OutOfTimeError
        return red(images_NHWC)

    manifest = dataclasses.replace(PHYSICAL, batch=1, tile=32, halo=4, blend=blend)
    with open_slide(path) as slide:
        cut = predict_image([stage_of(until_late, manifest)], slide, 1.0, [0.5])
        whole = predict_image([stage_of(red, manifest)], slide, 1.0, [0.5])
    done = cut.rows_done
    assert 0 < done < 150
    np.testing.assert_array_equal(cut.runs[0.5].to_mask()[:done], whole.runs[0.5].to_mask()[:done])
    assert not cut.runs[0.5].to_mask()[done:].any()
    assert whole.rows_done == 150

    def never(images_NHWC):
        raise OutOfTimeError

    with open_slide(path) as slide, pytest.raises(OutOfTimeError):
        predict_image([stage_of(never, manifest)], slide, 1.0, [0.5])


@pytest.mark.parametrize("layout", [{"rowsperstrip": 16}, {"tile": (32, 32)}])
def test_stages_that_read_a_compressed_slide_at_once_see_the_same_pixels(tmp_path, layout):
    rng = np.random.default_rng(7)
    image_HWC = np.kron(rng.integers(0, 256, (60, 50, 3)), np.ones((8, 8, 1), int)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "s.tiff", image_HWC, compression="deflate", **layout)
    specs = [Preprocessing(target_pixel_size_um=target) for target in (1.0, 1.25, 0.8)]
    stages = [stage_of(red, dataclasses.replace(PHYSICAL, preprocessing=spec, batch=1), 1 / 3) for spec in specs]
    with open_slide(tmp_path / "s.tiff") as slide:
        together = [predict_image(stages, slide, 1.0, [0.5]).runs[0.5] for _ in range(3)]
    maps = []
    for stage in stages:
        with open_slide(tmp_path / "s.tiff") as slide:
            cuts = [round(0.02 * step, 2) for step in range(1, 50)]
            runs = predict_image([dataclasses.replace(stage, share=1.0)], slide, 1.0, cuts).runs
            maps.append(sum(runs[cut].to_mask().astype(int) for cut in cuts) * 0.02)
    sure = np.abs(np.mean(maps, axis=0) - 0.5) > 0.03
    for runs in together:
        assert runs == together[0]
        np.testing.assert_array_equal(runs.to_mask()[sure], (np.mean(maps, axis=0) > 0.5)[sure])
    assert sure.mean() > 0.8


def test_an_error_in_one_of_several_stages_leaves_no_thread_behind(slide_path):
    def broken(images_NHWC):
        raise ArithmeticError("not numbers")

    before = threading.active_count()
    stages = [stage_of(red, PHYSICAL, 0.5), stage_of(broken, PHYSICAL, 0.5)]
    for _ in range(3):
        with open_slide(slide_path[0]) as slide, pytest.raises(ArithmeticError):
            predict_image(stages, slide, 1.0, [0.5])
    assert threading.active_count() == before
