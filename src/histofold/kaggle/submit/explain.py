"""What comes back from Kaggle: what words and logs mean, what to do about it, and whether an output is whole."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path

from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.schema.manifest import load_manifest


@dataclass(frozen=True)
class Explanation:
    """One symptom in plain words."""

    words: str
    """The words that Kaggle uses."""
    form: str
    """What to look for in a text, a regular expression without regard to case."""
    cause: str
    """Why it happens."""
    cure: str
    """What to do."""

    def __str__(self) -> str:
        return f"{self.words}: {self.cause}; {self.cure}"


SUBMISSION_WORDS = (
    Explanation(
        "Threw Exception",
        r"threw (an )?exception",
        "the kernel failed on the hidden images, though it ran on the visible ones",
        "run `histofold simulate` on large, empty and damaged images, and read its log",
    ),
    Explanation(
        "Exceeded Allowed Compute",
        r"exceeded allowed compute",
        "the kernel used up the machine's memory or its disk",
        "take fewer members or a smaller tile, and write nothing but the submission",
    ),
    Explanation(
        "CSV Not Found",
        r"csv not found",
        "there was no submission.csv at the end: the kernel stopped before it wrote one",
        "read the log of the version that was run; the file belongs into /kaggle/working",
    ),
    Explanation(
        "Scoring Error",
        r"scoring error",
        "the file has wrong rows, columns, types, or empty values",
        "run `histofold check submission FILE --data DIR`, and package weights of this very competition",
    ),
    Explanation(
        "Timeout",
        r"\btime(d|s)?[ -]?out\b",
        "the kernel ran longer than the competition allows",
        "take fewer members or views; `histofold simulate` shows the time beforehand",
    ),
)
"""What the page of submissions says where a kernel was not scored."""

CLIENT_WORDS = (
    Explanation(
        "401, authentication required",
        r"\b401 client error|authentication required|unauthenticated|unauthorized",
        "Kaggle does not know who you are: no token, or one that has expired",
        "make a new token in your account's settings, and set KAGGLE_API_TOKEN or save it as ~/.kaggle/access_token",
    ),
    Explanation(
        "accept the rules",
        r"accept .{0,60}rules",
        "you have not joined this competition",
        "open its page, accept its rules, and run the same command again",
    ),
    Explanation(
        "verify your phone",
        r"verif\w+ .{0,40}phone|phone.{0,40}verif",
        "Kaggle lends a GPU and the internet only to accounts with a verified phone number",
        "verify it in your account's settings",
    ),
    Explanation(
        "403 Forbidden",
        r"\b403 client error|forbidden|permission .{0,60}denied",
        "the first upload is still being processed, or the name in the metadata is not your account's",
        "wait until `kaggle datasets status` says ready; else compare --owner with `kaggle config view`",
    ),
    Explanation(
        "404 Not Found",
        r"\b404 client error|could not find (the )?(competition|dataset|kernel)|not found for url",
        "there is nothing of this name, or it is not yours to see",
        "compare owner and slug with the address in your browser",
    ),
    Explanation(
        "already in use",
        r"already in use|already exists",
        "there is a dataset of this title or slug",
        "choose another slug: `histofold package ... --slug NAME`",
    ),
    Explanation(
        "Upload unsuccessful",
        r"upload unsuccessful",
        "a file was cut off on its way, and Kaggle would make a dataset without it",
        "run the same command again: it makes a new version with all files",
    ),
    Explanation(
        "not valid dataset sources",
        r"not valid (dataset|competition|kernel) sources",
        "Kaggle has dropped an input of the kernel: it does not exist, or is not yours to see",
        "look at dataset_sources and competition_sources, and accept the competition's rules",
    ),
    Explanation(
        "Maximum batch GPU session count",
        r"maximum .{0,30}session count",
        "as many of your kernels run as Kaggle allows at once",
        "wait until one has ended, or stop it on its page, and run the same command again",
    ),
    Explanation(
        "GPU quota",
        r"quota\b.{0,40}(exceeded|reached|used)|(exceeded|reached|used).{0,40}\bquota",
        "the week's hours of this accelerator are used up",
        "wait for the next week, or ask for another --accelerator",
    ),
    Explanation(
        "429 Too Many Requests",
        r"\b429 client error|too many requests",
        "Kaggle was asked too often, or the day's submissions are used up",
        "wait some minutes, or until the next day (UTC)",
    ),
    Explanation(
        "no connection",
        r"connection ?error|max retries exceeded|name or service not known|connection (refused|reset|aborted)",
        "the network was away",
        "run the same command again: it goes on from the last finished step",
    ),
)
"""What the command line client says."""

BROKEN_DATASET = Explanation(
    "SHA-256",
    r"SHA-?256 is not|no such file beside the manifest",
    "a file of the weights is missing, or not the one that the manifest names",
    "run `histofold submit` again, so that a whole version is uploaded",
)

LOG_WORDS = (
    Explanation(
        "CUDA out of memory",
        r"cuda.{0,20}out of memory|OutOfMemoryError",
        "the GPU's memory was used up",
        "package with a smaller batch or tile",
    ),
    Explanation(
        "Killed, MemoryError",
        r"\bMemoryError\b|exit code 137|\bkilled\s*$|DefaultCPUAllocator",
        "the machine's memory was used up",
        "take fewer members, or smaller regions at a time",
    ),
    Explanation(
        "No space left on device",
        r"no space left on device",
        "/kaggle/working holds 20 GB",
        "write nothing but the submission there",
    ),
    Explanation(
        "ModuleNotFoundError",
        r"ModuleNotFoundError|No module named",
        "Kaggle's image lacks a package, and its wheel is not in the dataset",
        "run `histofold package` again: it puts the wheels beside the weights",
    ),
    Explanation(
        "no internet",
        r"temporary failure in name resolution|failed to resolve|network is unreachable",
        "something asked for the internet, which is off in a kernel",
        "put what it wanted into the dataset",
    ),
    Explanation(
        "no weights, no competition",
        r"\bno [^\n]{0,60}(manifest\.json|sample_submission\.csv)|FileNotFoundError[^\n]*/kaggle/input",
        "the kernel did not find its weights or the competition's folder below /kaggle/input",
        "look at dataset_sources and competition_sources, and accept the competition's rules",
    ),
    BROKEN_DATASET,
)
"""What the log of a kernel says."""


def explain(text: str, *tables: tuple[Explanation, ...]) -> list[Explanation]:
    """Every known symptom that a text shows, by the tables that are given or by all.

    Returns:
        The symptoms in the order of the tables; where a client's message fits several, those that stand first are
        the more special ones.
    """
    wanted = tables or (SUBMISSION_WORDS, CLIENT_WORDS, LOG_WORDS)
    return [entry for table in wanted for entry in table if re.search(entry.form, text, re.IGNORECASE | re.DOTALL)]


def read_log(text: str) -> str:
    """What a kernel printed, from its log as text or as Kaggle's JSON list, also one that was cut short."""
    if not text.lstrip().startswith("["):
        return text
    decoder, place, pieces = json.JSONDecoder(), text.index("[") + 1, []
    while (start := text.find("{", place)) >= 0:
        try:
            entry, place = decoder.raw_decode(text, start)
        except ValueError:
            break
        pieces.append(str(entry.get("data", "")))
    return "".join(pieces) or text


