"""Fake hidden sets: what is planned, and that each file is what its plan says, to our own reader."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from fake_sets import draw_cheaply
from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.competitions.kidney_2020 import Kidney2020
from histofold.competitions.vasculature_2023 import Vasculature2023
from histofold.core.faults import ImageError, InputError
from histofold.imaging.slide import open_slide
from histofold.kaggle.simulate.files import FakeKaggle, file_bytes, image_folder, tiff_content, write_hidden
from histofold.kaggle.simulate.plan import (
    IMAGE_FAULTS,
    LAYOUT_ODDITIES,
    PLAIN_LAYOUTS,
    SET_FAULTS,
    UNREADABLE,
    HiddenOptions,
    HiddenSet,
    Look,
    plan_hidden,
)

LOOKS = (
    Look(organ="lung", source="HPA", stain="dab", pixel_size_um=0.4),
    Look(organ="prostate", source="Hubmap", stain="eosin", pixel_size_um=6.263),
)


def planned(**changes):
    return plan_hidden(HiddenOptions(**{"images": 60, "smallest": 20, "largest": 300, **changes}), LOOKS)


def test_a_plan_depends_on_its_seed_alone():
    assert planned(seed=5, faults=0.5) == planned(seed=5, faults=0.5)
    assert planned(seed=5) != planned(seed=6)


def test_without_faults_nothing_is_planted():
    hidden = planned(faults=0.0)
    assert {image.fault for image in hidden.images} == {""}
    assert hidden.faults == ()
    assert hidden.unreadable() == {}
    shapes = [image.shape_hw for image in hidden.images]
    assert all(20 <= side <= 300 for shape in shapes for side in shape)
    assert sum(height != width for height, width in shapes) > 50
    assert max(max(image.shape_hw) for image in hidden.images if image.look.organ == "prostate") <= 40


def test_with_all_faults_every_kind_is_met_and_ids_stay_distinct():
    hidden = planned(faults=1.0, images=400)
    assert {image.fault for image in hidden.images} - {""} == set(IMAGE_FAULTS)
    assert hidden.faults == SET_FAULTS
    assert len({image.id for image in hidden.images}) == 400
    assert set(hidden.unreadable().values()) == set(UNREADABLE)


@pytest.mark.parametrize(
    "wrong", [{"images": -1}, {"smallest": 0}, {"largest": 19, "smallest": 20}, {"faults": 1.5}, {"seed": -1}]
)
def test_impossible_sets_are_refused(wrong):
    with pytest.raises(InputError, match="must"):
        HiddenOptions(**wrong)
    with pytest.raises(InputError, match="no organ"):
        plan_hidden(HiddenOptions(), ())


@pytest.mark.parametrize("layout", [*PLAIN_LAYOUTS, *LAYOUT_ODDITIES])
def test_every_layout_is_read_as_what_was_drawn(tmp_path, layout):
    image = replace(planned().images[0], shape_hw=(261, 307))
    drawn_HWC = draw_cheaply(image.number, image.look, image.shape_hw)
    path = tmp_path / "a.tiff"
    path.write_bytes(tiff_content(drawn_HWC, layout))
    with open_slide(path) as slide:
        read_HWC = slide.read_all()
    expected_HWC = np.repeat(drawn_HWC[:, :, 1:2], 3, axis=2) if layout == "grey" else drawn_HWC
    if layout == "jpeg tiles":
        assert np.abs(read_HWC.astype(int) - expected_HWC).mean() < 4
    else:
        assert np.array_equal(read_HWC, expected_HWC)


@pytest.mark.parametrize("fault", UNREADABLE)
def test_what_nobody_can_read_cannot_be_read(tmp_path, fault):
    image = replace(planned().images[0], layout="strips", fault=fault, shape_hw=(200, 130))
    content, path = file_bytes(image, draw_cheaply), tmp_path / "a.tiff"
    if content is not None:
        path.write_bytes(content)

    def read():
        with open_slide(path) as slide:
            slide.read_all()

    with pytest.raises(ImageError):
        read()


def write_set(root, competition, hidden):
    weights = root / "some weights"
    weights.mkdir()
    tree = FakeKaggle.create(root / "kaggle", competition, weights)
    assert [*write_hidden(tree, competition, hidden, draw_cheaply)] == [
        image.id for image in sorted(hidden.images, key=lambda image: image.number)
    ]
    return tree


@pytest.mark.parametrize(
    "competition", [Hubmap2022(), Kidney2020(), Vasculature2023()], ids=["hubmap", "kidney", "vessels"]
)
def test_the_adapter_sees_every_id_in_order_and_every_pixel_size_that_is_stated(tmp_path, competition):
    hidden = planned(faults=0.6, images=40, seed=2)
    hidden = HiddenSet(images=hidden.images, faults=("line ends of Windows", "images that are not listed"))
    tree = write_set(tmp_path, competition, hidden)
    samples = competition.samples(tree.competition, "test")
    assert [sample.id for sample in samples] == [image.id for image in hidden.images]
    assumed = None if competition.name == "hubmap_2022" else 0.5
    for sample, image in zip(samples, hidden.images, strict=True):
        # No table of the vessels states one.
        unknown = image.fault in ("no row", "no pixel size") or competition.name == "vasculature_2023"
        assert sample.pixel_size_um == (assumed if unknown else pytest.approx(image.look.pixel_size_um, rel=1e-4))
    folder = tree.competition / image_folder(competition.name)
    assert (folder / "not_listed.tiff").is_file()
    assert (tree.root / "input" / "datasets" / "owner" / "weights").is_dir()


def test_duplicates_have_the_bytes_of_their_original(tmp_path):
    hidden = planned(faults=0.7, images=60, seed=1)
    tree = write_set(tmp_path, Hubmap2022(), hidden)
    copies = [image for image in hidden.images if image.original]
    assert copies
    for image in copies:
        one, other = (tree.competition / "test_images" / f"{key}.tiff" for key in (image.id, image.original))
        assert one.read_bytes() == other.read_bytes()


def test_tables_can_lack_a_column_or_be_absent(tmp_path):
    images = planned(images=3, faults=0.0).images
    tree = write_set(tmp_path, Hubmap2022(), HiddenSet(images=images, faults=("a column is missing",)))
    with (tree.competition / "test.csv").open(newline="") as stream:
        header = next(csv.reader(stream))
    assert "pixel_size" not in header
    assert Hubmap2022().samples(tree.competition, "test")[0].pixel_size_um is None
    again = FakeKaggle.create(tree.root, Hubmap2022(), tmp_path)
    assert [*again.competition.iterdir()] == [], "a tree is made anew"
    for _ in write_hidden(again, Hubmap2022(), HiddenSet(images=images, faults=("no table",)), draw_cheaply):
        pass
    assert not (again.competition / "test.csv").exists()
    assert len(Hubmap2022().samples(again.competition, "test")) == 3


def test_a_plain_folder_has_no_hidden_set():
    with pytest.raises(InputError, match="no hidden set"):
        image_folder("folder")
