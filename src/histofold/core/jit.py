"""numba where it is installed: compiled, without the interpreter's lock, cached on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import numba
except ImportError:
    numba = None

HAS_NUMBA = numba is not None


def njit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with numba (nogil, cached), or return it as it is where numba is missing."""
    if not HAS_NUMBA:
        return function
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no folder to cache in: read-only sources, or a source that is no file
        return numba.njit(nogil=True)(function)
