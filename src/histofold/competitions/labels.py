"""Tables of truth as run lengths: one row an image or one an object, nothing of them cut off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from histofold.competitions.base import IMAGE_SUFFIXES
from histofold.competitions.ids import meet_ids, unmet_faults
from histofold.competitions.tables import CLASS_KEYS, TABLE_ANY_SHAPE, Scanned, first_rows, spelled_table
from histofold.core.faults import Fault, InputError, InputNotice
from histofold.core.rle.runs import Runs, parse_rle, runs_to_text
from histofold.core.rle.sets import union_runs

SPREADSHEET_CHARACTERS = 32_767
"""Where a spreadsheet cuts a cell."""
_OTHER_LIMITS = (255, 256, 1023, 1024, 4000, 8000, 8191, 8192, 32_000, 32_759, 65_534, 65_535, 65_536)
"""Where other programs cut a text."""
_SUSPICIOUS_TIE = 1000  # characters: three different texts of one such length, and none longer, were cut


def join_object_rows(
    path: Path, table: pd.DataFrame, keys: Sequence[str], column: str, alike: Sequence[str] = ()
) -> Scanned:
    """One row of all rows of a key: one row an object, which may overlap.

    Rows that are equal, or differ in a column that is read, or of which one has no run lengths, are left for
    `first_rows` to refuse.

    Args:
        path: The table, for the notice.
        table: Columns of text, `column` among them.
        keys: What identifies an image, or a class of it.
        column: The column of run lengths.
        alike: Other columns that are read: objects of one image agree in them.

    Returns:
        The table, and a notice where rows were joined.
    """
    known = [name for name in keys if name in table.columns]
    if column not in table.columns or "id" not in known:
        return table, []
    said = [*known, *(name for name in alike if name in table.columns and name not in (column, *known))]
    table, gone = table.copy(), []
    joined = 0
    for _, rows in table[table.duplicated(known, keep=False)].groupby(known, sort=False):
        texts = rows[column].tolist()
        if "" in texts or rows.duplicated().any() or rows.duplicated(said).sum() < len(rows) - 1:
            continue
        table.loc[rows.index[0], column] = _union_text(texts)
        gone += rows.index[1:].tolist()
        joined += 1
    if not joined:
        return table, []
    rule = f"{joined + len(gone)} rows of {joined} images are joined: one row an object"
    return table.drop(index=gone), [
        InputNotice(path.stem, str(path), rule, "give an image one row where that is wrong")
    ]


def _union_text(texts: Sequence[str]) -> str:
    """The union of run lengths as a text; a malformed one comes back as it is, to be refused."""
    parts = []
    for text in texts:
        try:
            parts.append(parse_rle(text, TABLE_ANY_SHAPE))
        except ValueError:
            return text
    return runs_to_text(union_runs(parts))


def cut_texts(texts: Sequence[str]) -> list[bool]:
    """Which run lengths a program has cut off.

    Those of exactly 32,767 characters, where a spreadsheet cuts; and the longest ones, where several different texts
    end at one length that other programs cut at, or one of them is malformed, or three are that long.
    """
    longest = max(map(len, texts), default=0)
    tied = {text for text in texts if len(text) == longest}
    # Of texts that are cut within a number or a pair, about half are malformed; by chance none is.
    is_cut = len(tied) > 1 and (
        longest in _OTHER_LIMITS
        or (longest >= _OTHER_LIMITS[0] and any(len(text.split()) % 2 for text in tied))
        or (longest >= _SUSPICIOUS_TIE and len(tied) > 2)
    )
    return [len(text) == SPREADSHEET_CHARACTERS or (is_cut and len(text) == longest) for text in texts]


def cut_faults(path: Path, ids: Iterable[str], texts: Sequence[str], column: str) -> dict[int, Fault]:
    """A fault for each text of a table that was cut off, by its place."""
    remedy = "export the table anew, and do not save it in a spreadsheet: cells end at 32,767 characters there"
    return {
        place: Fault(key, str(path), f"the {column} ends after {len(text):,} characters: it was cut off", remedy)
        for place, (key, text, is_cut) in enumerate(zip(ids, texts, cut_texts(texts), strict=True))
        if is_cut
    }


def _label_rows(
    path: Path, table: pd.DataFrame, keys: Sequence[str], column: str, alike: Sequence[str] = ()
) -> Scanned:
    """A table of one row a key, and what is wrong with its keys and texts; of texts that were cut nothing is left."""
    if column not in table.columns or "id" not in table.columns:
        return first_rows(path, table, keys)
    cut = cut_faults(path, table["id"], table[column].tolist(), column)
    whole = table.drop(index=table.index[list(cut)])
    whole, notices = join_object_rows(path, whole, keys, column, alike)
    table = pd.concat([whole, table.iloc[list(cut)].assign(**{column: None})]).sort_index(kind="stable")
    table, repeats = first_rows(path, table, keys)
    return table, [*cut.values(), *notices, *repeats]


def scan_training_table(
    path: Path, required: Sequence[str], images: Path, column: str, optional: Sequence[str] = ()
) -> tuple[list[dict[str, str]], list[Fault]]:
    """The rows of a training table, as far as they can be made out, and every fault of it.

    Ids that are spelled otherwise than their images are read as these, with a notice (see `meet_ids`). Rows of one id
    are joined where each holds an object (see `join_object_rows`), unless an image has no row: then an id may be
    another image's.

    Args:
        path: The table.
        required: Its columns, `id` among them.
        images: The folder of its images; that there is none is a fault too.
        column: That of its run lengths; a row whose text was cut off has none.
        optional: Columns that are read where they are there.

    Returns:
        The rows, none where the table has no ids; and the faults.
    """
    faults = []
    if not images.is_dir():
        faults.append(Fault(images.name, str(images), "no such folder", f"unpack the images into {images.name}"))
    try:
        table, table_faults = spelled_table(path, required, optional)
    except InputError as error:
        return [], error.faults + faults
    if "id" not in table.columns:
        return [], table_faults + faults
    for key in table.loc[table["id"].str.contains("/"), "id"]:
        table_faults.append(Fault(key, str(path), f"an id with a /: its image lies in {images.name}", "write its name"))
    stems = [each.stem for each in sorted(images.glob("*")) if each.suffix.lower() in IMAGE_SUFFIXES]
    meant, notices = meet_ids(path, table["id"], stems)
    table = table.assign(id=table["id"].map(lambda key: meant.get(key, key)))
    table_faults += notices
    lost = sorted(set(stems) - set(table["id"]))
    if lost:
        rule = f"{len(lost)} images have no row in {path.name}, the first is {lost[0]}"
        table_faults.append(InputNotice(images.name, str(images), rule, "add their rows, or they are not trained on"))
    table, row_faults = (
        first_rows(path, table, ("id",)) if lost else _label_rows(path, table, ("id",), column, (*required, *optional))
    )
    faults = table_faults + row_faults + faults
    if table.empty:
        faults.append(Fault(path.stem, str(path), "no rows", "download it again"))
    rows = [{name: cell for name, cell in row.items() if cell is not None} for row in table.to_dict("records")]
    return rows, faults


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


def read_class_rows(
    path: Path, images: Sequence[str]
) -> tuple[dict[tuple[str, str], dict[str, str]], tuple[str, ...], list[Fault]]:
    """The rows of a table of id, rle and perhaps class, which may be at fault.

    Args:
        path: The table, of one row an image (and class) or one an object.
        images: The ids that its ids should be.

    Returns:
        The rows by id of the image and class, the classes in the order in which they first stand there, and all faults.
        Without a column of classes there are none, and that of every row is empty. A row whose text was cut has none.
    """
    try:
        table, faults = spelled_table(path, ("id", "rle"), ("class",))
    except InputError as error:
        return {}, (), error.faults
    if "id" not in table.columns:
        return {}, (), faults
    meant, notices = meet_ids(path, table["id"], images)
    faults += notices + unmet_faults(path, [key for key in table["id"] if key not in meant], (), meant)
    table = table.assign(id=table["id"].map(lambda key: meant.get(key, key)))
    table, row_faults = _label_rows(path, table, CLASS_KEYS, "rle")
    faults += row_faults
    classes: tuple[str, ...] = ()
    if "class" in table.columns:
        nameless = table["class"] == ""
        faults += [
            Fault(key, str(path), "row without a class", "write its class, or drop the row")
            for key in table.loc[nameless, "id"]
        ]
        table = table[~nameless]
        classes = tuple(dict.fromkeys(table["class"]))
    cells = [{name: cell for name, cell in row.items() if cell is not None} for row in table.to_dict("records")]
    return {(row["id"], row.get("class", "")): row for row in cells}, classes, faults
