import csv
import time

import pytest

from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.predict.submission.journal import SubmissionJournal
from histofold.schema.files import LineJournal

IDS = {"10": "1 1", "2": "1 1", "x": "1 1"}


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def journal(path, key="k", **options):
    return SubmissionJournal(path, Hubmap2022().submission_text, IDS, key, **options)


def test_a_legal_file_stands_from_the_first_second(tmp_path):
    path = tmp_path / "deep" / "submission.csv"
    with journal(path):
        assert rows_of(path) == [["id", "rle"], ["10", "1 1"], ["2", "1 1"], ["x", "1 1"]]


def test_order_and_rows_at_the_end_and_no_journal_left(tmp_path):
    path = tmp_path / "s.csv"
    with journal(path) as held:
        for key in ("x", "10", "2"):
            held.add(key, f"{len(key)} 5")
    assert rows_of(path)[1:] == [["10", "2 5"], ["2", "1 5"], ["x", "1 5"]]
    assert [p.name for p in tmp_path.iterdir()] == ["s.csv"]


def test_an_error_inside_still_writes_what_there_is(tmp_path):
    path = tmp_path / "s.csv"
    with pytest.raises(RuntimeError), journal(path) as held:
        held.add("2", "7 7")
        raise RuntimeError
    assert rows_of(path)[2] == ["2", "7 7"]
    assert (tmp_path / "s.csv.journal").is_file()


def test_a_restarted_run_takes_finished_rows_over(tmp_path):
    path = tmp_path / "s.csv"
    with pytest.raises(RuntimeError), journal(path) as held:
        held.add("2", "7 7")
        held.add("x", "9 9")
        raise RuntimeError
    cut = (tmp_path / "s.csv.journal").read_text()[:-8]  # a kill in the middle of the last line
    (tmp_path / "s.csv.journal").write_text(cut)
    with journal(path) as held:
        assert held.done == {"2": "7 7"}
        held.add("x", "8 8")
        entries = LineJournal(tmp_path / "s.csv.journal").entries
        assert [entry.get("id") for entry in entries] == [None, "2", "x"]
    assert rows_of(path)[1:] == [["10", "1 1"], ["2", "7 7"], ["x", "8 8"]]


def test_a_journal_of_other_weights_is_discarded(tmp_path):
    path = tmp_path / "s.csv"
    with pytest.raises(RuntimeError), journal(path) as held:
        held.add("2", "7 7")
        raise RuntimeError
    with journal(path, key="other") as held:
        assert held.done == {}
    assert rows_of(path)[2] == ["2", "1 1"]


def test_the_csv_is_rebuilt_by_the_clock(tmp_path):
    path = tmp_path / "s.csv"
    with journal(path, interval_s=0.02) as held:
        held.add("2", "7 7")
        deadline = time.monotonic() + 60
        while rows_of(path)[2] != ["2", "7 7"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert rows_of(path)[2] == ["2", "7 7"]


def test_rows_that_are_not_final_are_made_again(tmp_path):
    path = tmp_path / "s.csv"
    with pytest.raises(RuntimeError), journal(path) as held:
        held.add("2", "7 7", final=False)
        raise RuntimeError
    assert rows_of(path)[2] == ["2", "7 7"]
    with journal(path) as held:
        assert held.done == {}


def test_a_full_disk_keeps_the_row(tmp_path, monkeypatch):
    path = tmp_path / "s.csv"

    def full(entry):
        raise OSError("no space left")

    with journal(path) as held:
        monkeypatch.setattr(held._journal, "add", full)
        held.add("2", "7 7")
    assert rows_of(path)[2] == ["2", "7 7"]


def test_a_journal_of_nonsense_is_discarded(tmp_path):
    path = tmp_path / "s.csv"
    (tmp_path / "s.csv.journal").write_text("5\n")
    with journal(path) as held:
        assert held.done == {}


def test_rows_given_up_are_tried_again_by_the_next_run(tmp_path):
    path = tmp_path / "s.csv"
    with pytest.raises(RuntimeError), journal(path) as held:
        held.give_up("2")
        raise RuntimeError
    with journal(path) as held:
        assert "2" not in held.done
    assert rows_of(path)[2] == ["2", "1 1"]
