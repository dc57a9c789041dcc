# A comment above the docstring.
'''A docstring that holds """triple quotes""", a backslash \\ and a line that looks like code:

import antigravity
'''

from __future__ import annotations

import json, math  # two in a line, and a comment
from collections import (  # a parenthesised import
    OrderedDict,
    deque as double_ended,  # with a comment and an alias
)
import os.path

__all__ = ["FIRST", "area"]
__all__ += ["scale"]

FIRST, (SECOND, *REST) = 1, (2, 3, 4)  # a comment that stays
scale: float = 2.5
limit: int


def area(radius):  # the parameter has no annotation
    """A docstring stays; it is no import os."""
    return round(math.pi * radius**2 * scale, 6)


def queue_of(values):
    queue = double_ended(values, maxlen=2)
    return json.dumps(OrderedDict(values=list(queue), sep=os.path.sep))
