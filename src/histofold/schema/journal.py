"""Results kept line by line, so that an interrupted call goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class LineJournal:
    """JSON objects, one a line, appended as they come.

    A line that a kill cut short is left out, and the next one begins on a line of its own.
    """

    def __init__(self, path: Path) -> None:
        """Read what is there."""
        self._path = path
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        self._begin = "" if text.endswith("\n") or not text else "\n"
        self.entries: list[dict[str, Any]] = []
        for line in text.splitlines():
            try:
                self.entries.append(json.loads(line))
            except ValueError:
                continue  # cut short: what it told is done again

    def add(self, entry: dict[str, Any]) -> None:
        """Append an object."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(self._begin + json.dumps(entry) + "\n")
        self._begin = ""
