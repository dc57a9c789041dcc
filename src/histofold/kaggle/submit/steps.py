"""The steps of a submission. Each looks whether an earlier start has done it, does it, and writes that down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.submit.client import ClientError, DatasetAnswer, KaggleClient
from histofold.kaggle.submit.explain import blames_dataset, check_output, failed_run
from histofold.kaggle.submit.inputs import UploadFolder
from histofold.kaggle.submit.request import Progress, StateFile, SubmitRequest, Upload
from histofold.schema.files import LineJournal

LEDGER_NAME = "submissions.jsonl"
UPLOAD_LIMIT_S = 3 * 3600.0
QUEUE_LIMIT_S = 6 * 3600.0  # that a kernel may wait for a machine, beside its own time
SCORING_LIMIT_S = 14 * 3600.0  # the hidden run may take 12 hours
UPLOAD_ATTEMPTS = 6
QUESTION_ATTEMPTS = 8  # as many in a row may fail for reasons that pass by themselves
_SETTLED = ("ready", "failed", "deleted")
_ENDED = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED", "CANCEL_REQUESTED")
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the steps share."""

    request: SubmitRequest
    """What the user asks for."""
    key: str
    """Its digest."""
    dataset: UploadFolder
    """The weights."""
    kernel: UploadFolder
    """The kernel."""
    client: KaggleClient
    """Kaggle's client."""
    file: StateFile
    """How far it has come."""

    @property
    def progress(self) -> Progress:
        """What is done of it now."""
        return self.file.state.requests[self.key]

    @property
    def folder(self) -> Path:
        """Where its logs and output go."""
        return self.request.out / self.progress.name

    def note(self, **changes: Any) -> None:
        """Write down what is done."""
        self.file.note_progress(self.key, replace(self.progress, **changes))

    def find_upload(self, name: str, content: str, newest: int) -> int:
        """The version that holds our content, if the newest one does: as we know, or as a killed start has left it."""
        known = self.file.state.uploads.get(name)
        if known is None or known.content != content:
            return 0
        if known.version:
            return newest if known.version == newest else 0
        return newest if newest > known.before and not self.file.shares(name) else 0

    def pauses(self) -> Iterator[float]:
        """The seconds between two questions: they grow, up to five minutes."""
        pause, longest = self.request.poll_seconds, min(300.0, 30 * self.request.poll_seconds)
        while True:
            yield pause
            pause = max(pause, min(1.3 * pause, longest))

    def wait_for(
        self, what: str, ask: Callable[[], Answer], is_done: Callable[[Answer], bool], limit_s: float = UPLOAD_LIMIT_S
    ) -> Answer:
        """Ask until the answer is a final one; a question that fails now and then is no matter.

        Raises:
            InputError: After `limit_s`; what is waited for goes on at Kaggle's.
            ClientError: If a question fails for good, or too often in a row.
        """
        started, failed, said = time.monotonic(), 0, ""
        for pause in self.pauses():
            try:
                answer, failed = ask(), 0
                if is_done(answer):
                    return answer
                words = "not there yet" if answer is None else str(answer)
                if words != said:
                    said = words
                    logger.info("%s: %s", what, said)
            except ClientError as error:
                failed += 1
                if not error.transient or failed >= QUESTION_ATTEMPTS:
                    raise
                logger.warning("%s: %s; asked again", what, error.faults[0].rule)
            if time.monotonic() - started > limit_s:
                break
            time.sleep(pause)
        rule = f"not done after {limit_s / 3600:.1f} hours"
        raise InputError([Fault(what, "Kaggle", rule, "look at its page; the same command goes on waiting")])

    def settled_dataset(self, least: int) -> DatasetAnswer:
        """The dataset once nothing of it is being processed; version 0 where there is none, and none has been made.

        Args:
            least: A version that is known to be there, although Kaggle may not show it yet.
        """
        return self.wait_for(
            f"dataset {self.dataset.id}",
            self.client.dataset,
            lambda found: found.version >= least and (found.status in _SETTLED or not (found.status or least)),
        )


def _upload_dataset(job: Job) -> int:
    """See that these very files are the newest version of the dataset and are processed; gives that version.

    A kernel that is pushed earlier would see the old files, or none.
    """
    known = job.file.state.uploads.get(job.dataset.id)
    found = job.settled_dataset(known.before if known and not known.version else 0)
    if not job.find_upload(job.dataset.id, job.dataset.sha256, found.version):
        job.file.note_upload(job.dataset.id, Upload(content=job.dataset.sha256, before=found.version))
        _send_dataset(job, found.version)
        found = job.settled_dataset(found.version + 1)
    if found.status != "ready":
        job.file.note_upload(job.dataset.id, None)
        rule, remedy = f"Kaggle says {found.status!r} of the new version", "run the same command again: it uploads anew"
        raise InputError([Fault(job.dataset.id, "Kaggle", rule, remedy)])
    upload = Upload(content=job.dataset.sha256, before=found.version - 1, version=found.version)
    job.file.note_upload(job.dataset.id, upload)
    return found.version


