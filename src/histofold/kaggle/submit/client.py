"""Kaggle's own command line client, asked in a process of its own: credentials stay in there."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.submit.client_text import (
    client_environment,
    read_code,
    read_json_answer,
    read_kernel_status,
    read_owner,
    read_pushed_version,
    without_secrets,
)
from histofold.kaggle.submit.explain import CLIENT_WORDS, explain

_TRANSIENT_CODES = (408, 429, 500, 502, 503, 504)
_SHOWN_CHARACTERS = 600  # of a message; the whole of it stands in the log
QUESTION_LIMIT_S = 180.0
"""Seconds that the client may take over a question, which changes nothing: it would wait for ever on a dead network."""


class ClientError(InputError):
    """The client, or Kaggle behind it, has refused something.

    Attributes:
        text: What the client printed, without credentials.
        code: The HTTP status, where one is told.
        transient: Whether asking again later may help.
    """

    def __init__(self, arguments: Sequence[str], text: str) -> None:
        self.text = text
        self.code = read_code(text)
        known = explain(text, CLIENT_WORDS)
        self.transient = self.code in _TRANSIENT_CODES or any(entry.words == "no connection" for entry in known)
        remedy = f"{known[0].cause}; {known[0].cure}" if known else "read the message; then run the same command again"
        shown = " ".join(text.split())[-_SHOWN_CHARACTERS:] or "no message"
        super().__init__([Fault(f"kaggle {' '.join(arguments[:2])}", "the client's answer", shown, remedy)])


@dataclass(frozen=True)
class DatasetState:
    """What Kaggle says about a dataset.

    Attributes:
        status: "ready", or a stage of the processing.
        version: Number of the newest version; 0 where there is no dataset.
    """

    status: str
    version: int

    def __str__(self) -> str:
        """In words, as progress is told."""
        return f"{self.status or 'not there'}, version {self.version}" if self.version else "not there yet"


@dataclass(frozen=True)
class KernelState:
    """What Kaggle says about the newest run of a kernel.

    Attributes:
        status: QUEUED, RUNNING, COMPLETE, ERROR, CANCEL_REQUESTED or CANCEL_ACKNOWLEDGED.
        failure: The message of a run that failed.
    """

    status: str
    failure: str

    def __str__(self) -> str:
        """In words, as progress is told."""
        return f"{self.status} {self.failure}".strip()


@dataclass(frozen=True)
class SubmissionState:
    """What Kaggle says about a submission.

    Attributes:
        ref: Its number.
        status: PENDING, COMPLETE or ERROR.
        error: The site's words where it failed.
        public_score: As the site writes it; empty where there is none.
        private_score: The same of the private part.
    """

    ref: str
    status: str
    error: str
    public_score: str
    private_score: str

    def __str__(self) -> str:
        """In words, as progress is told."""
        return f"submission {self.ref}: {self.status}"


def dataset_upload_command(folder: Path, notes: str) -> tuple[str, ...]:
    """Make a dataset of a folder; a new version of it where there are notes."""
    if notes:
        return ("datasets", "version", "-p", str(folder), "-m", notes)
    return ("datasets", "create", "-p", str(folder))


def push_command(folder: Path, timeout_s: int, accelerator: str) -> tuple[str, ...]:
    """Push a kernel and run it."""
    return ("kernels", "push", "-p", str(folder), "-t", str(timeout_s), "--accelerator", accelerator)


def submit_command(slug: str, kernel: str, version: int | str, message: str) -> tuple[str, ...]:
    """Submit a version of a kernel to a code competition."""
    return ("competitions", "submit", slug, "-k", kernel, "-v", str(version), "-f", "submission.csv", "-m", message)


def status_command(dataset: str) -> tuple[str, ...]:
    """Ask for a dataset's status and version."""
    return ("datasets", "status", dataset, "--format", "json")


def output_command(kernel: str, folder: Path) -> tuple[str, ...]:
    """Fetch what a kernel's newest run has left, and its log."""
    return ("kernels", "output", kernel, "-p", str(folder), "-o")


