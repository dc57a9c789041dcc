"""A submission that lies where another one is to be written: kept beside it unless the new one is as good."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from histofold.competitions.base import Competition, submission_columns
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger


@contextmanager
def earlier_kept(out: Path, competition: Competition, classes: Sequence[str]) -> Iterator[None]:
    """Keep what lies at `out` beside it, as NAME.earlier.csv, unless at least as many rows are predicted afterwards.

    A run that is short of time, or fails, would else put fallback rows in place of what hours have made.

    Args:
        out: The submission.
        competition: The adapter.
        classes: Those of the rows.

    Raises:
        InputError: If another file lies there: it would be lost.
    """
    before = _predicted_rows(out, competition, classes)
    if not before:
        yield
        return
    kept = _free_name(out)
    try:
        os.link(out, kept)  # the new one is another file of the same name
    except OSError:
        shutil.copy2(out, kept)
    try:
        yield
    finally:
        after = _predicted_rows(out, competition, classes)
        if after < before:
            logger.warning("%s has %d predicted rows, and before it had %d: that is now %s", out, after, before, kept)
        else:
            kept.unlink()


def _predicted_rows(path: Path, competition: Competition, classes: Sequence[str]) -> int:
    """Rows of a submission that are more than the fallback; 0 where there is no file.

    Raises:
        InputError: If the file is no submission.
    """
    if not path.is_file():
        return 0
    counts = competition.count_rows(path.read_text(encoding="utf-8", errors="replace"), classes)
    if counts is None:
        columns = ", ".join(submission_columns(competition, classes))
        rule = f"another file lies here, without the columns {columns}: it would be lost"
        raise InputError([Fault(path.name, str(path), rule, "give another --out, or move it away")])
    return counts[1]


def _free_name(out: Path) -> Path:
    numbers = ("", *map(str, range(2, 1000)))
    names = (out.with_name(f"{out.stem}.earlier{number}{out.suffix}") for number in numbers)
    return next(name for name in names if not name.exists())
