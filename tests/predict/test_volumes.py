"""Volumes along three axes: planes, blocks, averages and cuts, against arithmetic on whole arrays."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage

from histofold.core.faults import ImageError
from histofold.imaging import planes
from histofold.imaging.planes import GreyVolume, gather_volume, plane_slides, sorted_volumes
from histofold.imaging.volume import open_slice
from histofold.predict.image import forward_batch
from histofold.predict.stages import OutOfTimeError
from histofold.predict.volumes import cut_volume, predict_volume, share_probability
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample
from histofold.schema.volumes import VOLUME_AXES, VolumeConfig
from small_stages import stage_of

SHAPE = (9, 70, 45)


def manifest_of(**settings) -> Manifest:
    return Manifest(
        competition="sennet_2024",
        preprocessing=Preprocessing(target_pixel_size_um=50.0, normalise="none"),
        classes=("vessel",),
        tile=64,
        halo=0,
        views=("identity",),
        **settings,
    )


def middle_channel(images_NHWC):
    """A network that says the grey level."""
    return images_NHWC[:, None, :, :, 1].astype(np.float32) / 255


def contrast(images_NHWC):
    """A network that compares a plane with its neighbours."""
    planes = images_NHWC.astype(np.float32)
    return np.abs(planes[..., 0] - planes[..., 2])[:, None] / 255


@pytest.fixture
def grey() -> GreyVolume:
    values_DHW = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
    return GreyVolume(values_DHW, frozenset(), 50.0, Path("volume"))


@pytest.mark.parametrize("axes", [("xy",), ("zy", "xy"), VOLUME_AXES])
def test_a_network_of_single_voxels_says_the_same_along_every_axis(grey, axes, tmp_path, monkeypatch):
    monkeypatch.setattr(planes, "BLOCK_BYTES", 3 * 70 * 45)  # several blocks an axis
    map_DHW = predict_volume([stage_of(middle_channel, manifest_of())], grey, axes, tmp_path)
    np.testing.assert_allclose(map_DHW, grey.values / 255, atol=2e-3)


def test_each_axis_counts_alike_and_sees_its_own_neighbours(grey, tmp_path, monkeypatch):
    monkeypatch.setattr(planes, "BLOCK_BYTES", 1)
    map_DHW = predict_volume([stage_of(contrast, manifest_of())], grey, VOLUME_AXES, tmp_path)
    values = grey.values.astype(float)
    expected = np.zeros(SHAPE)
    for axis in range(3):
        padded = np.pad(values, [(1, 1) if place == axis else (0, 0) for place in range(3)], mode="edge")
        length = values.shape[axis]
        before, after = np.take(padded, range(length), axis), np.take(padded, range(2, length + 2), axis)
        expected += np.abs(before - after) / 255 / 3
    np.testing.assert_allclose(map_DHW, expected, atol=2e-3)


def outermost(images_NHWC):
    """A network that compares the first and the last slice of those that it is shown."""
    planes = images_NHWC.astype(np.float32)
    return np.abs(planes[..., 0] - planes[..., -1])[:, None] / 255


@pytest.mark.parametrize("block_planes", [1, 4])
def test_of_five_slices_the_outer_ones_are_two_planes_away(grey, tmp_path, monkeypatch, block_planes):
    monkeypatch.setattr(planes, "BLOCK_BYTES", block_planes * 70 * 45)
    manifest = manifest_of(volume=VolumeConfig())
    manifest = replace(manifest, preprocessing=replace(manifest.preprocessing, slices=5))
    map_DHW = predict_volume([stage_of(outermost, manifest)], grey, ("xz",), tmp_path)
    padded = np.pad(grey.values.astype(float), [(0, 0), (2, 2), (0, 0)], mode="edge")
    np.testing.assert_allclose(map_DHW, np.abs(padded[:, :-4] - padded[:, 4:]) / 255, atol=2e-3)


@pytest.mark.parametrize("axis", VOLUME_AXES)
def test_blocks_partition_the_planes(grey, axis, monkeypatch):
    monkeypatch.setattr(planes, "BLOCK_BYTES", 2 * 70 * 45)
    across = np.moveaxis(grey.values, VOLUME_AXES.index(axis), 0)
    seen = 0
    for start, stop, slides in plane_slides(grey.values, axis):
        assert start == seen
        for place, slide in enumerate(slides):
            np.testing.assert_array_equal(slide.read_all()[:, :, 1], across[start + place])
        seen = stop
    assert seen == len(across)


def test_axes_for_which_there_is_no_time_are_left_out_and_said(grey, tmp_path, caplog):
    stage = stage_of(contrast, manifest_of())
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    short = predict_volume([stage], grey, VOLUME_AXES, tmp_path / "a", goes_on=lambda megapixels: False)
    alone = predict_volume([stage], grey, ("xy",), tmp_path / "b")
    np.testing.assert_array_equal(short, alone)
    assert "predicted along xy alone" in caplog.text


def test_what_was_seen_before_time_ran_out_counts(grey, tmp_path, monkeypatch):
    monkeypatch.setattr(planes, "BLOCK_BYTES", 3 * 70 * 45)
    calls = []

    def forward(stage, networks, batch):
        calls.append(batch)
        if len(calls) > 8:  # two tiles a plane: four planes are whole
            raise OutOfTimeError
        return forward_batch(stage, networks, batch)

    map_DHW = predict_volume([stage_of(middle_channel, manifest_of(batch=1))], grey, ("xy",), tmp_path, forward)
    np.testing.assert_allclose(map_DHW[:4], grey.values[:4] / 255, atol=2e-3)
    assert not map_DHW[4:].any()


def test_hysteresis_and_size_hold_over_the_volume():
    rng = np.random.default_rng(1)
    map_DHW = ndimage.gaussian_filter(rng.random(SHAPE), 1.2).astype(np.float16)
    map_DHW = (map_DHW - map_DHW.min()) / (map_DHW.max() - map_DHW.min())
    low, high, fewest = 0.5, 0.75, 20
    labels_DHW, count = ndimage.label(map_DHW >= low, np.ones((3, 3, 3)))
    kept = [
        k for k in range(1, count + 1) if map_DHW[labels_DHW == k].max() >= high and (labels_DHW == k).sum() >= fewest
    ]
    manifest = manifest_of(seed_threshold=high, volume=VolumeConfig(min_voxels=fewest))
    found = np.stack([runs.to_mask() for runs in cut_volume(map_DHW, low, manifest)])
    assert 0 < len(kept) < count
    np.testing.assert_array_equal(found, np.isin(labels_DHW, kept))
    plain = np.stack([runs.to_mask() for runs in cut_volume(map_DHW, low, manifest_of())])
    np.testing.assert_array_equal(plain, map_DHW >= low)


@pytest.mark.parametrize("share", [1e-4, 0.01, 0.5, 0.8])
def test_a_share_of_the_voxels_is_cut_off_exactly_as_by_sorting_them(share):
    map_DHW = np.random.default_rng(3).beta(0.3, 2, SHAPE).astype(np.float16)
    wanted = int(np.ceil(share * map_DHW.size))
    cut = share_probability(map_DHW, share)
    assert cut == np.sort(map_DHW, axis=None)[-wanted]
    assert (map_DHW >= cut).sum() >= wanted > (map_DHW > cut).sum()


def test_of_voxels_without_any_probability_none_is_mask_and_of_equal_ones_all_are():
    map_DHW = np.zeros(SHAPE, np.float16)
    assert not (map_DHW >= share_probability(map_DHW, 0.5)).any()
    map_DHW[0, 0, 0] = map_DHW[-1, -1, -1] = 1
    np.testing.assert_array_equal(map_DHW >= share_probability(map_DHW, 0.5), map_DHW == 1)
    np.testing.assert_array_equal(map_DHW >= share_probability(map_DHW, 1e-9), map_DHW == 1)


def test_thresholds_of_shares_do_not_depend_on_how_sure_a_network_is():
    map_DHW = ndimage.gaussian_filter(np.random.default_rng(4).random(SHAPE), 1.2).astype(np.float16)
    manifest = manifest_of(volume=VolumeConfig(most_share=0.2))
    areas = {}
    for threshold in (0.25, 0.5, 0.75):
        masks = [cut_volume(probs_DHW, threshold, manifest) for probs_DHW in (map_DHW, map_DHW / np.float16(4))]
        assert masks[0] == masks[1]
        areas[threshold] = sum(runs.area for runs in masks[0]) / map_DHW.size
    assert areas == pytest.approx({0.25: 0.15, 0.5: 0.1, 0.75: 0.05}, abs=0.005)
    sure = replace(manifest, seed_threshold=0.99)
    assert not any(runs.area for runs in cut_volume(map_DHW, 0.5, sure)), "seeds are of probabilities"


def write_slices(folder, values_DHW):
    folder.mkdir(parents=True)
    samples = []
    for number, values_HW in enumerate(values_DHW):
        path = folder / f"{number:04d}.tif"
        cv2.imwrite(str(path), values_HW)
        sample = partial(Sample, id=f"v_{number:04d}", image_path=path, source="v", pixel_size_um=50.0)
        samples.append(sample(opened_by=open_slice))
    return samples


def test_slices_at_fault_are_taken_from_their_neighbours_or_are_black_and_named(tmp_path, caplog):
    values_DHW = np.random.default_rng(2).integers(1000, 60_000, (8, 20, 30)).astype(np.uint16)
    samples = write_slices(tmp_path / "v", values_DHW)
    for number in (2, 5, 6):
        samples[number].image_path.write_bytes(b"II*\0")
    grey = gather_volume(samples, tmp_path)
    assert grey.unread == {5, 6}
    assert not grey.values[5:7].any()
    middle = (grey.values[1].astype(float) + grey.values[3]) / 2
    assert np.abs(grey.values[2] - middle).max() <= 0.5
    for sample in samples:
        sample.image_path.write_bytes(b"II*\0")
    with pytest.raises(ImageError, match="no slice of this volume"):
        gather_volume(samples, tmp_path)


def test_slices_are_ordered_within_their_volumes(tmp_path):
    samples = write_slices(tmp_path / "v", np.zeros((4, 8, 8), np.uint16))
    assert sorted_volumes(samples[::-1]) == {"v": samples}
