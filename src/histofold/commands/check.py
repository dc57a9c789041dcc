"""`histofold check dataset|weights|submission|kernel|log PATH`: every fault, one line each.

Only `weights` loads torch.
"""

from __future__ import annotations

import contextlib
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
import tyro

from histofold.commands.options import parse_options
from histofold.competitions.base import CLASS_KEYS, Competition, scan_table
from histofold.competitions.classes import submission_columns
from histofold.competitions.registry import detect_competition, get_competition, submission_competition
from histofold.core.faults import Fault, InputError
from histofold.core.rle.runs import parse_rle
from histofold.data.audit import audit_folder, audit_test_images
from histofold.data.explore.folder import Exploration, Explorer
from histofold.imaging.errors import ImageError
from histofold.imaging.slide import open_slide
from histofold.kaggle.metadata.checks import KERNEL_METADATA_NAME
from histofold.kaggle.metadata.files import check_kernel_metadata
from histofold.kaggle.submit.client_text import read_log
from histofold.kaggle.submit.explain import explain
from histofold.kaggle.weights_checks import check_weights_folder, read_metadata
from histofold.schema.sample import Sample

LABEL_IMAGES = ("train_images", "train")
"""Folders of images that adapters want beside a table of labels; empty ones where the table is all there is."""


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
        "dataset": check_dataset,
        "weights": check_weights,
        "submission": check_submission,
        "kernel": check_kernel,
        "log": check_log,
    }
    for notice in checks[options.what](options):
        print(f"notice: {notice}")
    print(f"{options.path}: no faults")
    return 0


def check_dataset(options: CheckOptions) -> list[str]:
    """Hold a competition folder's tables and images against each other, both splits, every pixel decoded.

    What deserves a look but is no fault is counted here and told in the report.
    """
    if options.path.is_file():
        with labels_as_folder(options.path) as root:
            try:
                return _check_folder(options, root)
            except InputError as error:
                raise InputError([_fault_of_table(fault, options.path, root) for fault in error.faults]) from None
    return _check_folder(options, options.path)


def _check_folder(options: CheckOptions, root: Path) -> list[str]:
    """Check a folder; of labels alone (`root` is not the path then) no images are looked for."""
    adapter = get_competition(options.competition) if options.competition else detect_competition(root)
    explorer = Explorer(adapter)
    if root == options.path:
        samples, faults = audit_folder(adapter, root, decode=True, look=explorer.look)
        faults += audit_test_images(adapter, root)
    else:
        samples, faults = adapter.inspect(root, "train")
        for sample in samples:
            with contextlib.suppress(InputError):  # a label that is at fault is among the faults already
                explorer.look_at_labels(sample, adapter.target(sample))
    folds, leaks, exploration = None, [], explorer.finish()
    if options.folds is not None:
        from histofold.data.folds import read_folds  # with scikit-learn, which a bare check spares
        from histofold.data.leaks import find_leaks

        try:
            folds = read_folds(options.folds, samples)
            leaks = find_leaks(folds, samples, clusters=exploration.clusters).notices
        except InputError as error:
            faults += error.faults
    _tell_notices(options, adapter, samples, exploration, folds, leaks)
    if faults:
        raise InputError(faults)
    return []


@contextlib.contextmanager
def labels_as_folder(table: Path) -> Iterator[Path]:
    """A table of labels as a competition folder without images, for as long as the context lasts.

    Args:
        table: A train.csv under any name, plain or gzipped.

    Raises:
        InputError: If it is gzipped but broken.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for images in LABEL_IMAGES:
            (root / images).mkdir()
        opened = gzip.open if table.suffix == ".gz" else open
        try:
            with opened(table, "rb") as source, (root / "train.csv").open("wb") as target:
                shutil.copyfileobj(source, target)
        except (OSError, EOFError, zlib.error) as error:
            rule = f"cannot be read ({error})"
            raise InputError([Fault(table.stem, str(table), rule, "download it again")]) from error
        yield root


def _fault_of_table(fault: Fault, table: Path, root: Path) -> Fault:
    """A fault of `labels_as_folder` as one of the table that the user gave."""
    if not Path(fault.file).is_relative_to(root):
        return fault
    return replace(fault, file=str(table), id=table.stem if fault.id == root.name else fault.id)


def _tell_notices(
    options: CheckOptions,
    adapter: Competition,
    samples: Sequence[Sample],
    exploration: Exploration,
    folds: pd.DataFrame | None,
    leaks: Sequence[str],
) -> None:
    """Print the count of notices and write the report, where it is wanted or there is something to tell."""
    notices = exploration.notices
    path, count = options.report, len(notices) + len(leaks)
    if path is None and count:
        path = Path("dataset_report.html")
        if Path.cwd().is_relative_to(options.path.resolve()):
            print(f"notices: {count}; --report PATH writes them down")
            return
    if path is None:
        return
    from histofold.commands.pictures import notice_pictures, sample_slides  # with matplotlib, which a bare check spares
    from histofold.report.explore import explore_sections
    from histofold.report.reports import write_dataset_report

    has_images = any(fact.fingerprint is not None for fact in exploration.facts)
    seen = {fact.sample.id for fact in exploration.facts}
    shown = [sample for sample in samples if sample.id in seen] if has_images else []
    pictures = notice_pictures(adapter, shown, notices)
    explored = explore_sections(exploration, folds, sample_slides(adapter, shown), pictures)
    facts = {
        "images": len(seen),
        "groups": len({sample.group or sample.id for sample in samples}),
        "organs": len({sample.organ for sample in samples}),
        "notices": count,
    }
    write_dataset_report(path, facts=facts, folds=folds, notices=leaks, explored=explored)
    print(f"notices: {count}; report: {path}")


def check_weights(options: CheckOptions) -> list[str]:
    """Check manifest, members, wheels and metadata of a weights folder, and tell its size."""
    return check_weights_folder(options.path)[1]


def check_kernel(options: CheckOptions) -> list[str]:
    """Check the metadata of a kernel's folder, and that its code is there."""
    folder = options.path if options.path.is_dir() else options.path.parent
    faults, notices = check_kernel_metadata(read_metadata(folder / KERNEL_METADATA_NAME), folder)
    if faults:
        raise InputError(faults)
    return notices


