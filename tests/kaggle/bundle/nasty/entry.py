"""The entry."""

from __future__ import annotations

import asyncio
import json
import sys

from nasty.alpha import FIRST, REST, SECOND, area, queue_of, scale
from nasty.blocks import count
from nasty.called import outside, parallel
from nasty.classes import Named, Shape, hints, shapes
from nasty.decorated import DOUBLE, TRIPLE, chained, vectors
from nasty.local_imports import awaited, nested, only_statement
from nasty.optional import HAS_PACKAGE, ordinary
from nasty.strings import LOOKS, text_facts


def main(argv: list[str]) -> int:
    shape = Shape("s")
    kinds = [{"sides": [1, 2, 3], "x": 1}, "word", Named(), None]
    facts = {
        "alpha": [FIRST, SECOND, REST, scale, area(3), queue_of([1, 2, 3])],
        "classes": [shapes(), shape.size, [shape.kind(kind) for kind in kinds], Shape.Inner.upper, hints()],
        "decorated": [DOUBLE, TRIPLE, chained(2, 3), vectors()],
        "local": [nested(2.5), only_statement(), asyncio.run(awaited())],
        "optional": [HAS_PACKAGE, ordinary()],
        "strings": [text_facts(), LOOKS],
        "counts": [count(), count()],
    }
    json.dump(facts, sys.stdout, indent=1)
    return len(argv)


def unreached_in_the_entry() -> None:
    """Goes as well."""


if __name__ == "__main__":
    print(json.dumps([outside(), parallel([1, 2])]), __name__)
    sys.exit(main(sys.argv[1:]))
