"""Names for the type checker alone: an import that would be a circle if it ran."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decimal import Decimal

    from nasty.classes import Shape
if typing.TYPE_CHECKING:
    from nasty.classes import Shape


def describe(shape: Shape, factor: Decimal | None = None) -> str:
    if TYPE_CHECKING:
        from nasty.classes import Shape
    return f"{shape} {1 if factor is None else factor}"
