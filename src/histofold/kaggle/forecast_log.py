"""The forecast for the hidden set from the log of a real visible run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from histofold.core.faults import Fault, InputError
from histofold.kaggle.submit.client_text import read_log
from histofold.kernels.forecast import TIMING_MARK, RehearsalTiming, parse_timing


def read_log_timing(path: Path, hidden_images: int | None = None, hidden_side: int | None = None) -> RehearsalTiming:
    """The last timing that a kernel's log holds.

    Args:
        path: The log: text, or Kaggle's JSON list of {stream_name, time, data}.
        hidden_images: Count of hidden images instead of the log's.
        hidden_side: Their side in pixels instead of the log's.

    Raises:
        InputError: If the file cannot be read, or holds no timing or a broken one.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        rule = f"cannot be read ({error.strerror})"
        raise InputError([Fault(path.stem, str(path), rule, "check the path")]) from error
    lines = [line for line in read_log(text).splitlines() if f"{TIMING_MARK} " in line]
    if not lines:
        rule = f"no line `{TIMING_MARK} {{...}}`: only a run on the visible images times a slide, where time is left"
        remedy = "fetch the log of the kernel's version that was pushed, not of the scored run"
        raise InputError([Fault(path.stem, str(path), rule, remedy)])
    try:
        timing = parse_timing(lines[-1])
    except ValueError as error:
        raise InputError([Fault(path.stem, str(path), str(error), "fetch the log again")]) from error
    return replace(
        timing,
        hidden_images=timing.hidden_images if hidden_images is None else hidden_images,
        hidden_side=timing.hidden_side if hidden_side is None else hidden_side,
    )
