"""Work that any number of processes on any number of machines share: each claims what is free, and its end frees it."""

from __future__ import annotations

import fcntl
from pathlib import Path

from histofold.core.faults import Fault, InputError


class Claims:
    """Claims on numbered pieces of work, as locks on the bytes of one file.

    The system gives a lock to one process alone and takes it back when that process ends, however it ends, so that no
    clock has to say that an owner is gone. On a file system of several machines that needs its locks to reach all of
    them, as those of NFS and Lustre do unless they are mounted otherwise.

    Args:
        path: The file, on a file system that all processes see; it is made where it is missing and stays empty.

    Example:
        >>> with Claims(Path("parts.lock")) as claims:
        ...     mine = [part for part in range(8) if claims.take(part)]
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._stream = path.open("ab")

    def __enter__(self) -> Claims:
        """The claims; they end with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def take(self, piece: int, wait: bool = False) -> bool:
        """Claim a piece.

        Args:
            piece: Its number, from 0; a process has one `Claims` of a file, whose own claims never stand in its way.
            wait: Whether to wait until it is free.

        Returns:
            Whether it is ours now; False where another process has it.

        Raises:
            InputError: If the file system has no locks.
        """
        try:
            fcntl.lockf(self._stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, piece)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            rule = f"its file system has no locks ({error.strerror})"
            remedy = "lay it on another one, or give each process its own part"
            raise InputError([Fault(self._path.name, str(self._path), rule, remedy)]) from error
        return True

    def free(self, piece: int) -> None:
        """Give a piece back."""
        fcntl.lockf(self._stream, fcntl.LOCK_UN, 1, piece)
