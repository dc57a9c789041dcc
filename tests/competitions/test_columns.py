"""Columns that are named otherwise: read where there is no doubt, else refused with the right name."""

from pathlib import Path

import pytest

from histofold.competitions.columns import column_faults, near_columns, spelled_columns
from histofold.core.faults import InputNotice, parted

KNOWN = ("id", "organ", "source", "data_source", "group", "patient", "pixel_size")
PATH = Path("images.csv")


@pytest.mark.parametrize(
    ("written", "column"),
    [
        ("Patient", "patient"),
        (" PATIENT ", "patient"),
        ("pixel size", "pixel_size"),
        ("PixelSize", "pixel_size"),
        ("pixel-size", "pixel_size"),
        ("Data Source", "data_source"),
    ],
)
def test_case_blanks_and_underscores_make_no_difference(written, column):
    names, faults = spelled_columns(PATH, ["ID", written, "note"], KNOWN)
    assert names == ["id", column, "note"]
    assert [type(fault) for fault in faults] == [InputNotice]
    assert f"{written.strip()!r} as {column!r}" in faults[0].rule


def test_the_exact_name_wins_and_two_alike_are_refused():
    assert spelled_columns(PATH, ["id", "Patient", "patient"], KNOWN) == (["id", "Patient", "patient"], [])
    _, faults = spelled_columns(PATH, ["id", "Patient", "PATIENT"], KNOWN)
    assert [(fault.id, type(fault) is InputNotice) for fault in faults] == [("patient", False)]


@pytest.mark.parametrize(
    ("written", "column"),
    [
        ("Patient ID", "patient"),
        ("patient_id", "patient"),
        ("patients", "patient"),
        ("donor", "patient"),
        ("Patienten-Nr.", "patient"),
        ("Fall", "patient"),
        ("case_no", "patient"),
        ("group_id", "group"),
        ("wsi", "group"),
        ("Slide ID", "group"),
        ("pid", "patient"),
        ("pixel_size_um", "pixel_size"),
        ("mpp", "pixel_size"),
        ("MPP", "pixel_size"),
        ("tissue", "organ"),
        ("image_id", "id"),
    ],
)
def test_near_misses_are_named_with_the_right_name(written, column):
    there = [name for name in ("id", "organ") if name != column]
    assert near_columns([*there, written], KNOWN) == {written: column}
    faults, _ = parted(column_faults(PATH, [*there, written], ("id",), KNOWN[1:], is_strict=True))
    assert len(faults) == 1
    assert column in str(faults[0])
    assert written in str(faults[0])


@pytest.mark.parametrize("written", ["scanner", "age", "sex", "stain", "tissue_thickness", "organism", "notes"])
def test_other_columns_are_nobody_s_mistake(written):
    names = ["id", "patient", "organ", written]
    faults, notices = parted(column_faults(PATH, names, ("id",), KNOWN[1:], is_strict=True))
    assert faults == []
    assert [notice.rule for notice in notices] == [f"columns that are not read: {written}"]
    assert column_faults(PATH, names, ("id",), KNOWN[1:], is_strict=False) == []


def test_what_is_there_is_not_missed_under_another_name():
    """A patient is known: that `group_id` or `donor` stand beside it is no fault."""
    names = ["id", "patient", "group_id", "donor"]
    assert parted(column_faults(PATH, names, ("id",), KNOWN[1:], is_strict=True))[0] == []


def test_a_table_of_the_host_s_may_have_any_columns():
    """hubmap_2022 allows extra columns: one that looks like the patient's is only named."""
    (notice,) = column_faults(PATH, ["id", "patient_id", "age"], ("id",), ("patient",), is_strict=False)
    assert isinstance(notice, InputNotice)
    assert "'patient'" in notice.rule
