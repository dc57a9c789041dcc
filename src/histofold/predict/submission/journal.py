"""A submission that is legal from the first second: fallback rows first, finished rows in an append-only journal."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from histofold.core.log import logger
from histofold.schema.files import LineJournal, write_atomically
from histofold.schema.manifest import Manifest, manifest_json
from histofold.schema.sample import Sample


class SubmissionJournal:
    """Collects the rows of a submission.

    The file holds every id from the moment of entering; it is rebuilt every `interval_s` seconds, at the end and by
    `flush` (as a SIGTERM handler does). Finished rows go to FILE.journal at once, so that a killed run that is started
    again with the same key finds them; the journal is removed when all rows are done.
    """

    def __init__(
        self,
        path: Path,
        file_text: Callable[[Mapping[str, str]], str],
        fallbacks: dict[str, str],
        key: str,
        interval_s: float = 60.0,
    ) -> None:
        """Prepare; nothing is written before entering.

        Args:
            path: The submission.
            file_text: The whole file from each id's row.
            fallbacks: For each id, in order, the legal row that stands while there is none better.
            key: Identifies weights and ids; a journal of another key is discarded.
            interval_s: Seconds between rebuilds of the file.
        """
        self.path = path
        self.done: dict[str, str] = {}
        self._lesser: set[str] = set()
        self._file_text = file_text
        self._fallbacks = fallbacks
        self._key = key
        self._interval_s = interval_s
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="submission-ticker", daemon=True)

    def __enter__(self) -> SubmissionJournal:
        """Take over finished rows of an earlier run, write the file, and start the clock."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._journal = LineJournal(self.path.with_name(f"{self.path.name}.journal"))
        self._take_over()
        self.flush()
        if not self._journal.entries:
            self._journal.add({"key": self._key})
        self._ticker.start()
        return self

    def _take_over(self) -> None:
        """Take the rows of an earlier journal with our key; one of another key is discarded."""
        entries, name = self._journal.entries, self._journal.path.name
        if entries and entries[0].get("key") == self._key:
            rows = {entry["id"]: entry["row"] for entry in entries[1:] if "id" in entry and "row" in entry}
            self.done = {key: rows[key] for key in self._fallbacks if key in rows}
            logger.info("%d rows taken over from %s", len(self.done), name)
        elif self._journal.path.is_file():
            logger.info("%s belongs to other weights or ids and is discarded", name)
            self._journal.discard()

    def add(self, sample_id: str, row: str, final: bool = True) -> None:
        """Record a finished row; one that is not final (time was short) is made again by a later run."""
        with self._lock:
            self.done[sample_id] = row
            if not final:
                self._lesser.add(sample_id)
                return
            try:
                self._journal.add({"id": sample_id, "row": row})
            except OSError as error:
                logger.warning("row of %s is kept in memory alone: %s", sample_id, error)

    def give_up(self, sample_id: str) -> None:
        """Let the fallback row of an image stand for good in this run; a later run tries it again."""
        with self._lock:
            self.done[sample_id] = self._fallbacks[sample_id]

    def flush(self) -> None:
        """Rebuild the file: finished rows, and fallback rows for the others, in order."""
        with self._lock:
            rows = {key: self.done.get(key, fallback) for key, fallback in self._fallbacks.items()}
            write_atomically(self.path, self._file_text(rows))

    def _tick(self) -> None:
        while not self._stopped.wait(self._interval_s):
            with suppress(OSError):  # a full disk may have room the next time, and the last time is not suppressed
                self.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the file a last time; the journal stays unless every row is done and none is a lesser one."""
        self._stopped.set()
        self._ticker.join()
        self.flush()
        if len(self.done) == len(self._fallbacks) and not self._lesser:
            self._journal.discard()


def inputs_digest(manifests: Sequence[Manifest], samples: Sequence[Sample]) -> str:
    """SHA-256 over what a prediction is made from; rows of an interrupted run are taken over only where it agrees.

    It holds the manifests (hence the weights), what the tables say of the samples, and size and time of their files:
    a kernel must not read a hidden set twice before its first row.

    Args:
        manifests: Those of the ensemble, in order.
        samples: What is predicted, in the order of the rows.
    """
    described = [
        [s.id, s.organ, s.source, s.pixel_size_um, s.image_path.name, *_size_and_time(s.image_path)] for s in samples
    ]
    text = json.dumps([[manifest_json(manifest) for manifest in manifests], described])
    return hashlib.sha256(text.encode()).hexdigest()


def _size_and_time(path: Path) -> tuple[int, int]:
    """Size in bytes and time in ns of a file, zeros where it is missing."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return 0, 0
    return status.st_size, status.st_mtime_ns
