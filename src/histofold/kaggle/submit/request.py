"""What the user asks `histofold submit` for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from histofold.core.faults import Fault, InputError
from histofold.kaggle.metadata.kernel import MACHINE_SHAPES
from histofold.kaggle.metadata.report import NAME_FORM, PLACEHOLDER_OWNER


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
