"""What the user asks `histofold submit` for, and how far it has come: one file, written whole after every step."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.metadata.kernel import MACHINE_SHAPES
from histofold.kaggle.metadata.report import NAME_FORM, PLACEHOLDER_OWNER
from histofold.schema.parse import load_json, write_json


@dataclass(frozen=True, kw_only=True)
class SubmitRequest:
    """A submission as it is asked for; a value out of range is refused with all faults at once."""

    competition: str
    """The competition."""
    weights: Path = Path("weights")
    """What `histofold package` has written."""
    kernel: Path = Path("kaggle_kernels")
    """The kernel's folder, or the one that holds it under the competition's name."""
    message: str = "histofold"
    """The message of the submission; a tag in brackets is added."""
    owner: str = ""
    """Your Kaggle name, for the placeholder in the metadata; else that of the credentials."""
    timeout_hours: float = 9.0
    """Longest run of the kernel."""
    accelerator: str = ""
    """The machine, as NvidiaTeslaT4; else the one in the kernel's metadata."""
    submit: bool = True
    """Whether to submit what the kernel has written, or to end with its output."""
    again: bool = False
    """Submit anew what was submitted before with the same weights, kernel and message."""
    training: Path | None = None
    """An experiment: train it on Kaggle instead, and fetch the weights."""
    folds: Path | None = None
    """A folds.csv for --training."""
    out: Path = Path("runs/submissions")
    """Where outputs, logs, states and the ledger are kept."""
    poll_seconds: float = 10.0
    """The first pause between two questions to Kaggle; later ones are longer."""

    def __post_init__(self) -> None:
        faults = []
        if not 1 / 60 <= self.timeout_hours <= 12:  # NaN neither
            rule = f"{self.timeout_hours:g} hours; Kaggle lets a kernel run 12 hours at most"
            faults.append(("timeout-hours", rule, "give a number of hours up to 12"))
        if self.accelerator not in ("", *MACHINE_SHAPES):
            remedy = f"use one of: {', '.join(MACHINE_SHAPES)}"
            faults.append(("accelerator", f"{self.accelerator!r} is not a machine", remedy))
        if self.owner == PLACEHOLDER_OWNER or (self.owner and not NAME_FORM.fullmatch(self.owner)):
            remedy = "give the name in the address of your profile"
            faults.append(("owner", f"{self.owner!r} is not an account's name", remedy))
        if not 0 <= self.poll_seconds <= 3600:
            faults.append(("poll-seconds", f"{self.poll_seconds:g} is out of range", "give 0 to 3600 seconds"))
        if self.folds is not None and self.training is None:
            faults.append(("folds", "it is for --training EXPERIMENT", "give that too, or leave it out"))
        if faults:
            raise InputError([Fault(f"--{name}", "command line", rule, remedy) for name, rule, remedy in faults])

    @property
    def timeout_s(self) -> int:
        """Longest run of the kernel in seconds."""
        return round(3600 * self.timeout_hours)

    @property
    def submits(self) -> bool:
        """Whether a submission is made of the kernel's output; a training run has none."""
        return self.submit and self.training is None


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What Kaggle says about a submission; empty texts where it says nothing."""

    ref: str = ""
    """Its number."""
    status: str = ""
    """PENDING, COMPLETE or ERROR."""
    error: str = ""
    """The site's words where it failed."""
    public_score: str = ""
    """Score on the public part, as the site writes it."""
    private_score: str = ""
    """Score on the private part."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ("COMPLETE", "ERROR")


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What was put into a dataset or kernel at Kaggle's last; one that was refused or found broken is forgotten."""

    content: str
    """What it is: a digest of the dataset's files, the name of the submission that the kernel is run for."""
    before: int
    """Newest version before it began."""
    version: int = 0
    """Its version; 0: it was begun, and may have arrived or not."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What of a request is done. A step that is done is never done again."""

    name: str
    """Name of its folder, which the message of the submission carries as its tag."""
    dataset_version: int = 0
    """The version of the dataset that the kernel was pushed onto."""
    kernel_version: int = 0
    """Our version of the kernel; 0: none was pushed, or it failed."""
    output_fetched: bool = False
    """Whether its output and log are here."""
    submission: Submission = field(default_factory=Submission)
    """What Kaggle says of it; without a number where none is known."""
    in_ledger: bool = False
    """Whether the ledger has its line."""

    def is_done(self, submits: bool) -> bool:
        """Whether nothing is left of a request, which may end with the kernel's output."""
        return self.in_ledger if submits else self.output_fetched


@dataclass(kw_only=True)
class SubmitState:
    """All that is known of the submissions to a competition from here."""

    uploads: dict[str, Upload] = field(default_factory=dict)
    """By the name of dataset or kernel, owner/slug."""
    requests: dict[str, Progress] = field(default_factory=dict)
    """By a digest of all that was asked for."""


class StateFile:
    """The state of a competition's submissions and the file that holds it, OUT/COMPETITION.json.

    Raises:
        InputError: The file is no state.
    """

    def __init__(self, out: Path, competition: str) -> None:
        self.path = out / f"{competition}.json"
        self.state = _load_state(self.path) if self.path.exists() else SubmitState()

    def note_upload(self, name: str, upload: Upload | None) -> None:
        """Write down what was put into a dataset or kernel; None forgets it."""
        self.state.uploads.pop(name, None)
        if upload is not None:
            self.state.uploads[name] = upload
        write_json(self.path, self.state)

    def note_progress(self, key: str, progress: Progress) -> None:
        """Write down how far a request has come."""
        self.state.requests[key] = progress
        write_json(self.path, self.state)

    def shares(self, name: str) -> bool:
        """Whether submissions to another competition from here put something of theirs into the same dataset."""
        others = (path for path in self.path.parent.glob("*.json") if path != self.path)
        return any(name in _load_state(path).uploads for path in others)


def _load_state(path: Path) -> SubmitState:
    return load_json(SubmitState, path, "move it away: all that it knew of is then put up anew")


@contextlib.contextmanager
def locked(out: Path, competition: str) -> Iterator[int]:
    """Keep others from submitting to the same competition; waits for them.

    The lock belongs to an open file that the client's processes inherit: where we are killed while one of them is
    still uploading, the next start waits for it, and then sees what it has done.

    Yields:
        The descriptor of the locked file.
    """
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out / f".{competition}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another submission to %s is at work here: waiting for its end", competition)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
