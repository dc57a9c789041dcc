import json

import pytest

from histofold.schema.files import LineJournal


def test_what_was_added_is_there_again(tmp_path):
    path = tmp_path / "journal.jsonl"
    entries = [{"key": "a", "n": 1}, {"key": "ä", "n": [1, 2]}]
    journal = LineJournal(path)
    assert journal.entries == []
    for entry in entries:
        journal.add(entry)
    assert LineJournal(path).entries == entries


def test_a_line_cut_short_is_lost_alone(tmp_path):
    path = tmp_path / "journal.jsonl"
    whole = json.dumps({"key": "a"}) + "\n"
    for length in range(1, len(whole)):
        path.write_text(whole + whole[:length])
        LineJournal(path).add({"key": "b"})
        found = [entry["key"] for entry in LineJournal(path).entries]
        assert found in (["a", "b"], ["a", "a", "b"]), length


def test_an_entry_that_could_not_be_written_costs_no_other(tmp_path, monkeypatch):
    journal = LineJournal(tmp_path / "journal.jsonl")
    journal.add({"key": "a"})

    def full(number):
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr("os.fsync", full)
        journal.add({"key": "b"})
    journal.path.write_bytes(journal.path.read_bytes()[:-3])
    journal.add({"key": "c"})
    assert [entry["key"] for entry in LineJournal(journal.path).entries] == ["a", "c"]
    journal.discard()
    assert not journal.path.exists()
    assert journal.entries == []
