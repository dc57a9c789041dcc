"""A submission held to the host's rules: columns, rows and, beside its competition folder, ids, order and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from histofold.competitions.answers import check_results, vessel_row_faults
from histofold.competitions.base import Competition, submission_columns
from histofold.competitions.labels import cut_faults
from histofold.competitions.registry import detect_competition, get_competition, submission_competition
from histofold.competitions.tables import CLASS_KEYS, TABLE_ANY_SHAPE, header_shape_of, scan_host_table, table_header
from histofold.competitions.vrdl_nuclei import VrdlNuclei
from histofold.core.faults import Fault, InputError
from histofold.core.rle.runs import parse_rle
from histofold.schema.sample import Sample


def check_submission(path: Path, data: Path | None = None, competition: str = "") -> list[str]:
    """Check columns and rows of a submission; with a competition folder also ids, order and sizes.

    Args:
        path: The csv, or the answer.json of nuclei.
        data: The competition folder that it answers.
        competition: Name of the adapter; else that of the folder, or the one whose columns the file has.

    Returns:
        What was not checked, in words.

    Raises:
        InputError: With every fault.
    """
    if competition or data is None:
        adapter = get_competition(competition) if competition else submission_competition(path)
    else:
        adapter = detect_competition(data)
    if isinstance(adapter, VrdlNuclei):
        return check_results(path, None if data is None else adapter.test_shapes(data))
    table, faults = scan_host_table(path, adapter.columns, CLASS_KEYS if adapter.class_column else ("id",))
    if not set(adapter.columns) <= set(table.columns):
        raise InputError(faults)
    classes = _submission_classes(adapter, table)
    columns = submission_columns(adapter, classes)
    header = table_header(path)
    if header != list(columns):
        rule = f"columns are {', '.join(header)}"
        faults.append(Fault("columns", str(path), rule, f"write exactly {', '.join(columns)}"))
    faults += _class_faults(path, table, classes)
    shapes: dict[str, tuple[int, int]] = {}
    if data is not None:
        samples = adapter.samples(data, "test")
        ids = list(dict.fromkeys(table["id"])) if classes else table["id"].tolist()
        if ids != [sample.id for sample in samples]:
            rule = f"{len(ids)} ids that are not the {len(samples)} of sample_submission.csv in its order"
            faults.append(Fault("id", str(path), rule, "write every id once, in the sample's order"))
        shapes = _image_shapes(samples)
    cut = cut_faults(path, table["id"], table[adapter.columns[-1]].tolist(), adapter.columns[-1])
    faults += cut.values()
    whole = table.drop(index=table.index[list(cut)])
    is_objects = adapter.task == "instances"
    faults += vessel_row_faults(path, whole, shapes) if is_objects else _row_faults(path, whole, adapter, shapes)
    if faults:
        raise InputError(faults)
    return [] if data is not None else ["without --data neither ids nor sizes were checked"]


def _image_shapes(samples: Sequence[Sample]) -> dict[str, tuple[int, int]]:
    """Height and width by id of the images that can be opened."""
    shapes = {sample.id: header_shape_of(sample.image_path) for sample in samples}
    return {key: shape_hw for key, shape_hw in shapes.items() if shape_hw is not None}


def _row_faults(
    path: Path, table: pd.DataFrame, adapter: Competition, shapes: dict[str, tuple[int, int]]
) -> list[Fault]:
    """Rows that are empty where none may be, or whose run lengths are malformed."""
    faults = []
    for row in table.to_dict("records"):
        text = row[adapter.columns[1]]
        if not text and adapter.never_empty:
            faults.append(Fault(row["id"], str(path), "empty row", f"write {adapter.fallback_row!r} at least"))
        if text == adapter.fallback_row:  # legal, whatever it says of pixels
            continue
        try:
            parse_rle(text, shapes.get(row["id"], TABLE_ANY_SHAPE))
        except ValueError as error:
            faults.append(Fault(row["id"], str(path), f"malformed rle: {error}", "encode the mask anew"))
    return faults


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