def run_process(command: Sequence[str], lock: int | None, limit_s: float | None = None) -> tuple[int, str]:
    """Run this Python with arguments; gives its exit status and all that it prints.

    Args:
        command: The arguments.
        lock: A file descriptor that it inherits.
        limit_s: Seconds after which it is killed and has failed for want of a connection; None waits for ever.
    """
    try:
        done = subprocess.run(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=client_environment(),
            pass_fds=() if lock is None else (lock,),
            check=False,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode(errors="replace")
        return 1, f"{said}\nconnection error: no answer within {late.timeout:g} s"
    return done.returncode, done.stdout.decode(errors="replace")


class KaggleClient:
    """The client that is installed beside us."""

    def __init__(self, log: Path | None = None, lock: int | None = None) -> None:
        """Look for the client.

        Args:
            log: Where every command and its answer is noted, without credentials.
            lock: A file descriptor that each command inherits, so that a lock outlives us as long as one still runs.

        Raises:
            InputError: The client is not installed.
        """
        found = importlib.util.find_spec("kaggle")
        if found is None or found.origin is None:  # a mere folder of that name has no origin
            remedy = "pip install -e '.[kaggle]'"
            raise InputError([Fault("kaggle", "this Python", "Kaggle's client is not installed", remedy)])
        self._log, self._lock = log, lock

    def owner(self) -> str:
        """Name of the account that the credentials belong to; empty where the client knows none."""
        return read_owner(self._ask("config", "view", limit_s=QUESTION_LIMIT_S))

    def dataset(self, name: str) -> DatasetState:
        """State of a dataset, owner/slug; version 0 where there is none that we may see.

        Raises:
            ClientError: On anything but an answer or a 403 or 404.
        """
        try:
            answer = read_json_answer(self._ask(*status_command(name), limit_s=QUESTION_LIMIT_S))
        except ClientError as error:
            if error.code in (403, 404):  # Kaggle answers 403 for a private dataset that does not exist
                return DatasetState("", 0)
            raise
        answer = answer if isinstance(answer, dict) else {}
        return DatasetState(str(answer.get("status", "")).lower(), int(answer.get("current_version_number") or 0))

    def upload(self, folder: Path, notes: str) -> None:
        """Create a dataset of the folder, or a version of it where there are notes.

        Raises:
            ClientError: If Kaggle refuses it or a file does not arrive. The client itself exits 0 on either.
        """
        command = dataset_upload_command(folder, notes)
        text = self._ask(*command)
        if "error:" in text.lower() or "upload unsuccessful" in text.lower() or "being created" not in text:
            raise ClientError(command, text)

    def push(self, folder: Path, timeout_s: int, accelerator: str) -> int:
        """Push a kernel.

        Returns:
            The number of the new version.

        Raises:
            ClientError: If Kaggle refuses it or drops one of its inputs. The client itself exits 0 on either.
        """
        command = push_command(folder, timeout_s, accelerator)
        text = self._ask(*command)
        version = read_pushed_version(text)
        if version is None or "are not valid" in text:
            raise ClientError(command, text)
        return version

    def kernel_version(self, kernel: str) -> int:
        """Number of a kernel's newest version; 0 where there is no such kernel."""
        try:
            answer = read_json_answer(self._probe("kernel", kernel))
        except ClientError as error:
            if error.code in (403, 404):
                return 0
            raise
        return int(answer.get("version") or 0) if isinstance(answer, dict) else 0

    def kernel_status(self, kernel: str) -> KernelState:
        """State of a kernel's newest run."""
        command = ("kernels", "status", kernel)
        text = self._ask(*command, limit_s=QUESTION_LIMIT_S)
        state = KernelState(*read_kernel_status(text))
        if not state.status:
            raise ClientError(command, text)
        return state

    def fetch_output(self, kernel: str, folder: Path) -> None:
        """Fetch the files and the log of a kernel's newest run, the log without what looks like a credential."""
        self._ask(*output_command(kernel, folder))
        for path in folder.glob("*.log"):
            path.write_text(without_secrets(path.read_text(encoding="utf-8", errors="replace")), encoding="utf-8")

    def submit(self, slug: str, kernel: str, version: int, message: str) -> str:
        """Submit a version of a kernel; gives the client's words."""
        command = submit_command(slug, kernel, version, message)
        text = self._ask(*command)
        if "could not" in text.lower() or not text.strip():
            raise ClientError(command, text)
        return text.strip()

    def submission(self, slug: str, tag: str) -> SubmissionState | None:
        """The submission whose message holds a tag; None where there is none."""
        answer = read_json_answer(self._probe("submissions", slug))
        for entry in answer if isinstance(answer, list) else []:
            if tag in str(entry.get("description") or ""):
                words = {key: str(value) if value is not None else "" for key, value in entry.items()}
                return SubmissionState(
                    words["ref"], words["status"].upper(), words["error"], words["public_score"], words["private_score"]
                )
        return None

    def _ask(self, *arguments: str, limit_s: float | None = None) -> str:
        return self._run(("-m", "kaggle", *arguments), arguments, limit_s)

    def _probe(self, *arguments: str) -> str:
        module = "histofold.kaggle.submit.client_probe"
        return self._run(("-m", module, *arguments), ("probe", *arguments), QUESTION_LIMIT_S)

    def _run(self, command: Sequence[str], told: Sequence[str], limit_s: float | None) -> str:
        """What a command prints, without credentials.

        Raises:
            ClientError: If it fails, or takes longer than the limit.
        """
        code, output = run_process(command, self._lock, limit_s)
        text = without_secrets(output)
        self._note(f"$ kaggle {shlex.join(told)}\n{text.rstrip()}\n-> {code}\n")
        if code:
            raise ClientError(told, text)
        return text

    def _note(self, entry: str) -> None:
        logger.debug("%s", entry.rstrip())
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as stream:
                stream.write(without_secrets(entry))
