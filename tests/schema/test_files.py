"""Files written whole or not at all, on a disk that is full too; and files of weights that are whole or not."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from half_written import leave_half_written
from histofold.commands.main import run_verb
from histofold.schema.files import (
    DISK_ERRORS,
    LineJournal,
    disk_fault,
    remove_leftovers,
    weights_rule,
    write_atomically,
    written_whole,
)


def full_disk(monkeypatch, code=errno.ENOSPC):
    """Let every fsync fail as on a full disk: without the name of a file."""

    def fail(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.parametrize("code", DISK_ERRORS)
def test_a_disk_that_fails_is_named_with_the_file_and_leaves_the_old_content(tmp_path, monkeypatch, code):
    path = tmp_path / "table.csv"
    write_atomically(path, "old")
    full_disk(monkeypatch, code)
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        write_atomically(path, "new")
    fault = disk_fault(caught.value)
    assert (fault.file, fault.rule) == (str(path), DISK_ERRORS[code][0])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_libraries_make_of_a_full_disk_is_seen(tmp_path):
    path = tmp_path / "state.pt"
    with pytest.raises(RuntimeError) as caught, written_whole(path):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 -- as torch does
    assert str(disk_fault(caught.value)).startswith(f"state.pt: {path}: the disk is full")
    for text in ("I/O error: No space left on device (os error 28)", "[Errno 28] No space", "database or disk is full"):
        assert disk_fault(ValueError(text)).rule == "the disk is full"
    assert disk_fault(ValueError("unexpected pos 704 vs 598")) is None
    assert disk_fault(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None


def test_a_verb_says_that_the_disk_is_full_and_exits_2(monkeypatch, capsys, tmp_path):
    full_disk(monkeypatch)
    monkeypatch.setattr("histofold.commands.kernel.run", lambda arguments: write_atomically(tmp_path / "k.py", "x"))
    assert run_verb("kernel", []) == 2
    told = capsys.readouterr().err
    assert f"k.py: {tmp_path / 'k.py'}: the disk is full; free some space" in told
    assert "Traceback" not in told


def test_a_journal_on_a_full_disk_keeps_its_lines(tmp_path, monkeypatch):
    journal = LineJournal(tmp_path / "j.jsonl")
    journal.add({"id": "a"})
    with monkeypatch.context() as patch:
        full_disk(patch)
        with pytest.raises(OSError, match="No space"):
            journal.add({"id": "b"})
    journal.add({"id": "c"})
    assert [entry["id"] for entry in LineJournal(tmp_path / "j.jsonl").entries if entry["id"] != "b"] == ["a", "c"]


def test_what_a_killed_process_left_half_written_goes_and_what_others_write_stays(tmp_path):
    leave_half_written(tmp_path / "a.csv")
    (left,) = tmp_path.iterdir()
    other = tmp_path / left.name.replace(".a.csv.", ".a.csv.elsewhere")
    other.touch()
    with written_whole(tmp_path / "b.csv") as mine:
        mine.write_text("whole")
        remove_leftovers(tmp_path, tmp_path / "nothing here")
        assert sorted(tmp_path.iterdir()) == sorted([other, mine])
    assert (tmp_path / "b.csv").read_text() == "whole"


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.arange(6, dtype=np.float32), "b": np.zeros((2, 3), np.float16)}, path)
    return path


def test_whole_weights_break_no_rule_and_every_cut_of_them_does(weights):
    assert weights_rule(weights) == ""
    content = weights.read_bytes()
    for size in range(len(content)):
        weights.write_bytes(content[:size])
        assert weights_rule(weights), size
    weights.write_bytes(content + b"\0")
    assert "longer than its header says" in weights_rule(weights)


@pytest.mark.parametrize("content", [b"", b"not ours at all", bytes(100), b"\x02" + bytes(7) + b"[]", b"\xff" * 64])
def test_what_is_no_file_of_weights_breaks_a_rule(tmp_path: Path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert "no " in weights_rule(path)
