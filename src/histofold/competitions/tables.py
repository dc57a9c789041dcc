"""The tables of competitions: read as far as they can be made out, with every fault of them."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from histofold.core.faults import Fault, ImageError, InputError
from histofold.core.log import logger
from histofold.core.rle.runs import Runs, parse_rle
from histofold.imaging.slide import open_slide

CLASS_KEYS = ("id", "class")
"""What identifies a row of a table of several classes; of a table without classes it is the id alone."""
TABLE_ANY_SHAPE = (1 << 24, 1 << 24)
"""Larger than any slide: stands for the size of an image that cannot be opened."""
_CSV_FIELD_LIMIT = 1 << 30  # characters; the rle of one slide may be many megabytes


def read_table(path: Path, required: Sequence[str]) -> pd.DataFrame:
    """As `scan_table`, for tables that must be without fault.

    Raises:
        InputError: If the file is missing or is no csv, or with every fault of its rows and columns.
    """
    table, faults = scan_table(path, required)
    if faults:
        raise InputError(faults)
    return table


def scan_table(path: Path, required: Sequence[str], keys: Sequence[str] = ("id",)) -> tuple[pd.DataFrame, list[Fault]]:
    """Read a csv as far as it can be made out: every value as it stands, as text.

    Cells that are not there are empty strings, empty lines and surplus empty fields are dropped. Of rows of one id
    (of one key), and of columns of one name, the first is kept.

    Args:
        path: The file.
        required: Columns that must be there; one that is not is a fault and stays absent from the table.
        keys: The id and, where an id may have several rows, what identifies each.

    Returns:
        The table, and its faults: missing or repeated columns, rows without or of one id, rows longer than the header.

    Raises:
        InputError: If the file is missing, empty, or no csv.
    """
    (_, names), *lines = _csv_table_lines(path)
    faults = _table_header_faults(path, names, required)
    place = names.index("id") if "id" in names else None
    places = [names.index(name) for name in keys if name in names]
    seen: dict[str, int] = {}
    rows = []
    for number, fields in lines:
        cells = (fields + [""] * len(names))[: len(names)]
        key = "" if place is None else cells[place]
        if any(fields[len(names) :]):
            rule = f"line {number} has {len(fields)} fields and the header {len(names)}"
            remedy = "take the surplus out, or quote the text that holds a comma"
            faults.append(Fault(key or f"line {number}", str(path), rule, remedy))
        if place is not None:
            if not key:
                faults.append(Fault(f"line {number}", str(path), "row without an id", "write its id, or drop the row"))
                continue
            full = " ".join(cells[each] for each in places)
            seen[full] = seen.get(full, 0) + 1
            if seen[full] > 1:
                continue
        rows.append(cells)
    key_words = " and ".join(name for name in keys if name in names)
    rule, remedy = f"duplicate {key_words}", f"keep one row an {key_words}"
    faults += [Fault(key, str(path), rule, remedy) for key, count in seen.items() if count > 1]
    table = pd.DataFrame(rows, columns=names, dtype=str)
    return table.loc[:, ~table.columns.duplicated()], faults


def _csv_table_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and fields of the header and of each row that is not empty.

    Raises:
        InputError: If the file is missing, empty, or no csv.
    """
    if not path.is_file():
        raise InputError([Fault(path.stem, str(path), "no such file", "check the path")])
    csv.field_size_limit(_CSV_FIELD_LIMIT)
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            # Strict, so that a quote that never ends is an error and does not swallow the rest of the table.
            reader = csv.reader(stream, strict=True)
            lines = [(reader.line_num, fields) for fields in reader if any(fields)]
    except (csv.Error, ValueError, OSError) as error:
        raise InputError([Fault(path.stem, str(path), f"not a csv table ({error})", "download it again")]) from error
    if not lines:
        raise InputError([Fault(path.stem, str(path), "the table is empty", "download it again")])
    broken = [number for number, fields in lines if any("\0" in field for field in fields)]
    if broken:
        rule = f"not a csv table (line {broken[0]} holds NUL bytes)"
        raise InputError([Fault(path.stem, str(path), rule, "download it again")])
    return lines


def _table_header_faults(path: Path, names: Sequence[str], required: Sequence[str]) -> list[Fault]:
    known = ", ".join(names)
    faults = [
        Fault(column, str(path), "missing column", f"add it; the file has: {known}")
        for column in required
        if column not in names
    ]
    repeated = dict.fromkeys(name for name in names if name and names.count(name) > 1)
    return faults + [Fault(name, str(path), "two columns of this name", "keep one") for name in repeated]


def rows_by_id(path: Path, required: Sequence[str]) -> tuple[dict[str, dict[str, str]], list[Fault]]:
    """The rows of a table that may be at fault or absent, by id, and its faults; no rows where it has no ids."""
    try:
        table, faults = scan_table(path, required)
    except InputError as error:
        return {}, error.faults
    if "id" not in table.columns:
        return {}, faults
    return {row["id"]: row for row in table.to_dict("records")}, faults


