"""Files written whole or not at all, and results kept line by line."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside a file, which takes the file's place where all went well and vanishes where not.

    Of several processes that write the file at once the last one wins: each has a temporary file of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, synced before it takes its name."""
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def write_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text with the line ends that it has, whole or not at all."""
    write_bytes_atomically(path, text.encode())


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as csv text with a header, Unix line ends."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()


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
            except ValueError:
                continue  # cut short: what it held is done again
            if isinstance(entry, dict):
                self.entries.append(entry)

    def add(self, entry: dict[str, Any]) -> None:
        """Append an object.

        Raises:
            OSError: If it cannot be written; a later one can still be added.
        """
        line, self._begin = f"{self._begin}{json.dumps(entry)}\n", "\n"
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        self._begin = ""
        self.entries.append(entry)

    def discard(self) -> None:
        """Take the file away: the next entry begins a new one."""
        self.path.unlink(missing_ok=True)
        self._begin = ""
        self.entries.clear()
