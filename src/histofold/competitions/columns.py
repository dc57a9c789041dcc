"""Names of columns as people write them: read where case and blanks alone differ, else refused with the right name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from histofold.core.faults import Fault, InputNotice

_ALTERNATIVES = (("group", "patient"), ("source", "data_source"))
"""Columns of which one is enough: what resembles the other is then only named."""
_OTHER_WORDS = {
    "id": ("image", "name", "file", "slide"),
    "patient": (
        *("donor", "subject", "case", "person", "participant", "individual", "animal", "mouse", "pid"),
        *("patients", "patienten", "patientin", "patientcode", "pat", "fall", "tier"),
    ),
    "group": ("slide", "wsi", "specimen", "block", "sourcewsi"),
    "patient_number": ("patient",),
    "pixel_size": ("mpp", "resolution", "spacing", "umperpixel", "umperpx", "micronsperpixel", "pixelspacing"),
    "organ": ("tissue",),
    "rle": ("encoding", "encodedpixels", "mask", "runs", "runlength", "segmentation"),
    "class": ("label", "category"),
    "fold": ("split",),
}
_ALIKE = 0.8  # of difflib's ratio, 1 for equal words
_ENDINGS = re.compile(r"(?<=..)(ids?|no|nr|number|name|um)$")


def simple_column(name: str) -> str:
    """A name without case, blanks, underscores, hyphens and dots."""
    return re.sub(r"[\s_.\-]", "", name).lower()


def spelled_columns(path: Path, header: Sequence[str], known: Sequence[str]) -> tuple[list[str], list[Fault]]:
    """The names of a header, those of known columns as they are known.

    Args:
        path: The table, for the faults.
        header: Its names as they stand.
        known: Names of the columns that are read.

    Returns:
        The names, without blanks around them; a notice of those that were read as known ones, and a fault of each that
        several could be.
    """
    names = [name.strip() for name in header]
    by_form: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        by_form.setdefault(simple_column(name), []).append(place)
    faults: list[Fault] = []
    read_as: list[str] = []
    for column in known:
        places = by_form.get(simple_column(column), [])
        if column in names or not places:
            continue
        if len(places) > 1:
            rule = f"{' and '.join(names[place] for place in places)}: two columns that could be {column}"
            faults.append(Fault(column, str(path), rule, f"name one of them {column}"))
            continue
        read_as.append(f"{names[places[0]]!r} as {column!r}")
        names[places[0]] = column
    if read_as:
        remedy = "write them so, and nobody has to guess"
        faults.append(
            InputNotice("columns", str(path), f"columns are read by another name: {', '.join(read_as)}", remedy)
        )
    return names, faults


def near_columns(names: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Columns that are not read but look like known ones that are absent: the known name by the name that stands there.

    Args:
        names: The names of a header, as `spelled_columns` gives them.
        known: Names of the columns that are read.
    """
    absent = [column for column in known if column not in names and not _has_alternative(column, names)]
    near = {name: _nearest(name, absent) for name in names if name and name not in known}
    return {name: column for name, column in near.items() if column}


def _has_alternative(column: str, names: Sequence[str]) -> bool:
    return any(column in columns and set(columns) & set(names) for columns in _ALTERNATIVES)


def _nearest(name: str, columns: Sequence[str]) -> str:
    """The column that a name may mean, empty where it is none of these."""
    form = simple_column(name)
    bare = _ENDINGS.sub("", form)
    forms = {simple_column(column): column for column in columns}
    for column in columns:
        if bare == simple_column(column) or {form, bare} & set(_OTHER_WORDS.get(column, ())):
            return column
    found = difflib.get_close_matches(form, forms, 1, _ALIKE)
    return forms[found[0]] if found else ""


def column_faults(
    path: Path, names: Sequence[str], required: Sequence[str], optional: Sequence[str], is_strict: bool
) -> list[Fault]:
    """What is wrong with the columns of a table, the right name in each remedy.

    Args:
        path: The table.
        names: Its columns, as `spelled_columns` gives them.
        required: Columns that must be there.
        optional: Columns that are read where they are there.
        is_strict: Whether a column that looks like an absent optional one is a fault, and every other column that is
            not read is named; else the first is a notice and the others are nobody's business.
    """
    near = near_columns(names, (*required, *optional))
    faults = [_missing_column(path, column, names, near) for column in required if column not in names]
    faults += [
        Fault(name, str(path), "two columns of this name", "keep one")
        for name in dict.fromkeys(name for name in names if name and names.count(name) > 1)
    ]
    kind = Fault if is_strict else InputNotice
    faults += [
        kind(
            name, str(path), f"column {name!r} is not read: it looks like {column!r}", f"name it {column!r}, or drop it"
        )
        for name, column in near.items()
        if column in optional
    ]
    unread = [name for name in names if name and name not in near and name not in (*required, *optional)]
    if is_strict and unread:
        remedy = f"read are {', '.join((*required, *optional))}; --fold-by column:NAME takes any"
        faults.append(InputNotice("columns", str(path), f"columns that are not read: {', '.join(unread)}", remedy))
    return faults


def _missing_column(path: Path, column: str, names: Sequence[str], near: Mapping[str, str]) -> Fault:
    meant = [name for name, known in near.items() if known == column]
    remedy = f"rename {' or '.join(meant)}" if meant else "add it"
    return Fault(column, str(path), "missing column", f"{remedy}; the file has: {', '.join(names)}")
