"""What the training tables of several competitions share: rows with a run-length text, beside a folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histofold.competitions.base import scan_table
from histofold.core.faults import Fault, InputError
from histofold.core.rle.runs import Runs, parse_rle
from histofold.imaging.errors import ImageError
from histofold.imaging.slide import open_slide

_TRUTH_ANY_SHAPE = (1 << 24, 1 << 24)  # larger than any slide


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
        runs = parse_rle(text, shape_hw or _TRUTH_ANY_SHAPE)
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
