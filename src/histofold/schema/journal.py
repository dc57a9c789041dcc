"""Results kept line by line, so that an interrupted call goes on where it stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


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
