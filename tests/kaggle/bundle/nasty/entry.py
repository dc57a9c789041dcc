"""The entry."""

from __future__ import annotations

import asyncio
import json
import sys

from nasty.alpha import FIRST, REST, SECOND, area, queue_of, scale
from nasty.blocks import count
from nasty.classes import SHAPES, Shape
from nasty.continuation import DOUBLE, TRIPLE, chained
from nasty.local_imports import awaited, nested, one_line, one_line_only, only_statement
from nasty.optional import HAS_PACKAGE, ordinary
from nasty.strings import LOOKS, text_facts


def main(argv: list[str]) -> int:
    shape = Shape("s")
    facts = {
        "alpha": [FIRST, SECOND, REST, scale, area(3), queue_of([1, 2, 3])],
        "classes": [SHAPES, shape.size, shape.kind({"sides": [1, 2, 3], "x": 1}), shape.kind("word"), shape.kind(None), Shape.Inner.upper],
        "continuation": [DOUBLE, TRIPLE, chained(2, 3)],
        "local": [nested(2.5), one_line(), one_line_only(), only_statement(), asyncio.run(awaited())],
        "optional": [HAS_PACKAGE, ordinary()],
        "strings": [text_facts(), LOOKS],
        "counts": [count(), count()],
    }
    json.dump(facts, sys.stdout, indent=1)
    return len(argv)


if __name__ == "__main__":
    from nasty.threads import parallel

    print(json.dumps(parallel([1, 2])), __name__)
    sys.exit(main(sys.argv[1:]))
