"""Ids of tables meet those of images where there is no doubt; what does not meet is named."""

from pathlib import Path

import pytest

from histofold.competitions.ids import MOST_NAMED, broken_links, meet_ids, plain_groups, plain_id, unmet_faults
from histofold.schema.sample import id_file_name, is_safe_id

PATH = Path("images.csv")


@pytest.mark.parametrize(
    ("key", "image"),
    [
        ("a", "a"),
        ("a.jpg", "a"),
        ("A.PNG", "a"),
        ("a.ome.tif", "a"),
        ("a.ndpi", "a"),
        ("images/a.tif", "a"),
        ("7", "007"),
        ("7.0", "007"),
        ("007", "7"),
        ("1.0.tiff", "01"),
        ("e\u0301", "\u00e9"),
        ("caseA/slide1", "slide1"),
        ("images/caseA/slide1.png", "caseA/slide1"),
    ],
)
def test_spellings_of_one_id(key, image):
    meant, notices = meet_ids(PATH, [key], [image, "other"])
    assert meant == {key: image}
    assert len(notices) == (key != image)
    assert all(repr(key) in notice.rule and repr(image) in notice.rule for notice in notices)


@pytest.mark.parametrize(
    ("keys", "images"),
    [
        (["001"], ["1", "01"]),
        (["a.png", "a.jpg"], ["A"]),
        (["slide1"], ["caseA/slide1", "caseB/slide1"]),
        (["b"], ["a"]),
        (["A"], []),
    ],
)
def test_what_could_be_two_is_neither(keys, images):
    assert meet_ids(PATH, keys, images) == ({}, [])


def test_an_image_that_is_named_exactly_is_nobody_else_s():
    meant, notices = meet_ids(PATH, ["1", "01", "x"], ["1"])
    assert meant == {"1": "1"}
    assert notices == []


def test_equal_forms_stay_equal():
    for text in ("a.jpg", "0012", "Ünï.TIFF", "images/x.png", "1.50"):
        assert plain_id(plain_id(text)) == plain_id(text)
    assert plain_id("1.50") == "1.50", "no number of an image"


def test_what_does_not_meet_is_named_and_what_it_may_be():
    faults = unmet_faults(PATH, ["slide_12", "zzz"], ["slide-12"])
    assert [fault.id for fault in faults] == ["slide_12", "zzz", "slide-12"]
    assert "'slide-12'" in faults[0].remedy
    many = unmet_faults(PATH, [str(number) for number in range(MOST_NAMED + 5)], [])
    assert len(many) == MOST_NAMED + 1
    assert many[-1].rule.startswith("5 more")


@pytest.mark.parametrize("key", ["1.00E+05", "1,2E+10", "123456789012345000", "04.Mrz", "6-May", "Mar-05", "1-Dez"])
def test_ids_that_a_spreadsheet_rewrote_are_named_as_such(key):
    (fault,) = unmet_faults(PATH, [key], ())
    assert "a spreadsheet rewrote it" in fault.remedy


@pytest.mark.parametrize("key", ["1E5", "123456789012345678", "4-b", "marrow-05", "2024-05-03"])
def test_other_ids_are_not(key):
    (fault,) = unmet_faults(PATH, [key], ())
    assert fault.remedy == "add the image, or drop the row"


def test_a_second_row_of_an_image_in_another_spelling_is_named_as_such():
    meant, _ = meet_ids(PATH, ["a1", "A1.png", "b"], ["a1", "b"])
    (fault,) = unmet_faults(PATH, ["A1.png"], (), meant)
    assert fault.remedy == "it spells 'a1' otherwise, which has its row: keep one row an image"


def test_links_that_lead_nowhere(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "whole.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "lost.png").symlink_to(tmp_path / "nothing.png")
    assert [fault.id for fault in broken_links(tmp_path)] == ["lost"]


def test_every_id_has_a_file_name_of_its_own_within_the_folder(tmp_path):
    ids = ["a", "a.b", "case/slide", "case%2Fslide", "../x", "/abs", "a\\b", "..", "é"]
    names = [id_file_name(key) for key in ids]
    assert len(set(names)) == len(ids)
    assert all((tmp_path / f"{name}.png").parent == tmp_path for name in names)
    assert [is_safe_id(key) for key in ids] == [True] * 4 + [False] * 4 + [True]
    assert names[:2] == ids[:2]


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (("P1", "p1", " P1 ", "P2"), ("P1", "P1", "P1", "P2")),
        (("1", "1.0", "01", "10"), ("1", "1", "1", "10")),
        (("TCGA-01-2", "TCGA-1-2", "TCGA-12", ""), ("TCGA-01-2", "TCGA-01-2", "TCGA-12", "")),
        (("nan", "N/A", "unknown", "?"), ("", "", "", "")),
        (("-", "TBD", "n.a.", "--"), ("", "", "", "")),
        (("1.01", "1.1", "a b", "a  b"), ("1.01", "1.1", "a b", "a b")),
    ],
)
def test_spellings_of_one_patient_are_one(cells, names):
    meant, notices = plain_groups(PATH, "patient", dict(zip("abcd", cells, strict=True)))
    assert tuple(meant.values()) == names
    several = any(
        len({cell.strip() for cell, name in zip(cells, names, strict=True) if name == each}) > 1
        for each in {*names} - {""}
    )
    assert [notice.id for notice in notices] == ["patient"] * several
