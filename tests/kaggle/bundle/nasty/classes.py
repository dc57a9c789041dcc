from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from nasty.checking import describe


@dataclass(frozen=True)
class Shape:
    """A class with a docstring."""

    name: str
    sides: tuple[int, ...] = field(default=(3, 4))

    class Inner:
        import string as letters

        upper = letters.ascii_uppercase[:3]

    @property
    def size(self):
        from nasty.alpha import area
        return area(sum(self.sides))

    def kind(self, what):
        match what:
            case {"sides": [a, b, *_], **others}:
                from nasty.alpha import FIRST
                return [a + FIRST, b, sorted(others)]
            case str() as word if (length := len(word)) > 3:
                return [word, length]
            case _:
                return [type(self).__name__, describe(self)]


SHAPES = {shape.name: dataclasses.asdict(shape) for shape in (Shape("b"), Shape("a", (1,)))}
