"""Names bound in blocks at the top level."""

from __future__ import annotations

import contextlib
import io
import sys

if sys.version_info >= (3, 11):
    import tomllib as toml_reader
    from nasty.alpha import FIRST
else:
    toml_reader = None

with contextlib.suppress(KeyError), io.StringIO() as stream:
    if (doubled := FIRST * 2) > 1:
        from nasty.alpha import SECOND

        TOTAL = doubled + SECOND
    raise KeyError

for index in range(3):
    collected = [letter for letter in "ab"] * index

try:
    from nasty.alpha import REST
finally:
    del index

while not collected:
    pass
else:
    CLOSED = stream.closed
_counter = [0]


def count():
    _counter[0] += 1
    return [*_counter, toml_reader.loads("a = 1"), TOTAL, collected, CLOSED, REST]
