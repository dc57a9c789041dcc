"""Kaggle's own command line client, asked in a process of its own: credentials stay in there.

Two questions that its command line cannot ask go through its package, in a process of their own too:
`python -m histofold.kaggle.submit.client GetKernel OWNER/SLUG` gives the newest version of a kernel, and
`... ListSubmissions SLUG` the newest submissions with the site's words on those that failed, as a line of JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.submit.explain import CLIENT_WORDS, explain
from histofold.kaggle.submit.request import Submission

CALLS = {
    "owner": ("config view", "whose name to fill in"),
    "dataset": ("datasets status {dataset} --format json", "is it there? is it ready?"),
    "create": ("datasets create -p {folder}/dataset", "where it is not there"),
    "version": ("datasets version -p {folder}/dataset -m {message}", "where it is, with other files"),
    "newest": ("GetKernel {kernel}", "a request"),
    "push": ("kernels push -p {folder}/kernel -t {timeout_s} --accelerator {accelerator}", ""),
    "kernel": ("kernels status {kernel}", "until it says COMPLETE"),
    "output": ("kernels output {kernel} -p {output} -o", ""),
    "submit": ("competitions submit {slug} -k {kernel} -v {version} -f submission.csv -m {message}", ""),
    "submissions": ("ListSubmissions {slug}", "a request"),
}
"""All that Kaggle is ever asked for, in order, and a note to the user; what no command asks is put as a request."""
REQUESTS = ("newest", "submissions")
QUESTIONS = ("owner", "dataset", "kernel", *REQUESTS)
"""Those that change nothing, and may be asked again."""
QUESTION_LIMIT_S = 180.0
"""Seconds that the client may take over a question: it would wait for ever on a dead network."""
_TRANSIENT_CODES = (408, 429, 500, 502, 503, 504)
_SHOWN_CHARACTERS = 600  # of a message; the whole of it stands in the log
_SECRET_VARIABLES = ("KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN", "KAGGLE_IAP_TOKEN")
# They make the client print its requests with the headers that hold the credentials.
_TALKATIVE_VARIABLES = ("VERBOSE", "VERBOSE_OUTPUT")
_SECRET_FORMS = (
    re.compile(r"((?:Bearer|Basic)\s+)[^\s'\"]+", re.IGNORECASE),
    re.compile(
        r"(\"?(?:key|token|refresh_token|access_token)\"?\s*[:=]\s*\"?)(?!\[\d{8}-)[^\s\",}]{8,}", re.IGNORECASE
    ),
    re.compile(r"(://)[^\s/@]+(?=@)"),  # of a proxy
    re.compile(r"()KGAT_[A-Za-z0-9_-]+"),
)


class ClientError(InputError):
    """The client, or Kaggle behind it, has refused something."""

    code: int | None
    """The HTTP status, where the message names one."""
    transient: bool
    """Whether asking again later may help."""

    def __init__(self, arguments: Sequence[str], text: str) -> None:
        self.code = _http_code(text)
        known = explain(text, CLIENT_WORDS)
        self.transient = self.code in _TRANSIENT_CODES or any(entry.words == "no connection" for entry in known)
        remedy = f"{known[0].cause}; {known[0].cure}" if known else "read the message; then run the same command again"
        shown = " ".join(text.split())[-_SHOWN_CHARACTERS:] or "no message"
        super().__init__([Fault(f"kaggle {' '.join(arguments[:2])}", "the client's answer", shown, remedy)])


class DatasetAnswer(NamedTuple):
    """What Kaggle says about a dataset."""

    status: str = ""
    """`ready`, or a stage of the processing."""
    version: int = 0
    """Number of the newest version; 0 where there is no dataset."""

    def __str__(self) -> str:
        return f"{self.status}, version {self.version}" if self.version else "not there yet"


def command(call: str, values: Mapping[str, object]) -> tuple[str, ...]:
    """The words of one of `CALLS`.

    Example:
        >>> command("kernel", {"kernel": "ada/kidneys"})
        ('kernels', 'status', 'ada/kidneys')
    """
    return tuple(word.format(**values) for word in CALLS[call][0].split())


def without_secrets(text: str) -> str:
    """A text with everything struck out that is, or looks like, a credential."""
    for name in _SECRET_VARIABLES:
        if len(os.environ.get(name, "")) > 3:
            text = text.replace(os.environ[name], "***")
    for form in _SECRET_FORMS:
        text = form.sub(r"\1***", text)
    return text


def run_process(arguments: Sequence[str], lock: int | None, limit_s: float | None = None) -> tuple[int, str]:
    """Run this Python with arguments; gives its exit status and all that it prints.

    It inherits the lock's descriptor. After `limit_s` it is killed, and has failed for want of a connection.
    """
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={key: value for key, value in os.environ.items() if key not in _TALKATIVE_VARIABLES},
            pass_fds=() if lock is None else (lock,),
            check=False,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode(errors="replace")
        return 1, f"{said}\nconnection error: no answer within {late.timeout:g} s"
    return done.returncode, done.stdout.decode(errors="replace")


class KaggleClient:
    """The client that is installed beside us.

    Args:
        values: What is filled into `CALLS`: names of competition, dataset and kernel, folder, message, machine.
        log: Where every command and its answer is noted, without credentials.
        lock: A file descriptor that each command inherits, so that a lock outlives us as long as one still runs.

    Raises:
        InputError: The client is not installed.
    """

    def __init__(self, values: Mapping[str, object], log: Path | None = None, lock: int | None = None) -> None:
        found = importlib.util.find_spec("kaggle")
        if found is None or found.origin is None:  # a mere folder of that name has no origin
            remedy = "pip install -e '.[kaggle]'"
            raise InputError([Fault("kaggle", "this Python", "Kaggle's client is not installed", remedy)])
        self._values, self._log, self._lock = values, log, lock

    def owner(self) -> str:
        """Name of the account that the credentials belong to; empty where the client knows none."""
        found = re.search(r"^- username: (\S+)$", self._ask("owner"), re.MULTILINE)
        return "" if found is None or found[1] == "None" else found[1]

    def dataset(self) -> DatasetAnswer:
        """State of the dataset; version 0 where there is none that we may see."""
        answer = self._facts("dataset")
        return DatasetAnswer(str(answer.get("status", "")).lower(), int(answer.get("current_version_number") or 0))

    def upload(self, call: Literal["create", "version"]) -> None:
        """Create the dataset or a version of it; that Kaggle refused it, or a file did not arrive, is said in words."""
        self._ask(call, wanted="being created", refused="error:|upload unsuccessful")

    def push(self) -> int:
        """Push the kernel and run it; gives the number of the new version."""
        done = r"Kernel version (\d+) successfully pushed"
        text = self._ask("push", wanted=done, refused="are not valid")  # it drops inputs that it does not see
        return int(re.findall(done, text)[0])

    def kernel_version(self) -> int:
        """Number of the kernel's newest version; 0 where there is no such kernel."""
        return int(self._facts("newest").get("version") or 0)

    def kernel_status(self) -> str:
        """QUEUED, RUNNING, COMPLETE, ERROR or CANCEL_..., and after a blank the message of a run that failed."""
        status = r'has status "(?:KernelWorkerStatus\.)?(\w+)"'
        text = self._ask("kernel", wanted=status)
        failure = re.search(r'Failure message: "(.*)"', text, re.DOTALL)
        return f"{re.findall(status, text)[0].upper()} {failure[1].strip() if failure else ''}".strip()

    def fetch_output(self, folder: Path) -> None:
        """Fetch the files and the log of the kernel's newest run, the log without what looks like a credential."""
        self._ask("output", output=folder)
        for path in folder.glob("*.log"):
            path.write_text(without_secrets(path.read_text(encoding="utf-8", errors="replace")), encoding="utf-8")

    def submit(self, version: int) -> str:
        """Submit a version of the kernel; gives the client's words."""
        return self._ask("submit", wanted=r"\S", refused="could not", version=version).strip()

    def submission(self) -> Submission | None:
        """The submission that our message is of; None where there is none."""
        for entry in _read_json(self._ask("submissions")) or []:
            words = {key: "" if value is None else str(value) for key, value in entry.items()}
            if str(self._values["tag"]) in words.pop("description"):
                return Submission(error=words.pop("error_description"), **words)
        return None

    def _ask(self, call: str, wanted: str = "", refused: str = "", **values: object) -> str:
        """What is printed on one of `CALLS`; without `wanted` in it, or with `refused`, or on an error it has failed.

        After a refusal the client may exit with 0 all the same.
        """
        arguments = command(call, {**self._values, **values})
        module = __name__ if call in REQUESTS else "kaggle"
        limit_s = QUESTION_LIMIT_S if call in QUESTIONS else None
        code, output = run_process(("-m", module, *arguments), self._lock, limit_s)
        text = without_secrets(output)
        entry = without_secrets(f"$ kaggle {shlex.join(arguments)}\n{text.rstrip()}\n-> {code}\n")
        logger.debug("%s", entry.rstrip())
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as stream:
                stream.write(entry)
        if code or not re.search(wanted, text) or (refused and re.search(refused, text, re.IGNORECASE)):
            raise ClientError(arguments, text)
        return text

    def _facts(self, call: str) -> dict[str, Any]:
        """The JSON object that describes something; empty where there is no such thing that we may see."""
        try:
            return _read_json(self._ask(call)) or {}
        except ClientError as error:
            if error.code in (403, 404):  # 403 of a private thing that is not there
                return {}
            raise


