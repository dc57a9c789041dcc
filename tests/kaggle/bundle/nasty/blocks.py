"""Names bound in tuples and in a `try:` at the top level, and an object that functions change."""

from __future__ import annotations

import contextlib

from nasty.alpha import FIRST, REST, SECOND

try:
    import tomllib as toml_reader
except ImportError:
    toml_reader = None

(doubled, TOTAL), *collected = (FIRST * 2, FIRST * 2 + SECOND), "a", "b"
CLOSED: bool = not doubled
SAID = [letter for letter in "ab" if letter in collected]
_counter = [0]


def count():
    with contextlib.suppress(KeyError):
        _counter[0] += 1
    return [*_counter, toml_reader.loads("a = 1"), TOTAL, collected, CLOSED, REST, SAID]
