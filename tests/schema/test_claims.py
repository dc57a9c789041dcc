"""Claims: one process has a piece, and its end, however it comes, frees it."""

import errno
import multiprocessing
import os
import signal

import pytest

from histofold.core.faults import InputError
from histofold.schema.claims import Claims

FORK = multiprocessing.get_context("fork")


def hold(path, pieces, told):
    claims = Claims(path)  # its end is that of the process
    told.send([piece for piece in pieces if claims.take(piece)])
    told.recv()
    claims.free(pieces[0])
    told.send("freed")
    told.recv()


def start(path, pieces):
    """Another process, and our end of the talk with it."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=hold, args=(path, pieces, theirs), daemon=True)
    process.start()
    return process, ours


def test_a_piece_has_one_owner_until_it_is_given_back_or_its_owner_dies(tmp_path):
    path = tmp_path / "new" / "claims"
    owner, talk = start(path, [0, 1, 5])
    assert talk.recv() == [0, 1, 5]
    with Claims(path) as ours:
        assert [piece for piece in range(7) if ours.take(piece)] == [2, 3, 4, 6]
        assert ours.take(2), "what is ours already does not stand in our way"
        other, talk_too = start(path, [0, 2, 5])
        assert talk_too.recv() == []
        talk.send("free the first")
        assert talk.recv() == "freed"
        assert ours.take(0)
        assert not ours.take(5)
        os.kill(owner.pid, signal.SIGKILL)
        owner.join()
        assert ours.take(5, wait=True)
        assert ours.take(1)
        other.kill()
        other.join()


def test_a_file_system_without_locks_is_refused_in_words(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    refusal = pytest.raises(InputError, match=r"no locks \(No locks available\).*its own part")
    with Claims(tmp_path / "claims") as claims, refusal:
        claims.take(0)
