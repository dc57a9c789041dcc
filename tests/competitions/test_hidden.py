from dataclasses import replace
from pathlib import Path

import pytest

from histofold.competitions.hidden import HIDDEN_SLIDES, hidden_shift
from histofold.competitions.hubmap_2022 import HUBMAP_2022_ORGANS
from histofold.imaging.shift import Shift
from histofold.schema.sample import Sample

LUNG = Sample(id="a", image_path=Path("a.tiff"), organ="lung", pixel_size_um=0.4)


def test_every_organ_of_2022_has_hidden_slides():
    assert sorted(HIDDEN_SLIDES["hubmap_2022"]) == sorted(HUBMAP_2022_ORGANS)


@pytest.mark.parametrize(
    ("changes", "coarser", "thicker"),
    [
        ({}, 0.7562 / 0.4, 1.25),
        ({"organ": "largeintestine"}, 1.0, 2.0),  # whose hidden pixels are finer
        ({"organ": "prostate"}, 6.263 / 0.4, 1.25),
        ({"pixel_size_um": None}, 1.0, 1.25),
        ({"pixel_size_um": float("nan")}, 1.0, 1.25),
        ({"organ": "heart"}, 1.0, 1.0),
        ({"organ": ""}, 1.0, 1.0),
    ],
)
def test_a_slide_is_shown_as_its_organ_is_in_the_hidden_set(changes, coarser, thicker):
    sample = replace(LUNG, **changes)
    shift = hidden_shift("PAS", "hubmap_2022", sample)
    assert (shift.stain, shift.coarser, shift.thicker) == ("PAS", pytest.approx(coarser), pytest.approx(thicker))
    assert hidden_shift("PAS", "folder", sample) == Shift(stain="PAS")
