"""Tables of truth: one row an object, and texts that a program cut off."""

import numpy as np
import pandas as pd
import pytest

from histofold.competitions.labels import SPREADSHEET_CHARACTERS, cut_texts, join_object_rows, scan_training_table
from histofold.core.faults import InputNotice, parted
from histofold.core.rle.runs import decode_rle, encode_rle

SHAPE = (23, 37)


def text_of(length):
    """Run lengths of exactly so many characters."""
    text = " ".join(f"{2 * number + 1} 1" for number in range(length))[:length]
    return text[:-2] + " 1" if text.endswith(" ") else text


def test_rows_of_objects_become_their_union(tmp_path):
    rng = np.random.default_rng(0)
    objects = [rng.random(SHAPE) < 0.2 for _ in range(5)]
    objects[0][0, 0] = objects[1][-1, -1] = objects[2][0, 0] = True
    rows = pd.DataFrame([("a", encode_rle(mask)) for mask in objects] + [("b", "1 2")], columns=["id", "rle"])
    table, (notice,) = join_object_rows(tmp_path / "t.csv", rows, ("id",), "rle")
    assert table["id"].tolist() == ["a", "b"]
    np.testing.assert_array_equal(decode_rle(table["rle"][0], SHAPE), np.any(objects, axis=0))
    assert isinstance(notice, InputNotice)
    assert "5 rows of 1 images" in notice.rule


@pytest.mark.parametrize(
    "rows",
    [
        [("a", "lung", "1 2"), ("a", "lung", "1 2")],
        [("a", "lung", "1 2"), ("a", "kidney", "3 2")],
        [("a", "lung", "1 2"), ("a", "lung", "")],
    ],
)
def test_rows_that_are_equal_or_contradict_are_not_joined(tmp_path, rows):
    table = pd.DataFrame(rows, columns=["id", "organ", "rle"])
    joined, notices = join_object_rows(tmp_path / "t.csv", table, ("id",), "rle", ("organ",))
    assert len(joined) == 2
    assert notices == []


def test_columns_that_nobody_reads_may_differ_between_objects(tmp_path):
    rows = [("a", "1", "1 2"), ("a", "2", "7 2"), ("a", "3", "7 2"), ("b", "4", "5 1")]
    table = pd.DataFrame(rows, columns=["id", "object", "rle"])
    joined, notices = join_object_rows(tmp_path / "t.csv", table, ("id",), "rle", ("id", "rle"))
    assert joined["rle"].tolist() == ["1 2 7 2", "5 1"]
    assert len(notices) == 1


@pytest.mark.parametrize(
    ("lengths", "cut"),
    [
        ([100, SPREADSHEET_CHARACTERS, 40_000], [False, True, False]),
        ([100, SPREADSHEET_CHARACTERS, SPREADSHEET_CHARACTERS], [False, True, True]),
        ([900, 1200, 1300], [False] * 3),
    ],
)
def test_cells_that_a_spreadsheet_cut(lengths, cut):
    assert cut_texts([text_of(length) for length in lengths]) == cut


def test_cells_that_end_where_another_of_their_length_does():
    long = " ".join(f"{10 * number + 10} 3" for number in range(200))
    other = long.replace("10 3", "11 2", 1)
    assert cut_texts([long[:255], other[:255], "1 2"]) == [True, True, False]
    odd = [long[:500], other[:500]]  # of a limit that nobody knows, one of them within a pair
    assert [len(text.split()) % 2 for text in odd] == [0, 0] or cut_texts([*odd, "1 2"]) == [True, True, False]
    assert cut_texts(["1 2", "3 4"]) == [False, False], "short ones are of one length by chance"
    assert cut_texts([long, long]) == [False, False], "one and the same mask"
    assert cut_texts([]) == []


@pytest.fixture
def training(tmp_path):
    (tmp_path / "images").mkdir()
    for name in "ab":
        (tmp_path / "images" / f"{name}.tiff").write_bytes(b"x")

    def scan(*lines):
        (tmp_path / "train.csv").write_text("\n".join(["id,organ,rle", *lines]) + "\n")
        rows, found = scan_training_table(tmp_path / "train.csv", ("id", "organ", "rle"), tmp_path / "images", "rle")
        return rows, *parted(found)

    return scan


def test_a_training_table_of_objects(training):
    rows, faults, notices = training("a,lung,1 2", "a,lung,2 5", "b,lung,9 9")
    assert [(row["id"], row["rle"]) for row in rows] == [("a", "1 6"), ("b", "9 9")]
    assert faults == []
    assert len(notices) == 1


def test_two_rows_of_an_id_where_an_image_has_none_are_a_mistake(training):
    _, faults, notices = training("a,lung,1 2", "a,lung,2 5")
    assert [(fault.id, fault.rule) for fault in faults] == [("a", "duplicate id")]
    assert [notice.rule for notice in notices] == ["1 images have no row in train.csv, the first is b"]


def test_ids_of_a_training_table_are_those_of_the_images(training):
    rows, faults, notices = training("A.tiff,lung,1 2", "b,lung,9 9")
    assert [row["id"] for row in rows] == ["a", "b"]
    assert faults == []
    assert "'A.tiff' is 'a'" in notices[0].rule


def test_a_text_that_was_cut_is_named_once_and_not_read(training):
    rows, faults, _ = training(f"a,lung,{text_of(SPREADSHEET_CHARACTERS)}", "b,lung,9 9")
    assert [fault.id for fault in faults] == ["a"]
    assert "32,767 characters: it was cut off" in faults[0].rule
    assert ["rle" in row for row in rows] == [False, True]


def test_ids_of_a_host_are_names_without_folders(training):
    assert [fault.id for fault in training("a,lung,1 2", "b,lung,1 2", "deep/c,lung,1 2")[1]] == ["deep/c"]