def submission_ids(path: Path, columns: Sequence[str]) -> list[str]:
    """The ids of sample_submission.csv, each once, in its order; faults of single rows are only logged.

    Where it has a column `class`, an id may have a row for each.

    Raises:
        InputError: If the file is missing, no csv, or lacks one of the columns.
    """
    table, faults = scan_table(path, columns, CLASS_KEYS)
    if not set(columns) <= set(table.columns):
        raise InputError(faults)
    log_faults(faults)
    return list(dict.fromkeys(table["id"]))


def log_faults(faults: Sequence[Fault]) -> None:
    """Warn of faults that do not keep a test split from being predicted."""
    for fault in faults:
        logger.warning("%s", fault)


def parse_pixel_size(text: str) -> float | None:
    """A pixel size in um, or None where the cell holds no finite positive number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def parse_side(text: str) -> int | None:
    """Pixels of one side, or None where the cell holds no whole positive number; `3000.0` counts as 3000."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if math.isfinite(value) and value >= 1 and value == int(value) else None


def read_shape(row: Mapping[str, str], sides: tuple[str, str]) -> tuple[tuple[int, int] | None, str]:
    """Height and width in pixels of a row, and the rule that its cells break; absent columns break none.

    Args:
        row: The row.
        sides: Its columns of height and width.
    """
    texts = [row.get(name, "") for name in sides]
    height, width = map(parse_side, texts)
    if height is not None and width is not None:
        return (height, width), ""
    rule = f"{sides[0]} {texts[0]!r} and {sides[1]} {texts[1]!r} are not positive numbers"
    return None, rule if set(sides) <= set(row) else ""


def scan_training_table(path: Path, required: Sequence[str], images: Path) -> tuple[list[dict[str, str]], list[Fault]]:
    """The rows of a training table, as far as they can be made out, and every fault of it.

    Args:
        path: The table.
        required: Its columns, `id` among them.
        images: The folder of its images; that there is none is a fault too.

    Returns:
        The rows, none where the table has no ids; and the faults.
    """
    faults = []
    if not images.is_dir():
        faults.append(Fault(images.name, str(images), "no such folder", f"unpack the images into {images.name}"))
    try:
        table, table_faults = scan_table(path, required)
    except InputError as error:
        return [], error.faults + faults
    faults = table_faults + faults
    if "id" not in table.columns:
        return [], faults
    if table.empty:
        faults.append(Fault(path.stem, str(path), "no rows", "download it again"))
    return table.to_dict("records"), faults


def read_truth(
    row: dict[str, str], column: str, shape_hw: tuple[int, int] | None, path: Path
) -> tuple[Runs | None, list[Fault]]:
    """The truth of a training row; a row without any is a fault.

    Args:
        row: The row, with its id.
        column: The column of its run-length text: 1-based, column-major.
        shape_hw: Height and width of the image in pixels; None (unknown) holds the text only to the rules of any size.
        path: The table, for the fault.

    Returns:
        The runs, None where there are none or the size is unknown; and the faults.
    """
    text = row[column]
    if text.strip().lower() in ("", "nan"):
        remedy = f"drop the row or give its {column}"
        return None, [Fault(row["id"], str(path), f"no {column}: every training image has objects", remedy)]
    try:
        runs = parse_rle(text, shape_hw or TABLE_ANY_SHAPE)
    except ValueError as error:
        within = f", within {shape_hw[0]} x {shape_hw[1]} pixels" if shape_hw else ""
        remedy = f"mend the {column} (1-based, column-major{within})"
        return None, [Fault(row["id"], str(path), f"malformed {column}: {error}", remedy)]
    return (runs if shape_hw else None), []


def header_shape_of(path: Path) -> tuple[int, int] | None:
    """Height and width in pixels of an image; None where it cannot be opened, which is a fault of the image alone."""
    try:
        with open_slide(path) as slide:
            return slide.shape_hw
    except ImageError:
        return None


def read_class_rows(path: Path) -> tuple[dict[tuple[str, str], dict[str, str]], tuple[str, ...], list[Fault]]:
    """The rows of a table of id, rle and perhaps class, which may be at fault.

    Returns:
        The rows by id and class, the classes in the order in which they first stand there, and all faults. Without a
        column of classes there are none, and that of every row is empty.
    """
    try:
        table, faults = scan_table(path, ("id", "rle"), CLASS_KEYS)
    except InputError as error:
        return {}, (), error.faults
    if "id" not in table.columns:
        return {}, (), faults
    if "class" not in table.columns:
        return {(row["id"], ""): row for row in table.to_dict("records")}, (), faults
    nameless = table["class"] == ""
    faults += [
        Fault(key, str(path), "row without a class", "write its class, or drop the row")
        for key in table.loc[nameless, "id"]
    ]
    named = table[~nameless]
    rows = {(row["id"], row["class"]): row for row in named.to_dict("records")}
    return rows, tuple(dict.fromkeys(named["class"])), faults