def _http_code(text: str) -> int | None:
    """The HTTP status that an error message names; 403 and 404 also where it says so in words."""
    if found := re.search(r"\b([45]\d\d) (?:Client|Server) Error", text):
        return int(found[1])
    if re.search(r"permission .{0,80}denied|forbidden", text, re.IGNORECASE):
        return 403
    return 404 if re.search(r"not found", text, re.IGNORECASE) else None


def _read_json(text: str) -> Any:
    """The JSON value among the lines of an answer, which warnings may stand before; None where there is none."""
    decoder = json.JSONDecoder()
    for found in re.finditer(r"^[\[{]", text, re.MULTILINE):
        try:
            return decoder.raw_decode(text, found.start())[0]
        except ValueError:
            continue
    return None


def probe(request: str, name: str) -> int:
    """Put one of `REQUESTS`; 0 with the answer on stdout, 1 with a message on stderr."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest
    from requests.exceptions import RequestException

    from kaggle import api  # it reads the credentials

    answer: Any
    try:
        if request == "GetKernel":
            asked = ApiGetKernelRequest()
            asked.user_name, asked.kernel_slug = name.split("/")
            with api.build_kaggle_client() as client:
                found = client.kernels.kernels_api_client.get_kernel(asked)
            answer = {"version": found.metadata.current_version_number}
        else:
            names = ("ref", "description", "error_description", "public_score", "private_score")
            found = api.competition_submissions(name) or []
            answer = [{"status": entry.status.name} | {key: getattr(entry, key) for key in names} for entry in found]
    except (RequestException, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(probe(*sys.argv[1:]))
