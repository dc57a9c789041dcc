"""Several mask classes in one image: their scores, their tables of runs, and the columns of their submission."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histofold.competitions.base import CLASS_KEYS, Competition, runs_dice, scan_table
from histofold.core.faults import Fault, InputError
from histofold.core.rle.runs import Masks, class_runs


def class_dice(prediction: Masks, truth: Masks) -> list[float]:
    """Dice of each class; a class that is empty in both counts as 1.

    Raises:
        ValueError: If they are not of as many classes.
    """
    return [runs_dice(*pair) for pair in zip(class_runs(prediction), class_runs(truth), strict=True)]


def masks_dice(prediction: Masks, truth: Masks) -> float:
    """Dice of an image: the mean over its classes."""
    by_class = class_dice(prediction, truth)
    return sum(by_class) / len(by_class)


def submission_columns(competition: Competition, classes: Sequence[str]) -> tuple[str, ...]:
    """The columns of a submission of some classes: id and row, or id, class and row where there are several.

    Raises:
        InputError: If there are several and the host takes one mask an image.
    """
    if len(classes) < 2:
        return competition.columns
    if not competition.class_column:
        rule = f"{competition.name} takes one mask an image, and there are {len(classes)} classes: {', '.join(classes)}"
        raise InputError([Fault("classes", competition.name, rule, "take weights of one class")])
    return (competition.columns[0], competition.class_column, competition.columns[1])


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
