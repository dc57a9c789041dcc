"""Optional packages, and options that a kernel cannot have."""

from __future__ import annotations

import functools

try:
    import a_package_that_nobody_has
except ImportError:
    a_package_that_nobody_has = None

try:
    import another_that_nobody_has_and_nobody_asks_for
except ImportError:
    another_that_nobody_has_and_nobody_asks_for = None

HAS_PACKAGE = a_package_that_nobody_has is not None


def njit(*functions, **options):
    """Stands in for numba's: takes a function, or options first."""
    if functions:
        return functools.partial(functions[0], *options)
    return lambda function: functools.partial(function, *options)


@njit(nogil=True, cache=True)
def compiled(*x):
    return x


def wrapped(function):
    größe = "ß"
    return njit((function), nogil=größe, cache=True) if größe else function


def ordinary(cache=True):
    return dict(text="cache=True", cache=True)
