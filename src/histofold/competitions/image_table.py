"""images.csv: what is known of each image beside its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from histofold.competitions.ids import meet_ids, unmet_faults
from histofold.competitions.tables import parse_pixel_size, scan_table
from histofold.core.faults import Fault, InputError

IMAGE_COLUMNS = ("organ", "source", "data_source", "group", "patient", "pixel_size")
"""Columns that are read beside the id."""


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
        path, [key for key in table["id"] if key not in meant], [key for key in images if key not in found]
    )
    rows = {meant[row["id"]]: row for row in table.to_dict("records") if row["id"] in meant}
    return rows, faults + _scale_faults(rows, path)


def _scale_faults(rows: Mapping[str, Mapping[str, str]], path: Path) -> list[Fault]:
    """Pixel sizes that are no positive numbers; an empty cell says that it is not known."""
    return [
        Fault(key, str(path), f"pixel_size {size!r} is not a positive number of um", "mend the cell, or leave it empty")
        for key, size in ((key, row.get("pixel_size", "")) for key, row in rows.items())
        if size.lower() not in ("", "nan") and parse_pixel_size(size) is None
    ]
