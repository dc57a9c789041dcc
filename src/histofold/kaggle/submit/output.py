"""What comes back from Kaggle: the output of a kernel that has run, and the log of one that has failed."""

from __future__ import annotations

import csv
from pathlib import Path

from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.submit.explain import BROKEN_DATASET, LOG_WORDS, SUBMISSION_WORDS, explain, read_log
from histofold.schema.manifest import load_manifest

SUBMISSION_NAME = "submission.csv"
WEIGHTS_NAME = "weights"
_LOG_LINES = 15


def check_output(folder: Path, competition: str, training: bool) -> None:
    """See that the output is whole: the client says nothing of a file that did not arrive.

    Args:
        folder: The output.
        competition: Name of the adapter, whose columns a submission must have.
        training: Whether there must be weights instead.

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
    """The fault of a kernel that did not come to its end; the last lines of its log are shown too.

    Args:
        kernel: Its name and version.
        status: What Kaggle says of it.
        folder: Where its log was put, if it could be fetched.
    """
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
