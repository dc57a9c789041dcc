"""Methods that only outside code calls, threads, and the same outside import in another spelling."""

from __future__ import annotations

import concurrent.futures
import json as json
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from nasty.blocks import count
from nasty.classes import Shape
from nasty.optional import compiled, wrapped


class Answer(Protocol):
    """What is asked, whoever answers."""

    def answered(self) -> int: ...

    def not_asked(self) -> int: ...


class Worker(threading.Thread):
    def run(self):
        self.seen = "run"


class Later(Worker):
    def run(self):
        super().run()
        self.seen += " later"


class Collecting(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


class Counted(dict):
    def __missing__(self, key):
        return 0

    def setdefault(self, key, default=None):
        return "ours"

    def of_our_own(self):
        return 1


class Answering:
    def answered(self):
        return 42

    def not_asked(self):
        return 43


def asked(answer: Answer, also: Callable[[], int] = int) -> int:
    return answer.answered() + also()


def outside():
    worker, handler = Later(), Collecting()
    worker.start()
    worker.join()
    logger = logging.Logger("nasty")
    logger.addHandler(handler)
    logger.warning("seen")
    return [worker.seen, handler.lines, Counted()["a"], asked(Answering())]


def parallel(values):
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(wrapped(max), *values), pool.submit(compiled, *values)]
        concurrent.futures.wait(futures)
    return json.loads(json.dumps([str(future.exception()) for future in futures])) + [
        os.path.basename("a/b"),
        count(),
        Shape("c").size,
    ]
