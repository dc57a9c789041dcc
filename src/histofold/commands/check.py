"""`histofold check dataset|weights|submission|kernel|log PATH`: every fault, one line each.

Only `weights` loads torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from histofold.commands import parse_options
from histofold.core.faults import Fault, InputError
from histofold.schema.kinds import require_kind


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """List every fault; exit status 2 where there is one.

    `log` explains Kaggle's words instead: those of the page of submissions (Threw Exception, Exceeded Allowed Compute,
    CSV Not Found, Scoring Error, Timeout), of the client, and of a kernel's log.
    """

    what: tyro.conf.Positional[Literal["dataset", "weights", "submission", "kernel", "log"]]
    """What PATH is."""
    path: tyro.conf.Positional[Path]
    """The competition folder (or its table of labels alone, .csv or .csv.gz), the weights folder, the submission file,
    the kernel's folder, or a file that holds what Kaggle said."""
    competition: str = ""
    """Name of the adapter; detected where it is not given."""
    data: Path | None = None
    """The competition folder that a submission is held against."""
    report: Path | None = None
    """Where a dataset's report goes; else to ./dataset_report.html, and only where something was noticed."""
    folds: Path | None = None
    """A folds.csv that a dataset is held against, and that its report shows."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(CheckOptions, "check", arguments)
    checks: dict[str, Callable[[CheckOptions], list[str]]] = {
        "dataset": _check_dataset,
        "weights": _check_weights,
        "submission": _check_submission,
        "kernel": _check_kernel,
        "log": _check_log,
    }
    if options.what in ("dataset", "weights"):
        require_kind(options.path, "weights" if options.what == "weights" else "data")
    for notice in checks[options.what](options):
        print(f"notice: {notice}")
    print(f"{options.path}: no faults")
    return 0


def _check_dataset(options: CheckOptions) -> list[str]:
    from histofold.data.check import check_folder

    checked = check_folder(options.path, options.competition, options.folds)
    path = options.report or Path("dataset_report.html")
    if options.report is None and checked.notices and Path.cwd().is_relative_to(options.path.resolve()):
        print(f"notices: {checked.notices}; --report PATH writes them down")
    elif options.report is not None or checked.notices:
        from histofold.report.dataset import write_check_report  # with matplotlib, which is slow to load

        write_check_report(path, checked)
        print(f"notices: {checked.notices}; report: {path}")
    if checked.faults:
        raise InputError(checked.faults)
    return []


def _check_weights(options: CheckOptions) -> list[str]:
    from histofold.kaggle.weights_folder import check_weights_folder

    return check_weights_folder(options.path)[1]


def _check_submission(options: CheckOptions) -> list[str]:
    from histofold.competitions.check import check_submission

    return check_submission(options.path, options.data, options.competition)


def _check_kernel(options: CheckOptions) -> list[str]:
    from histofold.kaggle.metadata.kernel import read_kernel_metadata

    return read_kernel_metadata(options.path if options.path.is_dir() else options.path.parent)[1]


def _check_log(options: CheckOptions) -> list[str]:
    from histofold.kaggle.submit.explain import explain, read_log

    try:
        text = options.path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError([Fault("log", str(options.path), str(error.strerror), "check the path")]) from error
    known = explain(f"{text}\n{read_log(text)}")  # Kaggle gives a log in pieces, as JSON
    if known:
        raise InputError([Fault(entry.words, str(options.path), entry.cause, entry.cure) for entry in known])
    return []
