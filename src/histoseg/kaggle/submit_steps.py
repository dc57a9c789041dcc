"""The steps of a submission. Each looks whether an earlier start has done it, does it, and writes that down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from histoseg.core.faults import Fault, InputError
from histoseg.core.log import logger
from histoseg.kaggle.client import ClientError, DatasetState, KaggleClient
from histoseg.kaggle.ledger import LEDGER_NAME, add_line, ledger_line
from histoseg.kaggle.submit_inputs import SubmitRequest
from histoseg.kaggle.submit_output import check_output, failed_run
from histoseg.kaggle.submit_state import StateFile, SubmitState, read_states
from histoseg.kaggle.submit_wait import Patience, wait_for

UPLOAD_LIMIT_S = 3 * 3600.0
QUEUE_LIMIT_S = 6 * 3600.0  # that a kernel may wait for a machine, beside its own time
SCORING_LIMIT_S = 14 * 3600.0  # the hidden run may take 12 hours
UPLOAD_ATTEMPTS = 6
_FAILED_RUNS = ("ERROR", "CANCEL_ACKNOWLEDGED", "CANCEL_REQUESTED")
_SETTLED = ("ready", "failed", "deleted")


@dataclass(frozen=True)
class Job:
    """What the steps share.

    Attributes:
        request: What the user asks for.
        client: Kaggle's client.
        file: How far it has come.
        dataset: The folder that becomes the dataset.
        kernel: The folder that becomes the kernel.
        accelerator: The machine.
        patience: How to wait.
    """

    request: SubmitRequest
    client: KaggleClient
    file: StateFile
    dataset: Path
    kernel: Path
    accelerator: str
    patience: Patience

    @property
    def state(self) -> SubmitState:
        """The state as it is now."""
        return self.file.state

    @property
    def output(self) -> Path:
        """Where the kernel's output is put."""
        return self.file.folder / "output"


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


def upload_weights(job: Job) -> None:
    """Create the dataset, or a new version of it, unless these very files are its newest version."""
    began = job.state.version_before >= 0
    now = _settled(job, max(job.state.version_before, 0))
    if began and now.version > job.state.version_before:  # an earlier start was killed after the upload
        job.file.update(dataset_version=now.version)
        return
    if not began and now.version and now.status == "ready" and now.version == _version_of_same_files(job):
        logger.info("the dataset %s holds these files already", job.state.dataset)
        job.file.update(dataset_version=now.version)
        return
    job.file.update(version_before=now.version)
    _upload(job, now.version)
    new = wait_for(
        lambda: job.client.dataset(job.state.dataset),
        lambda found: found.version > job.state.version_before,
        job.patience,
        what="new version of the dataset",
        limit_s=UPLOAD_LIMIT_S,
    )
    job.file.update(dataset_version=new.version)


def _upload(job: Job, version: int) -> None:
    """Upload; while Kaggle still processes another upload it answers 403, whatever the status says, and is asked again.

    Raises:
        ClientError: If it is refused for another reason or too often, or a file did not arrive.
    """
    notes = f"{job.request.message} [{job.state.name}]" if version else ""
    for attempt in range(1, UPLOAD_ATTEMPTS + 1):
        try:
            job.client.upload(job.dataset, notes)
            return
        except ClientError as error:
            if not (error.code == 403 and version) or attempt == UPLOAD_ATTEMPTS:
                job.file.update(version_before=-1)  # what may have arrived is not whole
                raise
            logger.warning("Kaggle is not ready for a new version (403): waiting")
            time.sleep(job.patience.pauses()[:attempt][-1])
            _settled(job, version)


def await_weights(job: Job) -> None:
    """Wait until Kaggle has processed the dataset; a kernel pushed earlier would see the old files, or none.

    Raises:
        InputError: Kaggle has failed to process it.
    """
    found = _settled(job, job.state.dataset_version)
    if found.status != "ready":
        job.file.update(version_before=-1, dataset_version=0)
        rule, remedy = f"Kaggle says {found.status!r} of the new version", "run the same command again: it uploads anew"
        raise InputError([Fault(job.state.dataset, "Kaggle", rule, remedy)])
    job.file.update(dataset_ready=True)


def push_kernel(job: Job) -> None:
    """Push the kernel, unless an earlier start has, which was killed before it could write it down."""
    newest = job.client.kernel_version(job.state.kernel)
    if 0 <= job.state.kernel_version_before < newest:
        job.file.update(kernel_version=newest)
        return
    job.file.update(kernel_version_before=newest)
    version = job.client.push(job.kernel, job.request.timeout_s, job.accelerator)
    logger.info("kernel %s, version %d, on %s", job.state.kernel, version, job.accelerator)
    job.file.update(kernel_version=version)


def await_kernel(job: Job) -> None:
    """Wait until the kernel has run; where it failed, fetch its log and say why.

    Raises:
        InputError: It failed or was stopped. The next start pushes it again.
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
    job.file.update(attempts=job.state.attempts + 1, kernel_version=0, kernel_version_before=-1)
    raise InputError([failed_run(f"{job.state.kernel} version {version}", str(found), folder)])


def fetch_output(job: Job) -> None:
    """Fetch output and log, and see that there is a submission where one is wanted.

    Raises:
        InputError: There is none, or its columns are others.
    """
    job.client.fetch_output(job.state.kernel, job.output)
    if not job.request.training:
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


def _settled(job: Job, at_least: int) -> DatasetState:
    """The dataset once nothing of it is being processed; version 0 where there is none, and none has been made.

    Args:
        job: The job.
        at_least: A version that is known to be there, although Kaggle may not show it yet.
    """
    return wait_for(
        lambda: job.client.dataset(job.state.dataset),
        lambda found: found.version >= at_least and (found.status in _SETTLED or (not found.status and not at_least)),
        job.patience,
        what=f"dataset {job.state.dataset}",
        limit_s=UPLOAD_LIMIT_S,
    )


def _version_of_same_files(job: Job) -> int:
    """The version that an earlier submission has uploaded these very files as; 0: none has."""
    return max(
        (
            other.state.dataset_version
            for other in read_states(job.file.folder.parent)
            if other.state.dataset == job.state.dataset and other.state.weights_sha256 == job.state.weights_sha256
        ),
        default=0,
    )