def _send_dataset(job: Job, version: int) -> None:
    """Upload; while Kaggle processes another upload it answers 403, whatever the status says, and is asked again."""
    for attempt, pause in enumerate(job.pauses(), start=1):
        try:
            job.client.upload("version" if version else "create")
            return
        except ClientError as error:
            if not (error.code == 403 and version) or attempt == UPLOAD_ATTEMPTS:
                job.file.note_upload(job.dataset.id, None)  # what may have arrived is not whole
                raise
            logger.warning("Kaggle is not ready for a new version (403): waiting")
            time.sleep(pause)
            job.settled_dataset(version)


def _push_kernel(job: Job) -> None:
    """Push the kernel, unless an earlier start has, which was killed before it could write it down.

    It mounts the newest version of its dataset, which is looked at before.
    """
    if job.progress.kernel_version:
        return
    tag = job.progress.name
    newest = job.client.kernel_version()
    version = job.find_upload(job.kernel.id, tag, newest)
    if not version:
        job.note(dataset_version=_upload_dataset(job))
        newest = job.client.kernel_version()
        job.file.note_upload(job.kernel.id, Upload(content=tag, before=newest))
        try:
            version = job.client.push()
        except ClientError as error:
            if not error.transient:  # no version was made, or one that lacks an input
                job.file.note_upload(job.kernel.id, None)
            raise
        logger.info("kernel %s, version %d", job.kernel.id, version)
    job.file.note_upload(job.kernel.id, Upload(content=tag, before=newest, version=version))
    job.note(kernel_version=version)


def _await_kernel(job: Job) -> None:
    """Wait until the kernel has run; where it failed, fetch its log and say why.

    The next start pushes it again, and where it found the dataset broken, uploads that again too.
    """
    found = job.wait_for(
        f"kernel {job.kernel.id}",
        job.client.kernel_status,
        lambda status: status.startswith(_ENDED),
        job.request.timeout_s + QUEUE_LIMIT_S,
    )
    if found.startswith("COMPLETE"):
        return
    version = job.progress.kernel_version
    folder = job.folder / f"failed_{version}"
    try:
        job.client.fetch_output(folder)
    except ClientError as error:
        logger.warning("its log cannot be fetched: %s", error)
    if blames_dataset(folder):
        job.file.note_upload(job.dataset.id, None)
    _forget_kernel(job)
    raise InputError([failed_run(f"{job.kernel.id} version {version}", found, folder)])


def _forget_kernel(job: Job) -> None:
    """Have the next start push the kernel anew."""
    job.file.note_upload(job.kernel.id, None)
    job.note(kernel_version=0)


def _fetch_output(job: Job) -> None:
    """Fetch output and log of our version, and see that there is a submission, or of a training run its weights."""
    if job.progress.output_fetched:
        return
    _await_kernel(job)
    ours = job.progress.kernel_version
    newest = job.wait_for("newest version of the kernel", job.client.kernel_version, lambda _: True)
    if newest > ours:
        _forget_kernel(job)
        rule = f"version {newest} was pushed since, and Kaggle gives status and output of the newest version alone"
        remedy = "run the same command again: it pushes the kernel anew; push no other one before that is done"
        raise InputError([Fault(f"{job.kernel.id} version {ours}", "Kaggle", rule, remedy)])
    output = job.folder / "output"
    job.client.fetch_output(output)
    check_output(output, job.request.competition, job.request.training is not None)
    job.note(output_fetched=True)


def _submit(job: Job) -> None:
    """Submit, unless an earlier start has; the message carries our tag, by which the submission is found again."""
    if job.progress.submission.ref:
        return
    found = job.wait_for("submissions", job.client.submission, lambda _: True)
    if found is None:
        logger.info("%s", job.client.submit(job.progress.kernel_version))
        found = job.wait_for("submission in the list", job.client.submission, lambda entry: entry is not None)
    job.note(submission=found)


def _read_score(job: Job) -> None:
    """Wait for the score, or for the word that says why there is none."""
    if not job.progress.submission.is_final:
        found = job.wait_for(
            "score", job.client.submission, lambda entry: entry is not None and entry.is_final, SCORING_LIMIT_S
        )
        job.note(submission=found)


def _write_ledger(job: Job) -> None:
    """Add the submission to the ledger, a line of JSON that is only ever added; a killed start may have done so."""
    progress = job.progress
    if progress.in_ledger:
        return
    ledger = LineJournal(job.request.out / LEDGER_NAME)
    if not any(entry.get("name") == progress.name for entry in ledger.entries):
        ledger.add(
            {
                "name": progress.name,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "competition": job.request.competition,
                "message": job.request.message,
                "weights_sha256": job.dataset.sha256,
                "kernel_sha256": job.kernel.sha256,
                "dataset": f"{job.dataset.id}/{progress.dataset_version}",
                "kernel": f"{job.kernel.id}/{progress.kernel_version}",
                **asdict(progress.submission),
            }
        )
    job.note(in_ledger=True)


def do_steps(job: Job) -> None:
    """Do all that is left of a request, in order.

    Raises:
        InputError: Kaggle has refused something (`ClientError`), a run or its output is at fault, or the wait took too
            long; the next start goes on from there.
    """
    steps = {"push dataset and kernel": _push_kernel, "wait for the kernel and its output": _fetch_output}
    if job.request.submits:
        steps |= {"submit": _submit, "read the score": _read_score, "write the ledger": _write_ledger}
    with tqdm(steps.items(), desc="submit", unit="step", dynamic_ncols=True) as bar:
        for words, act in bar:
            bar.set_postfix_str(words)
            act(job)
