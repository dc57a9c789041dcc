"""Imports inside functions: those from outside stay there."""

from __future__ import annotations

from nasty.alpha import (
    FIRST,
    REST,
    SECOND,
    area,
    scale,
)
from nasty.decorated import chained  # two in a row
from nasty.strings import GRÜSSE


def only_statement():
    import math  # noqa: F401


def nested(value):
    """Stays."""
    import math as maths  # an outside import stays here

    def inner(factor):
        def innermost():
            return GRÜSSE[:3]

        if factor > 1:
            from os import sep
        else:
            # a comment above an import
            from os.path import sep
        return [innermost(), scale * factor, len(sep)]

    return [maths.floor(value), FIRST + SECOND, chained(1, 2, 3), inner(1), inner(3), area(1)]


async def awaited():
    try:
        import fractions
    finally:
        done = True
    return REST, done, str(fractions.Fraction(1, 3))
