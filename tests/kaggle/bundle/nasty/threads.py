"""Threads are allowed; the same outside import in another spelling, too."""
from __future__ import annotations

import concurrent.futures
import os
import json as json
from concurrent.futures import ThreadPoolExecutor
from nasty.blocks import count; from nasty.classes import Shape
from nasty.optional import alone, comma_first, commented, first, last, only, wrapped


def parallel(values):
    functions = [alone, comma_first, commented, first, last, only, wrapped(abs)]
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(function, value) for function in functions for value in values]
        concurrent.futures.wait(futures)
    return json.loads(json.dumps([future.result() for future in futures])) + [os.path.basename("a/b"), count(), Shape("c").size]
