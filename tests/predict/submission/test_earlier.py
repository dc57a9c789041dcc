"""A better submission is kept beside the one that takes its place."""

import pytest

from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.core.faults import InputError
from histofold.predict.submission.earlier import earlier_kept


def write(path, *rows):
    path.write_text("".join(f"{line}\n" for line in ("id,rle", *rows)))


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (["a,5 2", "b,7 1"], ["a,5 2", "b,1 1"], True),
        (["a,5 2", "b,1 1"], ["a,5 3", "b,1 1"], False),
        (["a,1 1", "b,1 1"], ["a,1 1", "b,1 1"], False),
    ],
)
def test_only_a_better_one_is_kept(tmp_path, caplog, before, after, kept):
    out = tmp_path / "s.csv"
    write(out, *before)
    with earlier_kept(out, Hubmap2022(), ("ftu",)):
        out.unlink()  # as os.replace puts another file in its place
        write(out, *after)
    assert (tmp_path / "s.earlier.csv").is_file() is kept
    assert ("s.earlier.csv" in caplog.text) is kept
    if kept:
        assert "5 2" in (tmp_path / "s.earlier.csv").read_text()
        assert out.read_text().count("1 1") == 1


def test_a_run_that_fails_leaves_the_better_one_under_a_free_name(tmp_path):
    out = tmp_path / "s.csv"
    write(out, "a,5 2")
    write(tmp_path / "s.earlier.csv", "a,9 9")
    with pytest.raises(RuntimeError, match="x"), earlier_kept(out, Hubmap2022(), ("ftu",)):
        out.unlink()
        write(out, "a,1 1")
        raise RuntimeError("x")
    assert (tmp_path / "s.earlier.csv").read_text() == "id,rle\na,9 9\n"
    assert (tmp_path / "s.earlier2.csv").read_text() == "id,rle\na,5 2\n"


def test_another_table_is_not_overwritten(tmp_path):
    out = tmp_path / "train.csv"
    out.write_text("id,organ,rle\na,lung,1 1\n")
    with (
        pytest.raises(InputError, match="another file lies here, without the columns id, rle"),
        earlier_kept(out, Hubmap2022(), ("ftu",)),
    ):
        raise AssertionError("not begun")
    assert out.read_text().startswith("id,organ")


def test_nothing_and_an_empty_file_are_no_submission(tmp_path):
    for name in ("none.csv", "empty.csv"):
        (tmp_path / "empty.csv").touch()
        with earlier_kept(tmp_path / name, Hubmap2022(), ("ftu",)):
            write(tmp_path / name, "a,1 1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.csv", "none.csv"]
