"""Files written whole or not at all, and results kept line by line."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import platform
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from histofold.core.faults import Fault
from histofold.core.log import logger

DISK_ERRORS = {
    errno.ENOSPC: ("the disk is full", "free some space and run the same command again"),
    errno.EDQUOT: ("the disk quota is used up", "free some space and run the same command again"),
    errno.EFBIG: ("the file grows larger than the disk or the system allows", "raise that limit, or write elsewhere"),
    errno.EROFS: ("the disk can only be read", "write to another folder"),
    errno.EACCES: ("permission denied", "change the permissions, or take another folder"),
    errno.EPERM: ("permission denied", "change the permissions, or take another folder"),
    errno.EIO: ("the disk fails to read or write", "check the disk, and run the same command again"),
}
"""What the disk may say: the rule in words, and the remedy."""
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a folder of a model from a hub has its weights in."""
MOVED_LEVELS = 4
"""How far above a file a project may begin: runs/E/fold0/experiment.toml."""
_DISK_TEXTS = {"database or disk is full": errno.ENOSPC, "disk I/O error": errno.EIO, "readonly database": errno.EROFS}


def weights_file(path: Path) -> Path:
    """The file that holds the weights a path names: itself, or of a folder the one that hubs keep there."""
    if not path.is_dir():
        return path
    return next((path / name for name in FOLDER_FILES if (path / name).is_file()), path / FOLDER_FILES[0])


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside a file, which takes the file's place where all went well and vanishes where not.

    Of several processes that write the file at once the last one wins: each has a temporary file of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_machine()}-{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        error.add_note(str(path))  # a full disk, or a library that meets one, does not name the file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _machine() -> str:
    """Names this machine: others that share a disk with it have processes of the same numbers."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def remove_leftovers(*folders: Path) -> None:
    """Take away what `written_whole` left half-written in folders, not below them, where its process was killed.

    Files of processes that live, or of other machines, stay.
    """
    for path in (found for folder in folders for found in folder.glob(f".*.{_machine()}-*.tmp")):
        number = path.name.rpartition("-")[2].removesuffix(".tmp")
        if number.isdecimal() and not _is_alive(int(number)):
            path.unlink(missing_ok=True)
            logger.info("%s is of a process that was killed: removed", path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks and does nothing
    except PermissionError:
        return True  # of another user
    except (ProcessLookupError, OverflowError):
        return False
    return True


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, synced before it takes its name."""
    write_pieces_atomically(path, [content])


def write_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text with the line ends that it has, whole or not at all."""
    write_bytes_atomically(path, text.encode())


def write_pieces_atomically(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file piece by piece as it comes, whole or not at all, synced before it takes its name."""
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        stream.writelines(pieces)
        stream.flush()
        os.fsync(stream.fileno())


def disk_fault(error: BaseException) -> Fault | None:
    """The fault of the disk behind an error, that of a library which wrote to it included; None where there is none.

    torch and safetensors make errors of their own of what the system said, which stands in their text or their cause.
    """
    number, file, link = 0, "", error
    while link is not None:
        text = str(link)
        said = re.search(r"(?:os error |Errno )(\d+)", text)
        found = getattr(link, "errno", None) or (int(said[1]) if said else 0)
        found = found or next((code for words, code in _DISK_TEXTS.items() if words in text), 0)
        number = number or (found if found in DISK_ERRORS else 0)
        notes = getattr(link, "__notes__", [""])
        file = file or notes[0] or str(getattr(link, "filename", None) or "")
        link = link.__cause__ or link.__context__  # type: ignore[assignment]
    return Fault(Path(file).name or "disk", file or "a file", *DISK_ERRORS[number]) if number else None


def weights_rule(path: Path) -> str:
    """The rule that a .safetensors file breaks by its header and length, empty where it is whole.

    Args:
        path: The file, which is not loaded.
    """
    with path.open("rb") as stream:
        size, header_bytes = path.stat().st_size, int.from_bytes(stream.read(8), "little")
        if not 2 <= header_bytes <= size - 8:
            return f"no whole file of weights ({size} bytes): it is empty, cut short or something else"
        try:
            header = json.loads(stream.read(header_bytes))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            wanted = 8 + header_bytes + max(ends)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return "no file of weights: its header cannot be read"
    return "" if size == wanted else f"cut short, or longer than its header says: {size} of {wanted} bytes"


def moved_path(path: Path, beside: Path) -> Path:
    """Where a path that a file names leads after a project was moved.

    Args:
        path: What the file names.
        beside: The file or folder that names it.

    Returns:
        The path itself where there is something; else the longest of its ends that is there below the nearest folder
        above `beside`; else the path itself.
    """
    ends = [Path(*path.parts[place:]) for place in range(int(path.is_absolute()), len(path.parts))]
    if not path.exists():
        for end in ends:
            for folder in beside.resolve().parents[:MOVED_LEVELS]:
                if (folder / end).exists():
                    logger.info("%s is not there: %s is taken, near %s", path, folder / end, beside)
                    return folder / end
    return path


def csv_lines(rows: Iterable[Sequence[str]]) -> str:
    """Rows as csv text, Unix line ends."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as csv text with a header."""
    return csv_lines([columns, *rows])


class LineJournal:
    """JSON objects, one a line, appended as they come and on the disk when `add` returns.

    A line that a kill or a full disk cut short is left out, and the next one begins on a line of its own.

    Example:
        >>> journal = LineJournal(Path("scores.jsonl"))
        >>> done = {entry["id"]: entry["score"] for entry in journal.entries}
        >>> journal.add({"id": "10044", "score": 0.87})
    """

    def __init__(self, path: Path) -> None:
        """Read what is there; nothing is written before the first `add`."""
        self.path = path
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        self._begin = "" if text.endswith("\n") or not text else "\n"
        self.entries: list[dict[str, Any]] = []
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue  # cut short: what it held is done again
            if isinstance(entry, dict):
                self.entries.append(entry)

    def add(self, entry: dict[str, Any]) -> None:
        """Append an object.

        Raises:
            OSError: If it cannot be written; a later one can still be added.
        """
        line, self._begin = f"{self._begin}{json.dumps(entry)}\n", "\n"
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            error.add_note(str(self.path))  # a full disk does not name the file
            raise
        self._begin = ""
        self.entries.append(entry)

    def discard(self) -> None:
        """Take the file away: the next entry begins a new one."""
        self.path.unlink(missing_ok=True)
        self._begin = ""
        self.entries.clear()
