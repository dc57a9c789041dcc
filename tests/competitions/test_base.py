"""What all adapters notice of the scales of their images, and what they write."""

from pathlib import Path

import pytest

from histofold.competitions.base import scale_notices
from histofold.competitions.folder import Folder
from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.competitions.registry import get_competition
from histofold.schema.sample import Sample


def noticed(*sizes):
    samples = [Sample(id=str(place), image_path=None, pixel_size_um=size) for place, size in enumerate(sizes)]
    return [(notice.id, notice.rule) for notice in scale_notices(samples)]


@pytest.mark.parametrize("sizes", [(0.5, 0.25, 6.263, 0.4945), (1.0,), (), (None, None)])
def test_sizes_of_microscopes_are_no_news(sizes):
    assert noticed(*sizes) == []


@pytest.mark.parametrize(
    ("sizes", "ids", "words"),
    [
        ((0.0005, 0.00025), ["0", "1"], "millimetres"),
        ((0.5, 0.5, 500.0), ["2"], "nanometres"),
        ((0.5e-6,), ["0"], "metres"),
        ((0.1, 0.1, 0.1, 15.0), ["3"], "a pixel size of 15 um, where the median is 0.1"),
    ],
)
def test_sizes_of_another_unit_are_named(sizes, ids, words):
    found = noticed(*sizes)
    assert [key for key, _ in found] == ids
    assert all(words in rule for _, rule in found)


def test_images_without_a_size_among_others_are_named():
    assert noticed(0.5, None, 0.5) == [("1", "no pixel size, which 2 other images have")]


def test_submissions_are_the_csv_of_their_rows():
    rows = {"b": "1 2 7 1", "a": ""}
    assert Hubmap2022().submission_text(rows) == "id,rle\nb,1 2 7 1\na,\n"
    several = {"b": "1 2\n", "a": "\n3 4"}
    assert Folder().submission_text(several, ("x", "y")) == "id,class,rle\nb,x,1 2\nb,y,\na,x,\na,y,3 4\n"
    with pytest.raises(ValueError, match="zip"):
        Folder().submission_text(rows, ("x", "y"))


def test_masks_are_what_adapters_want_and_their_fallback_is_one_row():
    sample = Sample(id="a", image_path=Path("a.tiff"))
    assert [get_competition(name).task for name in ("hubmap_2022", "kidney_2020", "folder")] == ["masks"] * 3
    assert Hubmap2022().fallback(sample) == Hubmap2022.fallback_row == "1 1"
