"""Further files of the images of a submission: what a run must know of them, and which of them are whole."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from histofold.core.objects.detections import Detections
from histofold.core.rle.runs import Masks
from histofold.predict.image import ImageSink
from histofold.schema.files import LineJournal, write_atomically
from histofold.schema.manifest import Manifest
from histofold.schema.sample import Sample

Found = Masks | Detections
"""What an image's row says."""


class ResultSink(ImageSink, Protocol):
    """What writes further files of images: masks, outlines, pictures. What fails in it must never cost a row."""

    def finish(self, found: Found, is_final: bool) -> None:
        """Write the files of an image."""
        ...

    def open(self, samples: Sequence[Sample], manifest: Manifest, out: Path) -> list[str]:
        """Prepare for a run.

        Args:
            samples: What is predicted.
            manifest: Of the weights.
            out: The submission.

        Returns:
            Ids of the samples whose files are missing, or were made from something else.

        Raises:
            InputError: If the files cannot be written where they are to be.
        """
        ...

    def discard(self, sample_ids: Collection[str]) -> None:
        """Take away the files of images that could not be predicted: those there are belong to other weights."""
        ...


class ResultRecord:
    """Which files were made from which weights and images: lines of FILE.csv.results.jsonl beside the submission.

    Without it a mask of other weights that lies in the folder would pass for one of these.

    Args:
        out: The submission.
    """

    own: set[str]
    """Files that a run of this submission has written or begun, of whatever weights and images."""

    def __init__(self, out: Path) -> None:
        self._journal = LineJournal(out.with_name(f"{out.name}.results.jsonl"))
        self.own = {path for entry in self._journal.entries for path in entry.get("files", [])}
        self._made: set[tuple[str, str]] = set()

    def start(self, key: str) -> None:
        """Take over what was made with the same key, which identifies weights and images; all else counts no more."""
        if not self._journal.entries or self._journal.entries[0].get("key") != key:
            self._journal.discard()
            self._journal.path.parent.mkdir(parents=True, exist_ok=True)
            self._journal.add({"key": key, "files": sorted(self.own)})
        made = [entry for entry in self._journal.entries if "id" in entry]
        self._made = {(entry["id"], path) for entry in made for path in entry.get("files", [])}

    def is_made(self, sample_id: str, paths: Collection[Path]) -> bool:
        """Whether all these files of an image were made, and are there still."""
        return all((sample_id, str(path.resolve())) in self._made and path.is_file() for path in paths)

    def claim(self, paths: Collection[Path]) -> None:
        """Record whose files these are before they are written: a run that ends in between must not refuse its own."""
        begun = {str(path.resolve()) for path in paths} - self.own
        if begun:
            self._journal.add({"files": sorted(begun)})
            self.own |= begun

    def add(self, sample_id: str, paths: Collection[Path]) -> None:
        """Record files that are whole."""
        self._journal.add({"id": sample_id, "files": [str(path.resolve()) for path in paths]})


def forget_rows(out: Path, sample_ids: Collection[str]) -> None:
    """Take rows out of the journal of an interrupted submission, so that these images are predicted again."""
    journal = LineJournal(out.with_name(f"{out.name}.journal"))
    kept = [entry for entry in journal.entries if entry.get("id") not in sample_ids]
    if len(kept) < len(journal.entries):
        write_atomically(journal.path, "".join(f"{json.dumps(entry)}\n" for entry in kept))
