"""runs/ledger.csv: every evaluated run in one table, with what it was made of, its score here and on the board."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from histofold.core.faults import InputError
from histofold.schema.experiment import Experiment
from histofold.schema.files import LineJournal, write_atomically
from histofold.schema.manifest import MANIFEST_NAME
from histofold.schema.parse import kept_json, load_toml
from histofold.schema.run_record import RunRecord, read_records

LEDGER_NAME = "ledger.csv"
LEDGER_COLUMNS = (
    *("run", "evaluated", "metric", "score", "low", "high", "shift", "images", "groups", "folds", "missing_folds"),
    *("steps", "seed", "architecture", "settings", "data", "weights", "histofold", "public", "private", "submission"),
)
DIGEST_LETTERS = 12
_SCORES = ("surface_dice", "score", "dice")
"""Where summary.json holds the headline, of volumes, objects and masks."""


def write_ledger(runs: Path) -> pd.DataFrame:
    """Write RUNS/ledger.csv anew from what the runs hold; nothing is in it that is not in their files.

    A run's board score is that of the last submission of RUNS/submissions whose weights hold every fold of it.

    Args:
        runs: The folder of the runs.

    Returns:
        The table, by the time of the evaluation.
    """
    board = _board_scores(runs / "submissions")
    rows = [row for run in sorted(runs.iterdir()) if (row := _row(run, board)) is not None]
    table = pd.DataFrame(rows, columns=list(LEDGER_COLUMNS)).sort_values("evaluated", kind="stable")
    write_atomically(runs / LEDGER_NAME, table.to_csv(index=False, float_format="%.6f"))
    return table


def _row(run: Path, board: Mapping[frozenset[str], Mapping[str, Any]]) -> dict[str, Any] | None:
    """The row of a run; None of a folder that is no evaluated run, or whose files cannot be read."""
    path = run / "summary.json"
    summary = kept_json(path)
    try:
        records = list(read_records(run).values()) if summary else []
        experiment = load_toml(Experiment, next(iter(sorted(run.glob("fold*/experiment.toml"))))) if records else None
    except InputError:
        return None
    if experiment is None or not {"weights_sha256", "images"} <= summary.keys():
        return None
    low, high = summary.get("interval") or (None, None)
    weights = frozenset(summary["weights_sha256"].values())
    submitted = next((entry for held, entry in board.items() if weights <= held), {})
    return {
        "run": run.name,
        "evaluated": pd.Timestamp(path.stat().st_mtime, unit="s", tz="UTC").isoformat(timespec="seconds"),
        "metric": summary.get("metric", "Dice"),
        "score": next((summary[name] for name in _SCORES if name in summary), None),
        "low": low,
        "high": high,
        "shift": summary.get("shift", {}).get("dice"),
        **{name: summary.get(name) for name in ("images", "groups")},
        "folds": len(records),
        "missing_folds": " ".join(map(str, summary.get("missing_folds", ()))),
        "steps": experiment.train.steps,
        "seed": experiment.train.seed,
        "architecture": experiment.model.words,
        "settings": records[0].settings_sha256[:DIGEST_LETTERS],
        "data": _data_digest(records),
        "weights": _digest(sorted(weights)),
        "histofold": records[0].manifest.versions.get("histofold", version("histofold")),
        "public": submitted.get("public_score"),
        "private": submitted.get("private_score"),
        "submission": submitted.get("name", ""),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:DIGEST_LETTERS]


def _data_digest(records: list[RunRecord]) -> str:
    """Identifies pixels, masks and folds of what a run was trained on."""
    return _digest([sorted(record.inputs.items()) for record in records])


def _board_scores(folder: Path) -> dict[frozenset[str], dict[str, Any]]:
    """The submissions that were scored, the last first, by the SHA-256 of the weights in them."""
    path = folder / "submissions.jsonl"
    found: dict[frozenset[str], dict[str, Any]] = {}
    for entry in reversed(LineJournal(path).entries if path.is_file() else []):
        manifest = kept_json(folder / str(entry.get("name", "")) / "dataset" / MANIFEST_NAME)
        held = frozenset(str(member.get("sha256")) for member in manifest.get("members", ()))
        if held and entry.get("public_score") not in (None, ""):
            found.setdefault(held, entry)
    return found
