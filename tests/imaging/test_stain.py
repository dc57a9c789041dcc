import json

import cv2
import numpy as np
import pandas as pd
import pytest

from histofold.core.stain import HED_FROM_RUIFROK, image_of_densities
from histofold.core.tiles import TileGrid
from histofold.data.tiles.files import TILE_FOLDERS, write_tile
from histofold.imaging.resample import ScaledSlide
from histofold.imaging.slide import open_sample, open_slide
from histofold.imaging.stain import (
    NormalisedSlide,
    fit_stain_map,
    mean_reference,
    network_view,
    sample_tissue,
    slide_stain_maps,
    tissue_pixels,
)
from histofold.predict.tiled import read_padded
from histofold.schema.experiment import AugmentConfig
from histofold.schema.manifest import Manifest
from histofold.schema.parse import load_toml, parse_dataclass, plain, to_toml
from histofold.schema.preprocessing import Preprocessing, StainReference
from histofold.schema.sample import Sample
from histofold.train.augment.pipeline import Augmenter
from histofold.train.dataset import TileDataset

HED = HED_FROM_RUIFROK / np.linalg.norm(HED_FROM_RUIFROK, axis=1, keepdims=True)
METHODS = ("reinhard", "macenko")


def tissue(second, seed=0, shape_hw=(150, 211), strengths=(1.0, 0.8)):
    """Smooth tissue of haematoxylin and a second stain; its right fifth is glass."""
    rng = np.random.default_rng(seed)
    noise_HW2 = cv2.GaussianBlur(rng.standard_normal((*shape_hw, 2)), (0, 0), 2)
    amounts_HW2 = np.clip(0.45 + 0.35 * noise_HW2 / noise_HW2.std(), 0.12, 2) * np.array(strengths)
    amounts_HW2[rng.random(shape_hw) < 0.1, 0] = 0.02
    amounts_HW2[rng.random(shape_hw) < 0.1, 1] = 0.02
    amounts_HW2[:, shape_hw[1] * 4 // 5 :] = 0
    return image_of_densities((amounts_HW2 @ HED[[0, second]]).astype(np.float32))


def reference_of(images):
    return mean_reference({name: tissue_pixels(image_HWC) for name, image_HWC in images.items()})


def normalise_image(image_HWC, preprocessing):
    stain_map = fit_stain_map(tissue_pixels(image_HWC), preprocessing)
    return (image_HWC, False) if stain_map is None else (stain_map(image_HWC), True)


def normalising(method, *images, **settings):
    reference = reference_of({str(place): image for place, image in enumerate(images or (tissue(1),))})
    return Preprocessing(stain=method, stain_reference=reference, **settings)


def write_image(path, image_HWC):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR))
    return path


@pytest.mark.parametrize("method", METHODS)
def test_an_image_that_is_the_reference_stays(method):
    image_HWC = tissue(2)
    normalised_HWC, done = normalise_image(image_HWC, normalising(method, image_HWC))
    assert done
    assert (np.abs(normalised_HWC.astype(int) - image_HWC) <= 1).mean() > 0.999


@pytest.mark.parametrize("method", METHODS)
def test_normalising_brings_the_colours_to_the_reference_and_keeps_glass(method):
    reference_HWC, image_HWC = tissue(1), tissue(2, seed=1, strengths=(0.7, 0.6))
    normalised_HWC, done = normalise_image(image_HWC, normalising(method, reference_HWC))
    assert done
    colours = [tissue_pixels(each).mean(axis=0) for each in (reference_HWC, image_HWC, normalised_HWC)]
    assert np.abs(colours[2] - colours[0]).max() < 0.5 * np.abs(colours[1] - colours[0]).max()
    assert (normalised_HWC[:, -30:] == image_HWC[:, -30:]).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "image_HWC",
    [
        np.full((60, 80, 3), 243, np.uint8),
        np.zeros((60, 80, 3), np.uint8),
        np.full((1, 1, 3), 90, np.uint8),
        np.tile(np.array([170, 90, 160], np.uint8), (60, 80, 1)),
        tissue(1)[:15, :15],
    ],
    ids=["glass", "padding", "one pixel", "one colour", "little tissue"],
)
def test_what_does_not_tell_its_colours_stays_and_is_counted(method, image_HWC):
    normalised_HWC, done = normalise_image(image_HWC, normalising(method))
    assert not done
    assert normalised_HWC is image_HWC


def test_several_references_are_averaged():
    images = [tissue(1, seed=seed, strengths=(0.6 + 0.2 * seed, 0.8)) for seed in range(3)]
    alone = [reference_of({"one": image}) for image in images]
    together = reference_of({f"image {place}": image for place, image in enumerate(images)})
    for name in ("lab_mean", "lab_std", "strengths"):
        values = np.mean([getattr(reference, name) for reference in alone], axis=0)
        assert getattr(together, name) == pytest.approx(values, abs=1e-5)
    assert together.images == ("image 0", "image 1", "image 2")
    assert np.linalg.norm(together.second) == pytest.approx(1, abs=1e-5)


def test_blank_references_are_left_out():
    blank = np.full((90, 90, 3), 245, np.uint8)
    assert reference_of({"blank": blank}) == StainReference()
    assert reference_of({"blank": blank, "good": tissue(1)}) == reference_of({"good": tissue(1)})


def test_no_method_changes_nothing():
    assert fit_stain_map(tissue_pixels(tissue(1)), Preprocessing()) is None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape_hw", [(150, 211), (640, 583)])