def check_log(options: CheckOptions) -> list[str]:
    """Explain every known word of Kaggle's in a file."""
    try:
        text = options.path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError([Fault("log", str(options.path), str(error.strerror), "check the path")]) from error
    known = explain(f"{text}\n{read_log(text)}")  # Kaggle gives a log in pieces, as JSON
    if known:
        raise InputError([Fault(entry.words, str(options.path), entry.cause, entry.cure) for entry in known])
    return []


def _submission_classes(adapter: Competition, table: pd.DataFrame) -> tuple[str, ...]:
    """The classes of a submission in the order of its first id; none where it has no column of classes."""
    if not adapter.class_column or adapter.class_column not in table.columns or table.empty:
        return ()
    return tuple(table.loc[table["id"] == table["id"].iloc[0], adapter.class_column])


def _class_faults(path: Path, table: pd.DataFrame, classes: Sequence[str]) -> list[Fault]:
    """Ids whose rows are not one for each class, together and in one order."""
    if not classes:
        return []
    if len(classes) == 1:
        rule = f"a column of classes for the single class {classes[0]!r}"
        return [Fault("class", str(path), rule, "write a row for each class, or leave the column out")]
    nameless = table.loc[table["class"] == "", "id"]
    faults = [Fault(key, str(path), "row without a class", "write its class") for key in nameless]
    together = table["id"].ne(table["id"].shift()).cumsum()
    for _, rows in table.groupby(together, sort=False):
        if tuple(rows["class"]) != tuple(classes):
            rule = f"its rows are of {', '.join(rows['class'])} and those of the first id of {', '.join(classes)}"
            faults.append(Fault(rows["id"].iloc[0], str(path), rule, "write a row for each class, in one order"))
    return faults


def check_submission(options: CheckOptions) -> list[str]:
    """Check columns and rows; with --data also ids, order and sizes."""
    if options.competition:
        adapter = get_competition(options.competition)
    else:
        adapter = detect_competition(options.data) if options.data else submission_competition(options.path)
    table, faults = scan_table(options.path, adapter.columns, CLASS_KEYS if adapter.class_column else ("id",))
    if not set(adapter.columns) <= set(table.columns):
        raise InputError(faults)
    classes = _submission_classes(adapter, table)
    columns = submission_columns(adapter, classes)
    if list(table.columns) != list(columns):
        rule = f"columns are {', '.join(table.columns)}"
        faults.append(Fault("columns", str(options.path), rule, f"write exactly {', '.join(columns)}"))
    faults += _class_faults(options.path, table, classes)
    ids = list(dict.fromkeys(table["id"])) if classes else table["id"].tolist()
    shapes: dict[str, tuple[int, int]] = {}
    if options.data is not None:
        samples = adapter.samples(options.data, "test")
        if ids != [sample.id for sample in samples]:
            rule = f"{len(ids)} ids that are not the {len(samples)} of sample_submission.csv in its order"
            faults.append(Fault("id", str(options.path), rule, "write every id once, in the sample's order"))
        for sample in samples:
            try:
                with open_slide(sample.image_path) as slide:
                    shapes[sample.id] = slide.shape_hw
            except ImageError:
                continue
    for row in table.to_dict("records"):
        shape_hw = shapes.get(row["id"], (2**24, 2**24))
        text = row[adapter.columns[1]]
        if not text and adapter.never_empty:
            faults.append(Fault(row["id"], str(options.path), "empty row", f"write {adapter.fallback_row!r} at least"))
        try:
            parse_rle(text, shape_hw)
        except ValueError as error:
            faults.append(Fault(row["id"], str(options.path), f"malformed rle: {error}", "encode the mask anew"))
    if faults:
        raise InputError(faults)
    return [] if options.data else ["without --data neither ids nor sizes were checked"]