SUBMISSION_NAME = "submission.csv"
WEIGHTS_NAME = "weights"
_LOG_LINES = 15


def check_output(folder: Path, competition: str, training: bool) -> None:
    """See that the output is whole: the client says nothing of a file that did not arrive.

    A training run must have left weights, any other a submission with the columns of its competition.

    Raises:
        InputError: It is not; with the manifest's faults and those of its files for weights.
    """
    if training:
        load_manifest(folder / WEIGHTS_NAME)
        return
    path = folder / SUBMISSION_NAME
    if not path.is_file():
        rule = f"the kernel came to its end without a {SUBMISSION_NAME}"
        raise InputError([Fault(SUBMISSION_NAME, str(folder), rule, "read its log there; write the kernel anew")])
    with path.open(newline="", encoding="utf-8") as stream:
        header = next(csv.reader(stream), [])
    columns = get_competition(competition).columns
    if tuple(header) != tuple(columns):
        rule = f"its columns are {', '.join(header)} and not {', '.join(columns)}"
        raise InputError([Fault(SUBMISSION_NAME, str(path), rule, "package weights of this competition")])


def blames_dataset(folder: Path) -> bool:
    """Whether the log of a kernel that failed says that files of its dataset are missing or changed."""
    return bool(explain(_logs(folder), (BROKEN_DATASET,)))


def failed_run(kernel: str, status: str, folder: Path) -> Fault:
    """The fault of a kernel that did not come to its end; the last lines of its log are shown too."""
    text = _logs(folder)
    for line in text.splitlines()[-_LOG_LINES:]:
        logger.error("log: %s", line)
    known = explain(f"{status}\n{text}", LOG_WORDS, SUBMISSION_WORDS)
    why = "; ".join(map(str, known[:2])) if known else "the log says why"
    remedy = f"{why}; then run the same command again: it pushes the kernel anew"
    return Fault(kernel, str(next(iter(sorted(folder.glob("*.log"))), folder)), status, remedy)


def _logs(folder: Path) -> str:
    """What the logs in a folder say."""
    paths = sorted(folder.glob("*.log"))
    return "\n".join(read_log(path.read_text(encoding="utf-8", errors="replace")) for path in paths)
