"""The ledger of submissions: a line of JSON for each, only ever added to."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from histofold.core.log import logger
from histofold.kaggle.submit.state import SubmitState

LEDGER_NAME = "submissions.jsonl"


def ledger_line(state: SubmitState, message: str) -> dict[str, Any]:
    """What the ledger keeps of a finished submission."""
    return {
        "name": state.name,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "competition": state.competition,
        "message": message,
        "weights_sha256": state.weights_sha256,
        "kernel_sha256": state.kernel_sha256,
        "dataset": f"{state.dataset}/{state.dataset_version}",
        "kernel": f"{state.kernel}/{state.kernel_version}",
        "ref": state.ref,
        "status": state.status,
        "error": state.error,
        "public_score": state.public_score,
        "private_score": state.private_score,
    }


def add_line(path: Path, line: dict[str, Any]) -> bool:
    """Add a line to the ledger, unless one of its name is there.

    A line that a killed process has left half-written is ended first, so that it spoils no other.

    Returns:
        Whether it was added.
    """
    if any(entry.get("name") == line["name"] for entry in read_ledger(path)):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, ("\n" * torn + json.dumps(line) + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """All whole lines, oldest first; none where there is no ledger."""
    if not path.is_file():
        return []
    entries = []
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            entry = json.loads(text)
        except ValueError:
            logger.warning("%s: line %d is no whole entry and is passed over", path, number)
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries
