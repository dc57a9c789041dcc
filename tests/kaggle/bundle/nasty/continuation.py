"""Continued lines."""; from __future__ import annotations
from os \
    import path as os_path, \
    sep
import itertools, \
    operator; import functools
# a comment that belongs to nothing
from nasty.alpha import \
    FIRST, \
    scale  # gone with its import
from nasty.alpha import area; DOUBLE = area(1) * 2; \
TRIPLE = DOUBLE * 1.5


def trace(function):
    @functools.wraps(function)
    def inner(*values): return [function.__name__, function(*values)]
    return inner


@trace
@trace
def chained(*values):
    return [FIRST * scale, list(itertools.accumulate(values, operator.mul)), os_path.join("a", "b").replace(sep, "/")]
