"""The tables of competitions: read as far as they can be made out, with every fault of them."""

from __future__ import annotations

import csv
import math
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from histofold.competitions.columns import column_faults, spelled_columns
from histofold.core.faults import Fault, ImageError, InputError, parted
from histofold.core.log import logger
from histofold.imaging.slide import open_slide
from histofold.schema.sample import is_safe_id

CLASS_KEYS = ("id", "class")
"""What identifies a row of a table of several classes; of a table without classes it is the id alone."""
TABLE_ANY_SHAPE = (1 << 24, 1 << 24)
"""Larger than any slide: stands for the size of an image that cannot be opened."""
Scanned = tuple[pd.DataFrame, list[Fault]]
"""A table as far as it can be made out, and what is wrong with it."""
TableScan = Callable[[Path, Sequence[str]], Scanned]
"""`scan_table`, or `scan_host_table` where the host alone wrote the table, as it did for a kernel."""
_HEADER_CHARACTERS = 1 << 16  # of a table's first line; a file that is no table may hold no line end at all
_CSV_REMEDY = "save it as CSV UTF-8 (spreadsheets may write Windows-1252), or download it again"
_CSV_FIELD_LIMIT = 1 << 30  # characters; the rle of one slide may be many megabytes


def read_table(path: Path, required: Sequence[str]) -> pd.DataFrame:
    """As `scan_table`, for tables that must be without fault.

    Raises:
        InputError: If the file is missing or is no csv, or with every fault of its rows and columns.
    """
    table, found = scan_table(path, required)
    faults, notices = parted(found)
    if faults:
        raise InputError(faults)
    log_faults(notices)
    return table


def scan_table(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), *, is_strict: bool = False
) -> Scanned:
    """Read a table that people may have written, as far as it can be made out; of rows of one id the first is kept.

    As `spelled_table` otherwise.
    """
    table, faults = spelled_table(path, required, optional, is_strict=is_strict)
    table, repeats = first_rows(path, table, ("id",))
    return table, faults + repeats


def spelled_table(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), *, is_strict: bool = False
) -> Scanned:
    """Read a table that people may have written: every value as text without the blanks around it, and all rows.

    Args:
        path: The file: commas, semicolons, tabs or bars, in UTF-8 or UTF-16.
        required: Columns that must be there; one that is not is a fault and stays absent from the table.
        optional: Columns that are read where they are there. Names that differ in case, blanks and underscores alone
            are read as these, with a notice.
        is_strict: As in `column_faults`.

    Returns:
        The table, and its faults and notices: of its columns, of rows without an id or with one that leads out of its
        folder, and of rows longer than the header.

    Raises:
        InputError: If the file is missing, empty, or no csv.
    """
    if zipfile.is_zipfile(path):
        rule = "a spreadsheet's workbook and no csv table, whatever its name says"
        raise InputError([Fault(path.stem, str(path), rule, "save it as CSV UTF-8")])
    (_, header), *lines = table_lines(path, *table_dialect(path)) if path.is_file() else table_lines(path)
    if header[0].lower() == "sep=" and lines:  # how spreadsheets note the separator
        (_, header), *lines = lines
    names, faults = spelled_columns(path, header, (*required, *optional))
    faults += column_faults(path, names, required, optional, is_strict)
    table, row_faults = table_of_lines(path, names, [(number, [each.strip() for each in row]) for number, row in lines])
    remedy = "write the image's name, its folders parted by /"
    faults += [
        Fault(
            key, str(path), "an id that may lead out of its folder: it holds .., a backslash, or begins with /", remedy
        )
        for key in dict.fromkeys(table.get("id", ()))
        if not is_safe_id(key)
    ]
    return table, faults + row_faults


def scan_host_table(path: Path, required: Sequence[str], keys: Sequence[str] = ("id",)) -> Scanned:
    """Read a csv as its host wrote it, or wants it: every name and every value as it stands, as text.

    Args:
        path: The file.
        required: Columns that must be there; one that is not is a fault and stays absent from the table.
        keys: The id and, where an id may have several rows, what identifies each; the first row of each is kept.

    Returns:
        The table, and its faults: missing or repeated columns, rows without or of one id, rows longer than the header.

    Raises:
        InputError: If the file is missing, empty, or no csv.
    """
    (_, names), *lines = table_lines(path)
    remedy = f"add it; the file has: {', '.join(names)}"
    faults = [Fault(name, str(path), "missing column", remedy) for name in required if name not in names]
    table, row_faults = table_of_lines(path, names, lines)
    table, repeats = first_rows(path, table, keys)
    return table, faults + row_faults + repeats


