from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field

from nasty.alpha import FIRST, area
from nasty.checking import describe


class OnlyInAString:
    """A type that a string alone names."""


@dataclass(frozen=True)
class Shape:
    """A class with a docstring.

    Attributes:
        name: Words that go.
    """

    name: str
    """Words below a field go beside it."""
    sides: tuple[int, ...] = field(default=(3, 4))
    """Words that are too long for the line of their field stay below it, however many words it takes until they are."""
    kin: "OnlyInAString | None" = None

    class Inner:
        import string as letters

        upper = letters.ascii_uppercase[:3]

    @property
    def size(self):
        return area(sum(self.sides))

    # A comment of the method below.
    def uncalled(self):
        """Goes."""
        return self.size

    def kind(self, what):
        match what:
            case {"sides": [a, b, *_], **others}:
                return [a + FIRST, b, sorted(others)]
            case str() as word if (length := len(word)) > 3:
                return [word, length]
            case Named(titled=title):
                return [title]
            case _:
                return [type(self).__name__, describe(self)]


class Named:
    @property
    def titled(self):
        """Reached by a pattern alone."""
        return "title"


class Uncalled:
    def only(self):
        return 1


class Emptied(Uncalled):
    def uncalled_too(self):
        return 2


def shapes():
    return {shape.name: dataclasses.asdict(shape) for shape in (Shape("b"), Shape("a", (1,)))}


def hints():
    return [sorted(typing.get_type_hints(Shape)), Emptied().__class__.__name__]
