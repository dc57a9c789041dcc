"""What a page is made of: pictures, switches over them, tables, texts; plain data, without a word of HTML."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

IMAGE_ALONE = "image"
MOST_LAYERS = 4

Pictures = Sequence[tuple[str, np.ndarray]]
"""(title, RGB uint8 image) pairs."""


@dataclass(frozen=True)
class Linked:
    """A picture file beside the page, which is loaded when it comes into view."""

    url: str
    """Its address from the page."""
    shape_hw: tuple[int, int]
    """Height and width in pixels."""


@dataclass(frozen=True)
class Figure:
    """A picture with its caption.

    A PNG file is a graph, kept as it is and turned dark with the page; all else is a photo, kept as JPEG of 1600 px.
    """

    image: np.ndarray | Path | bytes | Linked
    """RGB uint8 (H, W, 3), the path or the bytes of a picture file, or one beside the page."""
    caption: str = ""
    """Text below it."""
    alt: str = ""
    """What it shows, for those who cannot see it; the caption stands in where this is empty."""


@dataclass(frozen=True)
class Viewer:
    """A picture and layers of its size, one of which is laid over it at a time: a switch, which arrow keys move."""

    picture: Figure
    """The picture with its caption; alone it is called `image` in the switch."""
    layers: Mapping[str, Figure]
    """By name in the switch, at most `MOST_LAYERS`; what is transparent lets the picture through."""
    shown: str = IMAGE_ALONE
    """The layer that is over it at first."""

    def __post_init__(self) -> None:
        _check_layers(self.layers, self.shown)


@dataclass(frozen=True)
class BrowsedSlide:
    """A slide of a browser."""

    thumbnail: Figure
    """What stands in the row of all slides, with a short caption."""
    viewers: Sequence[Viewer]
    """What opens below it, one a class; the browser has their switch."""


@dataclass(frozen=True)
class Browser:
    """Slides as thumbnails, one of which is open at a time; arrow keys go from one to the next."""

    slides: Sequence[BrowsedSlide]
    """In order."""
    layers: Sequence[str]
    """The layers of all viewers, which one switch lays over them."""
    shown: str = IMAGE_ALONE
    """The layer that is over them at first."""

    def __post_init__(self) -> None:
        _check_layers(self.layers, self.shown)


def _check_layers(names: Collection[str], shown: str) -> None:
    if len(names) > MOST_LAYERS or shown not in (IMAGE_ALONE, *names):
        raise ValueError(
            f"{len(names)} layers, at first {shown!r}: give at most {MOST_LAYERS}, and one of them or {IMAGE_ALONE!r}"
        )


@dataclass(frozen=True)
class Gallery:
    """Figures side by side, as many in a row as fit."""

    figures: Sequence[Figure | Viewer]

    @classmethod
    def of(cls, pictures: Pictures) -> Gallery:
        """A gallery of pictures, each with its title as caption."""
        return cls([Figure(image, title) for title, image in pictures])


@dataclass(frozen=True)
class Table:
    """A table; columns of numbers are set to the right, long ones scroll under their header."""

    header: Sequence[str]
    """Column names."""
    rows: Sequence[Sequence[Any]]
    """One value a column; NaN and None become a dash."""
    caption: str = ""
    """Text above it."""
    decimals: int = 4
    """Digits after the point of floats."""
    bars: Sequence[str] = ()
    """Columns of values from 0 to 1 that get a bar behind the number."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"row {list(row)!r} has {len(row)} values for the {len(self.header)} columns of the header"
                )


@dataclass(frozen=True)
class Text:
    """Paragraphs; tone `good` or `warn` sets them off as a note."""

    paragraphs: Sequence[str]
    tone: Literal["plain", "good", "warn"] = "plain"


@dataclass(frozen=True)
class Facts:
    """Big numbers: label to value; a pair of numbers is an interval."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class Legend:
    """What colours mean: (meaning, RGB 0-255) pairs."""

    entries: Sequence[tuple[str, tuple[int, int, int]]]


Block = Figure | Viewer | Browser | Gallery | Table | Text | Facts | Legend


@dataclass(frozen=True)
class Section:
    """Blocks under a title; an empty title draws no line and no heading."""

    title: str
    blocks: Sequence[Block]
