"""Optional packages, and options that a kernel cannot have."""
from __future__ import annotations

import functools

try:
    import a_package_that_nobody_has
except ImportError:
    a_package_that_nobody_has = None

HAS_PACKAGE = a_package_that_nobody_has is not None


def njit(*functions, **options):
    """Stands in for numba's: takes a function, or options first."""
    if functions:
        return functions[0]
    return lambda function: function


@njit(cache=True)
def only(x): return x + 1


@njit(nogil=True, cache=True)
def last(x): return x + 2


@njit(cache=True, nogil=True)
def first(x): return x + 3


@njit(
    nogil=True,  # a comment, with a comma
    cache=True,  # it compiles for seconds
    fastmath=True,
)
def alone(x): return x + 4


@njit(nogil=True, fastmath=(True)
      , cache=True)
def comma_first(x): return x + 5


@njit(
    nogil=True,  # a comment between
    cache=True
)
def commented(x): return x + 6


def wrapped(function):
    größe = "ß"; return njit((function), cache=True) if größe else functools.partial(njit, cache=True)(function)


def ordinary(cache=True):
    return dict(cache=True, text="njit(cache=True)")
