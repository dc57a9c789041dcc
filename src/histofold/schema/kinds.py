"""What a path holds, seen by its files: one thing given where another is wanted is named as what it is."""

from __future__ import annotations

import difflib
from pathlib import Path

from histofold.core.faults import Fault, InputError
from histofold.schema.manifest import MANIFEST_FORMAT, MANIFEST_NAME
from histofold.schema.parse import kept_json, read_toml
from histofold.schema.run_record import RECORD_NAME

KINDS = {
    "experiment": ("an experiment", "name its TOML file, as experiments/E.toml: `histofold train` takes it"),
    "sweep": ("a sweep", "name its TOML file, as experiments/sweep_lr.toml: `histofold sweep` takes it"),
    "joint runs": ("a list of runs", "`histofold package` and `histofold evaluate` take it"),
    "run": ("a run", "name the run's folder, runs/E, as `histofold train` writes it"),
    "fold": ("one fold of a run", "name the run, the folder above it"),
    "dataset": ("a built dataset", "name the folder that `python build_dataset.py` wrote"),
    "weights": ("a folder of weights", "name a folder that `histofold package` has written"),
    "data": ("a folder of images", "name the raw folder, of a competition or with images/"),
}
"""Each kind in words, and how it is named where it is wanted."""
_MOST_MEANT = 3
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")


def require_kind(path: Path, *wanted: str) -> None:
    """Refuse a path that is not there or is recognised as something else; what is not recognised passes.

    Args:
        path: What the user named.
        wanted: The kinds that may stand there, the usual one first.

    Raises:
        InputError: With what it is and what is wanted, or with the name that was meant.
    """
    if not path.exists():
        near = difflib.get_close_matches(path.name, [each.name for each in path.parent.glob("*")], n=1)
        remedy = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        raise InputError([Fault(path.name, str(path), "no such file or folder", remedy)])
    if "data" in wanted and path.suffix.lower() in _ARCHIVES and path.is_file():
        raise InputError([Fault(path.name, str(path), "is an archive", "unpack it, and give the folder that it holds")])
    found, (words, remedy) = _kind_of(path), KINDS[wanted[0]]
    if found and found not in wanted:
        raise InputError([Fault(path.name, str(path), f"is {KINDS[found][0]}, and {words} is wanted", remedy)])
    if not found and "data" not in wanted:
        around = sorted([*path.glob("*"), *path.glob("*/*")]) if path.is_dir() else [path.parent]
        meant = [str(each) for each in around if _kind_of(each) in wanted]
        if meant:
            remedy = f"did you mean {' or '.join(meant[:_MOST_MEANT])}?"
            raise InputError([Fault(path.name, str(path), f"is not {words}", remedy)])


def _kind_of(path: Path) -> str:
    """The kind of a path, empty where nothing says it."""
    if path.suffix == ".toml" and path.is_file():
        return _toml_kind(path)
    if any(path.glob(f"fold*/{RECORD_NAME}")) or any(path.glob("fold*/experiment.toml")):
        return "run"
    if (path / RECORD_NAME).is_file() or (path / "experiment.toml").is_file():
        return "fold"
    if (path / "dataset.json").is_file():
        return "dataset"
    return "weights" if kept_json(path / MANIFEST_NAME).get("format") == MANIFEST_FORMAT else ""


def _toml_kind(path: Path) -> str:
    """The kind of a TOML file by its keys; one that cannot be read is whatever it is taken for."""
    try:
        keys = read_toml(path).keys()
    except InputError:
        return ""
    return "sweep" if "space" in keys else "joint runs" if "runs" in keys else "experiment" if keys else ""