def table_of_lines(path: Path, names: Sequence[str], lines: Sequence[tuple[int, list[str]]]) -> Scanned:
    """All rows that have an id, and faults of rows; cells that are not there are empty, surplus empty ones dropped."""
    place = names.index("id") if "id" in names else None
    faults, rows = [], []
    for number, fields in lines:
        cells = (fields + [""] * len(names))[: len(names)]
        key = "" if place is None else cells[place]
        if any(fields[len(names) :]):
            rule = f"line {number} has {len(fields)} fields and the header {len(names)}"
            remedy = "take the surplus out, or quote the text that holds a comma"
            faults.append(Fault(key or f"line {number}", str(path), rule, remedy))
        if place is not None and not key:
            faults.append(Fault(f"line {number}", str(path), "row without an id", "write its id, or drop the row"))
            continue
        rows.append(cells)
    table = pd.DataFrame(rows, columns=list(names), dtype=str)
    return table.loc[:, ~table.columns.duplicated()], faults


def first_rows(path: Path, table: pd.DataFrame, keys: Sequence[str]) -> Scanned:
    """The first row of each key, and a fault of each that has more; a table without ids stays as it is."""
    known = [name for name in keys if name in table.columns]
    if "id" not in known:
        return table, []
    repeated = table.duplicated(known)
    words = " and ".join(known)
    names = dict.fromkeys(map(" ".join, table.loc[repeated, known].itertuples(index=False)))
    faults = [Fault(name, str(path), f"duplicate {words}", f"keep one row an {words}") for name in names]
    return table[~repeated], faults


def text_encoding(path: Path) -> str:
    """UTF-16 by the first bytes of a file, as spreadsheets save "Unicode text", else UTF-8."""
    with path.open("rb") as stream:
        return "utf-16" if stream.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def read_names(path: Path) -> tuple[str, ...]:
    """The lines of a text file that are not empty, without the blanks around them.

    Raises:
        InputError: If it is no text in UTF-8 or UTF-16.
    """
    try:
        text = path.read_text(encoding=text_encoding(path))
    except UnicodeError as error:
        raise InputError([Fault(path.stem, str(path), f"no text in UTF-8 ({error})", "save it as UTF-8")]) from error
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def table_dialect(path: Path) -> tuple[str, str]:
    """Encoding and separator of a table that people may have saved.

    The separator is the comma, semicolon, tab or bar, whichever stands most often in the first line outside of quotes.

    Raises:
        OSError: If there is no such file.
    """
    encoding = text_encoding(path)
    with path.open(encoding=encoding, errors="replace") as stream:
        bare = re.sub(r'"[^"]*"', "", stream.readline(_HEADER_CHARACTERS))
    return encoding, max(",;\t|", key=bare.count)


def table_header(path: Path) -> list[str]:
    """The names in the first line of a table, without blanks around them; none where there is no such file."""
    if not path.is_file():
        return []
    encoding, separator = table_dialect(path)
    with path.open(newline="", encoding=encoding, errors="replace") as stream:
        line = stream.readline(_HEADER_CHARACTERS)
    return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]


def table_lines(path: Path, encoding: str = "utf-8-sig", separator: str = ",") -> list[tuple[int, list[str]]]:
    """Line number and fields of the header and of each row that is not empty.

    Raises:
        InputError: If the file is missing, empty, or no csv.
    """
    if not path.is_file():
        raise InputError([Fault(path.stem, str(path), "no such file", "check the path")])
    csv.field_size_limit(_CSV_FIELD_LIMIT)
    try:
        with path.open(newline="", encoding=encoding) as stream:
            # Strict, so that a quote that never ends is an error and does not swallow the rest of the table.
            reader = csv.reader(stream, delimiter=separator, strict=True)
            lines = [(reader.line_num, fields) for fields in reader if any(fields)]
    except (csv.Error, ValueError, OSError) as error:
        raise InputError([Fault(path.stem, str(path), f"not a csv table in UTF-8 ({error})", _CSV_REMEDY)]) from error
    if not lines:
        raise InputError([Fault(path.stem, str(path), "the table is empty", "download it again")])
    broken = [number for number, fields in lines if any("\0" in field for field in fields)]
    if broken:
        rule = f"not a csv table (line {broken[0]} holds NUL bytes)"
        raise InputError([Fault(path.stem, str(path), rule, _CSV_REMEDY)])
    return lines


def rows_by_id(path: Path, required: Sequence[str], scan: TableScan = scan_host_table) -> dict[str, dict[str, str]]:
    """The rows by id of a table that may be at fault or absent, which is logged; none where it has no ids."""
    try:
        table, faults = scan(path, required)
    except InputError as error:
        table, faults = pd.DataFrame(), error.faults
    log_faults(faults)
    return {row["id"]: row for row in table.to_dict("records")} if "id" in table.columns else {}


def submission_ids(path: Path, columns: Sequence[str]) -> list[str]:
    """The ids of sample_submission.csv, each once, in its order; faults of single rows are only logged.

    Where it has a column `class`, an id may have a row for each.

    Raises:
        InputError: If the file is missing, no csv, or lacks one of the columns.
    """
    table, faults = scan_host_table(path, columns, CLASS_KEYS)
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
        value = float(text.replace(",", "."))  # a decimal comma, in tables of semicolons
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


def header_shape_of(path: Path) -> tuple[int, int] | None:
    """Height and width in pixels of an image; None where it cannot be opened, which is a fault of the image alone."""
    try:
        with open_slide(path) as slide:
            return slide.shape_hw
    except ImageError:
        return None
