"""What an evaluation chose instead of a run's own settings: files beside its scores, read by whatever predicts next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from histofold.core.faults import Fault, InputError
from histofold.schema.parse import read_json

CLEANING_NAME = "cleaning.json"
"""In an evaluated run of masks: the settings of cleaning that were chosen out-of-fold instead of the run's own."""
CLEANING_SETTINGS = ("seed_threshold", "max_hole_um2", "min_area_um2")
"""Settings of prediction that an evaluation of masks may choose, in the order in which they work on a mask."""
CHOICES_NAME = "objects.json"
"""The same of an evaluated run of objects."""
CHOSEN_SETTINGS = ("grow_px", "min_area_px", "min_score")
"""Settings that an evaluation of objects may choose, in the order in which it does."""


def read_choices(path: Path, settings: Sequence[str]) -> dict[str, float]:
    """Read cleaning.json or objects.json of an evaluated run.

    Args:
        path: The file.
        settings: What may stand in it.

    Raises:
        InputError: If it is missing, cut short or holds anything else.
    """
    remedy = f"run `histofold evaluate {path.parent}` again"
    values = read_json(path, remedy)
    known = isinstance(values, dict) and set(values) <= set(settings)
    if not known or not all(type(value) in (int, float) for value in values.values()):
        rule = f"no table of some of the settings {', '.join(settings)}"
        raise InputError([Fault(path.stem, str(path), rule, remedy)])
    return dict(values)


def agreed_choices(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What several runs chose, where all of them chose alike; else nothing, so that their own settings stay."""
    return dict(tables[0]) if all(table == tables[0] for table in tables) else {}


def read_cleaning(run: Path) -> dict[str, float]:
    """The settings of cleaning that an evaluated run chose; none of a run that was evaluated before they were chosen.

    Raises:
        InputError: If the file was cut short or holds anything else.
    """
    path = run / CLEANING_NAME
    return read_choices(path, CLEANING_SETTINGS) if path.is_file() else {}
