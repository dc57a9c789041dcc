"""The steps of a submission. Each looks whether an earlier start has done it, does it, and writes that down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.submit.client import ClientError
from histofold.kaggle.submit.dataset import (
    NOT_UPLOADED,
    UPLOAD_LIMIT_S,
    Job,
    await_weights,
    made_since,
    other_states,
    settled_dataset,
    upload_weights,
)
from histofold.kaggle.submit.inputs import SubmitRequest
from histofold.kaggle.submit.ledger import LEDGER_NAME, add_line, ledger_line
from histofold.kaggle.submit.output import blames_dataset, check_output, check_trained, failed_run
from histofold.kaggle.submit.state import SubmitState
from histofold.kaggle.submit.wait import wait_for

QUEUE_LIMIT_S = 6 * 3600.0  # that a kernel may wait for a machine, beside its own time
SCORING_LIMIT_S = 14 * 3600.0  # the hidden run may take 12 hours
_FAILED_RUNS = ("ERROR", "CANCEL_ACKNOWLEDGED", "CANCEL_REQUESTED")
_NOT_PUSHED: dict[str, Any] = {"kernel_version_before": -1, "kernel_version": 0}


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        words: What it does.
        is_done: Whether a state says that it is done.
        act: Doing it.
    """

    words: str
    is_done: Callable[[SubmitState], bool]
    act: Callable[[Job], None]


def push_kernel(job: Job) -> None:
    """Push the kernel, unless an earlier start has, which was killed before it could write it down.

    A kernel mounts the newest version of its dataset: where another submission has made one since, ours is made anew.

    Raises:
        ClientError: If it is refused.
    """
    newest = job.client.kernel_version(job.state.kernel)
    before = job.state.kernel_version_before
    others = [
        (other.kernel_version, other.kernel_version_before)
        for other in other_states(job)
        if other.kernel == job.state.kernel
    ]
    if 0 <= before < newest and not made_since(others, before):
        job.file.update(kernel_version=newest)
        return
    if settled_dataset(job, job.state.dataset_version).version > job.state.dataset_version:
        logger.info("the dataset %s has a newer version with other files: ours go up again", job.state.dataset)
        job.file.update(**NOT_UPLOADED)
        upload_weights(job)
        await_weights(job)
    job.file.update(kernel_version_before=newest)
    try:
        version = job.client.push(job.kernel, job.request.timeout_s, job.accelerator)
    except ClientError as error:
        if not error.transient:  # no version was made, or one that lacks an input
            job.file.update(kernel_version_before=-1)
        raise
    logger.info("kernel %s, version %d, on %s", job.state.kernel, version, job.accelerator)
    job.file.update(kernel_version=version)


def await_kernel(job: Job) -> None:
    """Wait until the kernel has run; where it failed, fetch its log and say why.

    Raises:
        InputError: It failed or was stopped. The next start pushes it again, and where it found the dataset broken,
            uploads that again too.
    """
    found = wait_for(
        lambda: job.client.kernel_status(job.state.kernel),
        lambda answer: answer.status in ("COMPLETE", *_FAILED_RUNS),
        job.patience,
        what=f"kernel {job.state.kernel}",
        limit_s=job.request.timeout_s + QUEUE_LIMIT_S,
    )
    if found.status == "COMPLETE":
        job.file.update(kernel_done=True)
        return
    folder = job.file.folder / f"failed_{job.state.attempts + 1}"
    try:
        job.client.fetch_output(job.state.kernel, folder)
    except ClientError as error:
        logger.warning("its log cannot be fetched: %s", error)
    version = job.state.kernel_version
    anew: dict[str, Any] = {**NOT_UPLOADED, "upload_anew": True} if blames_dataset(folder) else {}
    job.file.update(attempts=job.state.attempts + 1, **_NOT_PUSHED, **anew)
    raise InputError([failed_run(f"{job.state.kernel} version {version}", str(found), folder)])


def fetch_output(job: Job) -> None:
    """Fetch output and log, and see that there is a submission, or of a training run its weights.

    Raises:
        InputError: There is none, its columns are others, files of the weights did not arrive whole, or another version
            of the kernel was pushed since, of which alone Kaggle would tell.
    """
    ours = job.state.kernel_version
    newest = wait_for(
        lambda: job.client.kernel_version(job.state.kernel),
        lambda _: True,
        job.patience,
        what="newest version of the kernel",
        limit_s=UPLOAD_LIMIT_S,
    )
    if newest > ours:
        job.file.update(kernel_done=False, **_NOT_PUSHED)
        rule = f"version {newest} was pushed since, and Kaggle tells status and output of the newest version alone"
        remedy = "run the same command again: it pushes the kernel anew; push no other one before that is done"
        raise InputError([Fault(f"{job.state.kernel} version {ours}", "Kaggle", rule, remedy)])
    job.client.fetch_output(job.state.kernel, job.output)
    if job.request.training:
        check_trained(job.output)
    else:
        check_output(job.output, job.request.competition)
    job.file.update(output_fetched=True)


def make_submission(job: Job) -> None:
    """Submit, unless an earlier start has; the message carries our tag, by which it is found again."""
    tag = f"[{job.state.name}]"
    if job.state.submitting:
        found = job.client.submission(job.request.slug, tag)
        if found is not None:
            job.file.update(ref=found.ref)
            return
    job.file.update(submitting=True)
    message = f"{job.request.message} {tag}".strip()
    words = job.client.submit(job.request.slug, job.state.kernel, job.state.kernel_version, message)
    logger.info("%s", words)
    found = wait_for(
        lambda: job.client.submission(job.request.slug, tag),
        lambda entry: entry is not None,
        job.patience,
        what="submission in the list",
        limit_s=UPLOAD_LIMIT_S,
    )
    job.file.update(ref=found.ref if found is not None else "")


def read_score(job: Job) -> None:
    """Wait for the score, or for the word that says why there is none."""
    found = wait_for(
        lambda: job.client.submission(job.request.slug, f"[{job.state.name}]"),
        lambda entry: entry is not None and entry.status in ("COMPLETE", "ERROR"),
        job.patience,
        what="score",
        limit_s=SCORING_LIMIT_S,
    )
    if found is not None:
        job.file.update(
            status=found.status, error=found.error, public_score=found.public_score, private_score=found.private_score
        )


def write_ledger(job: Job) -> None:
    """Add the submission to the ledger."""
    add_line(job.file.folder.parent / LEDGER_NAME, ledger_line(job.state, job.request.message))
    job.file.update(in_ledger=True)


RUN_STEPS = (
    Step("upload the dataset", lambda state: state.dataset_version > 0, upload_weights),
    Step("wait for the dataset", lambda state: state.dataset_ready, await_weights),
    Step("push the kernel", lambda state: state.kernel_version > 0, push_kernel),
    Step("wait for the kernel", lambda state: state.kernel_done, await_kernel),
    Step("fetch output and log", lambda state: state.output_fetched, fetch_output),
)
SUBMIT_STEPS = (
    Step("submit", lambda state: bool(state.ref), make_submission),
    Step("read the score", lambda state: bool(state.status), read_score),
    Step("write the ledger", lambda state: state.in_ledger, write_ledger),
)


def steps_of(request: SubmitRequest) -> tuple[Step, ...]:
    """The steps that a request asks for, in order."""
    return RUN_STEPS + SUBMIT_STEPS if request.submit and not request.training else RUN_STEPS
