"""Decorators that only wrap, and methods that are reached by a string or an operator."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
from os import path as os_path, sep

# a comment that belongs to nothing

from nasty.alpha import (
    FIRST,
    area,  # gone with its import
    scale,
)

DOUBLE = scale * 2
TRIPLE = DOUBLE * 1.5


@functools.cache
def chained(*values):
    return [FIRST * scale, list(itertools.accumulate(values, operator.mul)), os_path.join("a", "b").replace(sep, "/")]


@functools.lru_cache(maxsize=None)
def uncalled_and_cached(*values):
    """Goes: what its decorator does nobody sees."""
    return chained(1)


@contextlib.contextmanager
def doubled_area(radius):
    yield area(radius) * 2


class Vector:
    """Its methods are reached by an operator, a string and a keyword, or not at all."""

    def __init__(self, x):
        self.x = x

    def __add__(self, other):
        return Vector(self.x + other.x)

    def by_string(self):
        return ["by string", self.x]

    def by_keyword(self):
        return ["by keyword", self.x]

    def by_nobody(self):
        return ["by nobody", self.x]


def vectors(method="by_string"):
    with doubled_area(1) as start:
        total = Vector(start) + Vector(2)
    return [getattr(total, method)(), *[getattr(total, name)() for name in dict(by_keyword=1)]]
