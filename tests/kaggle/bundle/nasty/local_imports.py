"""Imports inside functions."""

from __future__ import annotations


def only_statement():
    from nasty.alpha import area


def nested(value):
    """Stays."""
    import math as maths  # an outside import stays here

    from nasty.alpha import (
        FIRST,
        SECOND,
    )
    from nasty.decorated import chained  # two in a row

    def inner(factor):
        def innermost():
            from nasty.strings import GRÜSSE

            return GRÜSSE[:3]

        if factor > 1:
            from nasty.alpha import scale
        else:
            # only a comment and an import
            from nasty.alpha import scale
        return [innermost(), scale * factor]

    for _ in range(2):
        from nasty.alpha import area
    return [maths.floor(value), FIRST + SECOND, chained(1, 2, 3), inner(1), inner(3), area(1)]


async def awaited():
    try:
        from nasty.alpha import REST
    finally:
        done = True
    return REST, done
