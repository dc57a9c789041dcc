"""Decorators that do what nobody sees, and methods that are reached by a string or an operator."""

from __future__ import annotations

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

DOUBLE = area(1) * 2
TRIPLE = DOUBLE * 1.5
CALLS = []


def trace(function):
    CALLS.append(function.__name__)

    @functools.wraps(function)
    def inner(*values):
        return [function.__name__, function(*values)]

    return inner


@trace
@trace
def chained(*values):
    return [FIRST * scale, list(itertools.accumulate(values, operator.mul)), os_path.join("a", "b").replace(sep, "/")]


@trace
def never_called():
    """Stays: what its decorator does is seen."""
    return chained(1)


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
    total = Vector(1) + Vector(2)
    return [getattr(total, method)(), *[getattr(total, name)() for name in dict(by_keyword=1)], CALLS]
