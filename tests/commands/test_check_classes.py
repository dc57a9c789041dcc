"""`histofold check submission` on submissions of several classes."""

import cv2
import numpy as np
import pytest

from histofold.commands.main import main


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data" / "images").mkdir(parents=True)
    for name in "ab":
        cv2.imwrite(str(tmp_path / "data" / "images" / f"{name}.png"), np.zeros((6, 9, 3), np.uint8))
    return tmp_path / "data"


def checked(path, rows, *more, header="id,class,rle"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return main(["check", "submission", str(path), *more])


def test_a_row_for_each_id_and_class_is_accepted(tmp_path, data, capsys):
    rows = ["a,x,1 54", "a,y,", "b,x,2 3 9 1", "b,y,"]
    assert checked(tmp_path / "s.csv", rows) == 0
    assert "without --data" in capsys.readouterr().out
    assert checked(tmp_path / "s.csv", rows, "--data", str(data)) == 0
    assert "no faults" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["a,x,", "a,y,", "b,x,"], "its rows are of x and those of the first id of x, y"),
        (["a,x,", "a,y,", "b,y,", "b,x,"], "its rows are of y, x"),
        (["a,x,", "b,x,", "a,y,", "b,y,"], "its rows are of x and"),
        (["a,x,", "a,y,", "b,x,", "b,y,", "b,y,"], "duplicate id and class"),
        (["a,x,", "b,x,"], "single class 'x'"),
        (["a,x,", "a,,", "b,x,", "b,,"], "row without a class"),
        (["a,x,", "a,y,", "b,x,1", "b,y,"], "malformed rle"),
        (["a,x,", "a,y,", "b,x,50 6", "b,y,"], "malformed rle"),
        (["b,x,", "b,y,", "a,x,", "a,y,"], "2 ids that are not the 2 of"),
        (["a,x,", "a,y,"], "1 ids that are not the 2 of"),
    ],
)
def test_what_is_wrong_with_rows_of_classes_is_named(tmp_path, data, capsys, rows, words):
    assert checked(tmp_path / "s.csv", rows, "--data", str(data)) == 2
    assert words in capsys.readouterr().err


def test_hosts_of_one_mask_have_no_column_of_classes(tmp_path, capsys):
    assert checked(tmp_path / "s.csv", ["a,x,1 2"], "--competition", "hubmap_2022") == 2
    assert "write exactly id, rle" in capsys.readouterr().err
    assert checked(tmp_path / "s.csv", ["x,a,1 2", "y,a,"], header="class,id,rle") == 2
    assert "column" in capsys.readouterr().err
