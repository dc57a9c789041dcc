"""`histofold submit C`: weights and kernel to Kaggle, and the score back."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from histofold.commands.options import parse_options
from histofold.competitions.registry import get_competition
from histofold.core.faults import InputError
from histofold.kaggle.submit.inputs import SubmitRequest
from histofold.kaggle.submit.request import planned_commands, run_request
from histofold.kaggle.submit.state import SubmitState, locked
from histofold.kaggle.submit.wait import Patience


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """Upload the weights, run the kernel, fetch its output, submit it, and note the score in submissions.jsonl.

    Every finished step is written down: the same command, started again, goes on where it stopped. Nothing is uploaded
    when a check fails. Kaggle's own client is used, and reads the credentials: pip install -e '.[kaggle]'.
    """

    competition: tyro.conf.Positional[str]
    """The competition."""
    weights: Path = Path("weights")
    """What `histofold package` has written."""
    kernel: Path = Path("kaggle_kernels")
    """The kernel's folder, or the one that holds it under the competition's name."""
    message: str = "histofold"
    """The message of the submission; a tag in brackets is added."""
    owner: str = ""
    """Your Kaggle name, for the placeholder in the metadata; else that of the credentials."""
    dry_run: bool = False
    """Check everything and print every command that would be run; ask nobody, write nothing."""
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


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(SubmitOptions, "submit", arguments)
    if not 0 <= options.poll_seconds <= 3600:
        raise InputError(f"--poll-seconds {options.poll_seconds:g} must lie between 0 and 3600")
    if options.folds is not None and options.training is None:
        raise InputError("--folds is for --training EXPERIMENT: give that too, or leave it out")
    if options.dry_run:
        with tempfile.TemporaryDirectory() as scratch:  # a training run's folders are written to be checked
            request = _request(replace(options, out=Path(scratch)))
            print("\n".join(planned_commands(request, options.out)))
        return 0
    request = _request(options)
    longest_s = min(300.0, 30 * options.poll_seconds)
    patience = Patience(first_s=options.poll_seconds, longest_s=max(longest_s, options.poll_seconds))
    state = run_request(request, options.out, patience, options.again)
    print(_words(state, options.out))
    return 0


def _request(options: SubmitOptions) -> SubmitRequest:
    """The request; of a training run its folders are written first, unless this is a dry run.

    Raises:
        InputError: If the competition is unknown or not Kaggle's, or an option is out of range.
    """
    slug = get_competition(options.competition).slug
    weights, kernel = options.weights, options.kernel
    if options.training is not None:
        weights, kernel = _training_folders(options, slug)
    elif (kernel / options.competition).is_dir():
        kernel = kernel / options.competition
    return SubmitRequest(
        competition=options.competition,
        slug=slug,
        weights=weights,
        kernel=kernel,
        message=options.message,
        owner=options.owner,
        accelerator=options.accelerator,
        timeout_s=round(3600 * options.timeout_hours) if math.isfinite(options.timeout_hours) else 0,
        submit=options.submit,
        training=options.training is not None,
    )


def _training_folders(options: SubmitOptions, slug: str) -> tuple[Path, Path]:
    from histofold.kaggle.training_notebook import write_training  # it may load torch

    assert options.training is not None
    if not slug:
        raise InputError(f"{options.competition} is not a competition of Kaggle's: there is no data to train on there")
    out = options.out / f"training_{options.training.stem}"
    with locked(options.out, options.competition):  # a client that outlived an earlier start may be reading them
        return write_training(options.competition, slug, options.training, out, options.folds)


def _words(state: SubmitState, out: Path) -> str:
    """What the user is told at the end."""
    where = f"output and log: {out / state.name / 'output'}"
    if not state.status:
        return f"kernel {state.kernel}, version {state.kernel_version}, has run; {where}"
    scores = f"public {state.public_score or 'not told'}, private {state.private_score or 'not told'}"
    return f"submission {state.ref}: {scores}; {where}"
