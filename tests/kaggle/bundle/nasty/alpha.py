# A comment above the docstring.
'''A docstring that holds """triple quotes""", a backslash \\ and a line that looks like code:

import antigravity
'''

from __future__ import annotations

import json
import math  # with a comment
import os.path
from collections import (  # a parenthesised import
    OrderedDict,
    deque as double_ended,  # with a comment and an alias
)

FIRST, (SECOND, *REST) = 1, (2, 3, 4)  # a comment that stays
scale: float = 2.5
"""Words below a constant go beside it. Of more sentences the first line's stay.

And no more.
"""
limit: int
# This constant goes, and the comment above it with it.
UNREACHED = 1 / 3
"""So do the words below it."""
QUIET_AND_UNREACHED = frozenset({"reached by nobody"})


def area(radius):  # the parameter has no annotation
    """A docstring stays by its first line.

    It is no import os, and it mentions unreached().
    """
    return round(math.pi * radius**2 * scale, 6)


# This comment belongs to the function below.
def unreached():
    """Goes, with what it alone reaches."""
    return also_unreached()


def also_unreached():
    return limit


def queue_of(values):
    queue = double_ended(values, maxlen=2)
    return json.dumps(OrderedDict(values=list(queue), sep=os.path.sep))
