"""The steps of a submission. Each looks whether an earlier start has done it, does it, and writes that down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeVar

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.submit.client import ClientError, DatasetAnswer, KaggleClient
from histofold.kaggle.submit.explain import blames_dataset, check_output, failed_run
from histofold.kaggle.submit.request import SubmitRequest
from histofold.kaggle.submit.state import StateFile, SubmitState, read_states
from histofold.schema.files import LineJournal

LEDGER_NAME = "submissions.jsonl"
UPLOAD_LIMIT_S = 3 * 3600.0
QUEUE_LIMIT_S = 6 * 3600.0  # that a kernel may wait for a machine, beside its own time
SCORING_LIMIT_S = 14 * 3600.0  # the hidden run may take 12 hours
UPLOAD_ATTEMPTS = 6
QUESTION_ATTEMPTS = 8  # as many in a row may fail for reasons that pass by themselves
_SETTLED = ("ready", "failed", "deleted")
_FAILED_RUNS = ("ERROR", "CANCEL_ACKNOWLEDGED", "CANCEL_REQUESTED")
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the steps share."""

    request: SubmitRequest
    """What the user asks for."""
    client: KaggleClient
    """Kaggle's client."""
    file: StateFile
    """How far it has come."""

    @property
    def state(self) -> SubmitState:
        """The state as it is now."""
        return self.file.state

    def note_upload(self, kind: Literal["dataset", "kernel"], **changes: Any) -> None:
        """Write down what is known of dataset or kernel."""
        self.file.update(**{kind: replace(getattr(self.state, kind), **changes)})

    def others(self) -> list[SubmitState]:
        """The states of all other submissions here."""
        return [file.state for file in read_states(self.file.folder.parent) if file.state.name != self.state.name]

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
        rule, remedy = (
            f"not done after {limit_s / 3600:.1f} hours",
            "look at its page; the same command goes on waiting",
        )
        raise InputError([Fault(what, "Kaggle", rule, remedy)])

    def settled_dataset(self, at_least: int) -> DatasetAnswer:
        """The dataset once nothing of it is being processed; version 0 where there is none, and none has been made.

        Args:
            at_least: A version that is known to be there, although Kaggle may not show it yet.
        """
        return self.wait_for(
            f"dataset {self.state.dataset.name}",
            self.client.dataset,
            lambda found: (
                found.version >= at_least and (found.status in _SETTLED or (not found.status and not at_least))
            ),
        )


# --- the dataset ------------------------------------------------------------------------------------------------------


def upload_dataset(job: Job) -> None:
    """Create the dataset, or a new version of it, unless these very files are its newest one; wait for its processing.

    A kernel that is pushed earlier would see the old files, or none.

    Raises:
        ClientError: It is refused.
        InputError: Kaggle has failed to process it.
    """
    ours = job.state.dataset
    found = job.settled_dataset(max(ours.before, 0))
    if ours.takes_over(found.version, (other.dataset for other in job.others())):
        pass  # an earlier start was killed after the upload
    elif ours.before < 0 and _holds_our_files(job, found):
        logger.info("the dataset %s holds these files already", ours.name)
    else:
        job.note_upload("dataset", before=found.version)
        _upload(job, found.version)
        found = job.settled_dataset(found.version + 1)
    if found.status != "ready":
        job.file.update(dataset=ours.forgotten(ours.anew))
        rule, remedy = f"Kaggle says {found.status!r} of the new version", "run the same command again: it uploads anew"
        raise InputError([Fault(ours.name, "Kaggle", rule, remedy)])
    job.note_upload("dataset", version=found.version, anew=False)


def _holds_our_files(job: Job, found: DatasetAnswer) -> bool:
    """Whether the newest version is one that an earlier submission has made of these very files."""
    made = [
        other.dataset.version
        for other in job.others()
        if other.dataset.name == job.state.dataset.name and other.weights_sha256 == job.state.weights_sha256
    ]
    return found.status == "ready" and 0 < found.version == max(made, default=0) and not job.state.dataset.anew


def _upload(job: Job, version: int) -> None:
    """Upload; while Kaggle still processes another upload it answers 403, whatever the status says, and is asked again.

    Raises:
        ClientError: If it is refused for another reason or too often, or a file did not arrive.
    """
    for attempt, pause in enumerate(job.pauses(), start=1):
        try:
            job.client.upload("version" if version else "create")
            return
        except ClientError as error:
            if not (error.code == 403 and version) or attempt == UPLOAD_ATTEMPTS:
                job.note_upload("dataset", before=-1)  # what may have arrived is not whole
                raise
            logger.warning("Kaggle is not ready for a new version (403): waiting")
            time.sleep(pause)
            job.settled_dataset(version)


# --- the kernel -------------------------------------------------------------------------------------------------------