def test_training_pixels_are_prediction_pixels(tmp_path, method, shape_hw):
    """Tiles cut raw and normalised by the loader are the tiles that prediction reads, whatever its tiling."""
    spec = normalising(method, scale_mode="physical", target_pixel_size_um=0.5)
    sample = Sample(id="a", image_path=write_image(tmp_path / "a.png", tissue(2, 1, shape_hw)), pixel_size_um=0.5)
    maps = slide_stain_maps([sample], spec)
    assert list(maps) == ["a"]
    with open_slide(sample.image_path) as slide:
        raw, view = ScaledSlide(slide, shape_hw), network_view(slide, spec, 0.5)
        assert isinstance(view, NormalisedSlide)
        whole_HWC = view.read(slice(0, shape_hw[0]), slice(0, shape_hw[1]))
        rows = []
        for name in TILE_FOLDERS:
            (tmp_path / name).mkdir()
        for place, tile in enumerate(TileGrid(shape_hw, 96, 70)):
            write_tile(tmp_path, f"t{place}", read_padded(raw, tile), np.zeros((96, 96), np.uint8), 1)
            rows.append((f"t{place}", "a", tile))
        index = pd.DataFrame([row[:2] for row in rows], columns=["tile_id", "id"])
        dataset = TileDataset(tmp_path, index, Augmenter(AugmentConfig(), 96), 0, maps)
        for place, (_, _, tile) in enumerate(rows):
            trained_HWC, _ = dataset.read(place)
            assert (trained_HWC == read_padded(view, tile)).all()
            assert (trained_HWC == whole_HWC[tile.read]).all()
    assert np.abs(whole_HWC.astype(int) - tissue(2, 1, shape_hw)).mean() > 3


def test_a_blank_slide_is_read_as_it_is_and_left_out_of_the_maps(tmp_path, caplog):
    paths = [
        write_image(tmp_path / f"{name}.png", image)
        for name, image in (("good", tissue(2)), ("blank", np.full((70, 90, 3), 240, np.uint8)))
    ]
    samples = [Sample(id=path.stem, image_path=path, pixel_size_um=0.5) for path in paths]
    spec = normalising("macenko", target_pixel_size_um=0.5)
    with caplog.at_level("INFO", logger="histofold"):
        assert list(slide_stain_maps(samples, spec)) == ["good"]
    assert "1 of 2 slides stay as they are" in caplog.text
    assert slide_stain_maps(samples, Preprocessing()) == {}
    with open_slide(paths[1]) as slide:
        assert isinstance(network_view(slide, spec, 0.5), ScaledSlide)


class CountingView:
    """A large view that counts what is read of it."""

    def __init__(self, shape_hw):
        self.shape_hw, self.pixels, self.touched = shape_hw, 0, []

    def read(self, y, x):
        self.touched.append((y.start, y.stop, x.start, x.stop))
        self.pixels += (y.stop - y.start) * (x.stop - x.start)
        return np.zeros((y.stop - y.start, x.stop - x.start, 3), np.uint8)


@pytest.mark.parametrize("shape_hw", [(1, 1), (512, 512), (513, 40), (30_000, 40_000), (100, 90_000)])
def test_what_is_sampled_of_a_slide_is_bounded_and_spread(shape_hw):
    view = CountingView(shape_hw)
    sample_tissue(view)
    assert view.pixels <= 512 * 512
    assert view.pixels == min(shape_hw[0], 512) * min(shape_hw[1], 512)
    tops, bottoms, lefts, rights = zip(*view.touched, strict=True)
    assert (min(tops), min(lefts), max(bottoms), max(rights)) == (0, 0, *shape_hw)


def test_the_reference_survives_files(tmp_path):
    spec = normalising("macenko", tissue(1), tissue(2))
    (tmp_path / "spec.toml").write_text(to_toml(spec))
    assert load_toml(Preprocessing, tmp_path / "spec.toml") == spec
    assert parse_dataclass(Preprocessing, json.loads(json.dumps(plain(spec))), "spec.json") == spec


@pytest.mark.parametrize("method", METHODS)
def test_a_method_without_its_reference_is_refused(method):
    with pytest.raises(ValueError, match="stain_reference"):
        Preprocessing(stain=method).check_stain()
    with pytest.raises(ValueError, match="stain_reference"):
        Manifest(competition="folder", preprocessing=Preprocessing(stain=method))


@pytest.mark.parametrize(
    "numbers",
    [
        {"lab_mean": (1.0, 2.0)},
        {"lab_std": (1.0, 0.0, 1.0)},
        {"strengths": (1.0, -1.0)},
        {"second": (1.0, 1.0, 1.0)},
    ],
)
def test_impossible_references_are_refused(numbers):
    with pytest.raises(ValueError, match=r"stain_reference"):
        StainReference(**numbers)


def test_a_slide_of_an_organ_is_seen_at_the_organs_scale(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((60, 40, 3), 128, np.uint8))
    spec = Preprocessing(target_pixel_size_um=1.0, target_pixel_size_by_organ={"prostate": 2.0})
    seen = {}
    for organ in ("prostate", "lung", ""):
        with open_sample(Sample(id="a", image_path=tmp_path / "a.png", organ=organ)) as slide:
            seen[organ] = network_view(slide, spec, 1.0).shape_hw
    assert seen == {"prostate": (30, 20), "lung": (60, 40), "": (60, 40)}
