"""images.csv: what is known of each image beside its pixels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from histofold.competitions.ids import meet_ids, plain_groups, unmet_faults
from histofold.competitions.tables import parse_pixel_size, scan_table
from histofold.competitions.truth.names import is_hidden
from histofold.core.faults import Fault, InputError, InputNotice

IMAGE_COLUMNS = ("organ", "source", "data_source", "group", "patient", "pixel_size")
"""Columns that are read beside the id."""
_TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".numbers")
_READ_TABLES = ("rles.csv", "sample_submission.csv", "folds.csv")
_MEANT_STEM = re.compile(r"(images?|patients?|metadata)\b", re.IGNORECASE)  # images (1) too, a browser's second copy
_GROUP_REMEDY = "give all images of a patient one group, or leave the groups out"


def read_image_table(
    path: Path, images: Sequence[str], others: Sequence[str] = ()
) -> tuple[dict[str, dict[str, str]], list[Fault]]:
    """The rows of images.csv by the image that each means, and its faults and notices.

    Args:
        path: The table.
        images: The images that must have a row.
        others: Images that may have one: those of the other split.

    Returns:
        The rows, none where the table cannot be read; faults are rows without an image and images without a row, near
        misses of column names, pixel sizes that are no positive numbers.
    """
    try:
        table, faults = scan_table(path, ("id",), IMAGE_COLUMNS, is_strict=True)
    except InputError as error:
        return {}, error.faults
    if "id" not in table.columns:
        return {}, faults
    meant, notices = meet_ids(path, table["id"], [*images, *others])
    faults += notices
    found = set(meant.values())
    faults += unmet_faults(
        path, [key for key in table["id"] if key not in meant], [key for key in images if key not in found], meant
    )
    rows = {meant[row["id"]]: row for row in table.to_dict("records") if row["id"] in meant}
    return rows, faults + _group_faults(rows, path) + _scale_faults(rows, path)


def _group_faults(rows: Mapping[str, dict[str, str]], path: Path) -> list[Fault]:
    """Write groups and patients as they are meant; gives notices of that, and patients that groups would split."""
    faults = []
    for column in ("group", "patient"):
        cells = {key: row[column] for key, row in rows.items() if column in row}
        meant, notices = plain_groups(path, column, cells)
        faults += notices
        for key, name in meant.items():
            rows[key][column] = name
    groups: dict[str, set[str]] = {}
    for row in rows.values():
        if "group" in row and row.get("patient"):
            groups.setdefault(row["patient"], set()).add(row["group"])
    return faults + [
        Fault(patient, str(path), f"its images are of several groups: {_named(names)}", _GROUP_REMEDY)
        for patient, names in groups.items()
        if len(names) > 1
    ]


def _named(names: Iterable[str]) -> str:
    return ", ".join(name or "none" for name in sorted(names))


def _scale_faults(rows: Mapping[str, Mapping[str, str]], path: Path) -> list[Fault]:
    """Pixel sizes that are no positive numbers; an empty cell says that it is not known."""
    return [
        Fault(key, str(path), f"pixel_size {size!r} is not a positive number of um", "mend the cell, or leave it empty")
        for key, size in ((key, row.get("pixel_size", "")) for key, row in rows.items())
        if size.lower() not in ("", "nan") and parse_pixel_size(size) is None
    ]


def other_tables(root: Path) -> list[Fault]:
    """Tables of a folder without images.csv that nobody reads: a fault where one seems meant as it, else a notice."""
    found = []
    for path in sorted(root.iterdir()):
        if path.name in _READ_TABLES or is_hidden(path.name) or path.suffix.lower() not in _TABLE_SUFFIXES:
            continue
        if path.name.casefold() == "images.csv":  # `misnamed_files` names it
            continue
        kind = Fault if _MEANT_STEM.match(path.stem) else InputNotice
        remedy = "save it as images.csv, in UTF-8, if it says something of the images"
        found.append(kind(path.stem, str(path), "a table that is not read", remedy))
    return found