def push_kernel(job: Job) -> None:
    """Push the kernel, unless an earlier start has, which was killed before it could write it down.

    A kernel mounts the newest version of its dataset: where another submission has made one since, ours is made anew.

    Raises:
        ClientError: If it is refused.
    """
    name, dataset = job.state.kernel.name, job.state.dataset
    newest = job.client.kernel_version()
    if job.state.kernel.takes_over(newest, (other.kernel for other in job.others())):
        job.note_upload("kernel", version=newest)
        return
    if job.settled_dataset(dataset.version).version > dataset.version:
        logger.info("the dataset %s has a newer version with other files: ours go up again", dataset.name)
        job.file.update(dataset=dataset.forgotten())
        upload_dataset(job)
    job.note_upload("kernel", before=newest)
    try:
        version = job.client.push()
    except ClientError as error:
        if not error.transient:  # no version was made, or one that lacks an input
            job.note_upload("kernel", before=-1)
        raise
    logger.info("kernel %s, version %d", name, version)
    job.note_upload("kernel", version=version)


def await_kernel(job: Job) -> None:
    """Wait until the kernel has run; where it failed, fetch its log and say why.

    Raises:
        InputError: It failed or was stopped. The next start pushes it again, and where it found the dataset broken,
            uploads that again too.
    """
    kernel = job.state.kernel
    found = job.wait_for(
        f"kernel {kernel.name}",
        job.client.kernel_status,
        lambda status: status.startswith(("COMPLETE", *_FAILED_RUNS)),
        job.request.timeout_s + QUEUE_LIMIT_S,
    )
    if found.startswith("COMPLETE"):
        job.file.update(kernel_done=True)
        return
    attempts = job.state.attempts + 1
    folder = job.file.folder / f"failed_{attempts}"
    try:
        job.client.fetch_output(folder)
    except ClientError as error:
        logger.warning("its log cannot be fetched: %s", error)
    dataset = job.state.dataset.forgotten(anew=True) if blames_dataset(folder) else job.state.dataset
    job.file.update(attempts=attempts, kernel=kernel.forgotten(), dataset=dataset)
    raise InputError([failed_run(f"{kernel.name} version {kernel.version}", found, folder)])


def fetch_output(job: Job) -> None:
    """Fetch output and log, and see that there is a submission, or of a training run its weights.

    Raises:
        InputError: There is none, its columns are others, files of the weights did not arrive whole, or another version
            of the kernel was pushed since, of which alone Kaggle would speak.
    """
    ours = job.state.kernel
    newest = job.wait_for("newest version of the kernel", job.client.kernel_version, lambda _: True)
    if newest > ours.version:
        job.file.update(kernel_done=False, kernel=ours.forgotten())
        rule = f"version {newest} was pushed since, and Kaggle gives status and output of the newest version alone"
        remedy = "run the same command again: it pushes the kernel anew; push no other one before that is done"
        raise InputError([Fault(f"{ours.name} version {ours.version}", "Kaggle", rule, remedy)])
    output = job.file.folder / "output"
    job.client.fetch_output(output)
    check_output(output, job.state.competition, job.request.training is not None)
    job.file.update(output_fetched=True)


# --- the submission ---------------------------------------------------------------------------------------------------


def make_submission(job: Job) -> None:
    """Submit, unless an earlier start has; the message carries our tag, by which it is found again."""
    found = job.client.submission() if job.state.submitting else None
    if found is None:
        job.file.update(submitting=True)
        logger.info("%s", job.client.submit(job.state.kernel.version))
        found = job.wait_for("submission in the list", job.client.submission, lambda entry: entry is not None)
    job.file.update(submission=found)


def read_score(job: Job) -> None:
    """Wait for the score, or for the word that says why there is none."""
    found = job.wait_for(
        "score",
        job.client.submission,
        lambda entry: entry is not None and entry.is_final,
        SCORING_LIMIT_S,
    )
    job.file.update(submission=found)


def write_ledger(job: Job) -> None:
    """Add the submission to the ledger, a line of JSON that is only ever added; a killed start may have done so."""
    state = job.state
    ledger = LineJournal(job.file.folder.parent / LEDGER_NAME)
    if not any(entry.get("name") == state.name for entry in ledger.entries):
        ledger.add(
            {
                "name": state.name,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "competition": state.competition,
                "message": job.request.message,
                "weights_sha256": state.weights_sha256,
                "kernel_sha256": state.kernel_sha256,
                "dataset": f"{state.dataset.name}/{state.dataset.version}",
                "kernel": f"{state.kernel.name}/{state.kernel.version}",
                **asdict(state.submission),
            }
        )
    job.file.update(in_ledger=True)


class Step(NamedTuple):
    """One step: what it does in words, whether a state says that it is done, and doing it."""

    words: str
    is_done: Callable[[SubmitState], bool]
    act: Callable[[Job], None]


RUN_STEPS = (
    Step("upload the dataset", lambda state: state.dataset.version > 0, upload_dataset),
    Step("push the kernel", lambda state: state.kernel.version > 0, push_kernel),
    Step("wait for the kernel", lambda state: state.kernel_done, await_kernel),
    Step("fetch output and log", lambda state: state.output_fetched, fetch_output),
)
SUBMIT_STEPS = (
    Step("submit", lambda state: bool(state.submission.ref), make_submission),
    Step("read the score", lambda state: state.submission.is_final, read_score),
    Step("write the ledger", lambda state: state.in_ledger, write_ledger),
)


def steps_of(request: SubmitRequest) -> tuple[Step, ...]:
    """The steps that a request asks for, in order."""
    return RUN_STEPS + SUBMIT_STEPS if request.submits else RUN_STEPS
