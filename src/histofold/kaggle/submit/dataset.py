"""The first steps of a submission: its dataset is uploaded, and processed by Kaggle."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.submit.client import ClientError, DatasetState, KaggleClient
from histofold.kaggle.submit.inputs import SubmitRequest
from histofold.kaggle.submit.state import StateFile, SubmitState, read_states
from histofold.kaggle.submit.wait import Patience, wait_for

UPLOAD_LIMIT_S = 3 * 3600.0
UPLOAD_ATTEMPTS = 6
NOT_UPLOADED: dict[str, Any] = {"version_before": -1, "dataset_version": 0, "dataset_ready": False}
"""A state in which the dataset is not uploaded."""
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


def upload_weights(job: Job) -> None:
    """Create the dataset, or a new version of it, unless these very files are its newest version."""
    began = job.state.version_before >= 0
    now = settled_dataset(job, max(job.state.version_before, 0))
    others = [
        (other.dataset_version, other.version_before)
        for other in other_states(job)
        if other.dataset == job.state.dataset
    ]
    if began and now.version > job.state.version_before and not made_since(others, job.state.version_before):
        job.file.update(dataset_version=now.version)  # an earlier start was killed after the upload
        return
    known = 0 if began or job.state.upload_anew else _version_of_same_files(job)
    if known and now.status == "ready" and now.version == known:
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
    job.file.update(dataset_version=new.version, upload_anew=False)


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
            settled_dataset(job, version)


def await_weights(job: Job) -> None:
    """Wait until Kaggle has processed the dataset; a kernel pushed earlier would see the old files, or none.

    Raises:
        InputError: Kaggle has failed to process it.
    """
    found = settled_dataset(job, job.state.dataset_version)
    if found.status != "ready":
        job.file.update(version_before=-1, dataset_version=0)
        rule, remedy = f"Kaggle says {found.status!r} of the new version", "run the same command again: it uploads anew"
        raise InputError([Fault(job.state.dataset, "Kaggle", rule, remedy)])
    job.file.update(dataset_ready=True)


def settled_dataset(job: Job, at_least: int) -> DatasetState:
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


def other_states(job: Job) -> list[SubmitState]:
    """The states of all other submissions here."""
    return [file.state for file in read_states(job.file.folder.parent) if file.state.name != job.state.name]


def made_since(versions: Sequence[tuple[int, int]], before: int) -> bool:
    """Whether a version above `before` may be another submission's.

    Args:
        versions: For each other submission the version that it made (0: none is known), and the one that was the newest
            when it began (-1: it has not begun).
        before: The newest version when ours began.
    """
    return any(made > before or (not made and began >= before) for made, began in versions)


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
