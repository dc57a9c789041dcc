"""How far a submission has come: one file, written whole after every step, and the lock beside it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from histofold.core.faults import InputError
from histofold.core.log import logger
from histofold.kaggle.submit.client import Submission
from histofold.schema.files import write_atomically
from histofold.schema.parse import load_json, plain

STATE_NAME = "state.json"


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A dataset or a kernel at Kaggle's, and which of its versions is ours."""

    name: str
    """owner/slug."""
    before: int = -1
    """Its newest version before our upload began; -1: it has not begun."""
    version: int = 0
    """Our version; 0: none is known."""
    anew: bool = False
    """Whether these files were found broken there, so that no version that is there is taken for them."""

    def forgotten(self, anew: bool = False) -> Upload:
        """The same before anything was uploaded."""
        return Upload(name=self.name, anew=anew)

    def takes_over(self, newest: int, others: Iterable[Upload]) -> bool:
        """Whether the newest version is ours: made by an earlier start that was killed before it could note it.

        It may be another request's where that made a version since, or began to and was killed.
        """
        return 0 <= self.before < newest and not any(
            other.name == self.name
            and (other.version > self.before or (not other.version and other.before >= self.before))
            for other in others
        )


@dataclass(frozen=True, kw_only=True)
class SubmitState:
    """What was asked for, and what of it is done. A step that is done is never done again."""

    key: str
    """Digest of all that was asked for."""
    name: str
    """Name of the folder, which the message of the submission carries as its tag."""
    competition: str
    """Name of the adapter."""
    weights_sha256: str
    """Digest of the dataset's files and metadata."""
    kernel_sha256: str
    """Digest of the kernel's code and metadata."""
    dataset: Upload
    """The dataset of the weights; its version is known once Kaggle has processed it."""
    kernel: Upload
    """The kernel."""
    kernel_done: bool = False
    """Whether that version has run to its end."""
    attempts: int = 0
    """Runs of the kernel that failed."""
    output_fetched: bool = False
    """Whether its output and log are here."""
    submitting: bool = False
    """Whether the submission has been asked for; it may have reached Kaggle or not."""
    submission: Submission = field(default_factory=Submission)
    """What Kaggle says of it; without a number where none is known."""
    in_ledger: bool = False
    """Whether the ledger has its line."""


class StateFile:
    """A state and the file that holds it."""

    def __init__(self, folder: Path, state: SubmitState) -> None:
        self.folder, self.state = folder, state

    def update(self, **changes: Any) -> None:
        """Change the state, and write it whole."""
        self.state = replace(self.state, **changes)
        write_atomically(self.folder / STATE_NAME, json.dumps(plain(self.state), indent=2) + "\n")


def read_states(root: Path) -> list[StateFile]:
    """All states below a folder, oldest first; those that cannot be read are named and left."""
    found = []
    for path in sorted(root.glob(f"*/{STATE_NAME}")):
        try:
            found.append(StateFile(path.parent, load_json(SubmitState, path)))
        except InputError as error:
            logger.warning("%s is left alone: %s", path.parent, error)
    return found


@contextlib.contextmanager
def locked(root: Path, competition: str) -> Iterator[int]:
    """Keep others from submitting to the same competition; waits for them.

    The lock belongs to an open file that the client's processes inherit: where we are killed while one of them is
    still uploading, the next start waits for it, and then sees what it has done.

    Yields:
        The descriptor of the locked file.
    """
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / f".{competition}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another submission to %s is at work here: waiting for its end", competition)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
