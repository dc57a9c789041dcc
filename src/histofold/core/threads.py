"""Threads that work ahead: reading beside the forward pass, and one for each of several devices."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_PARTING_S = 2.0  # a thread that hangs longer is left behind; it is a daemon
_HANDOVER_S = 0.1  # how often a waiting thread looks whether it is still wanted


def read_ahead(items: Iterable[Item], depth: int = 2) -> Generator[Item, None, None]:
    """Iterate in a thread, at most `depth` items ahead; errors of the thread are raised here, and it ends with us."""
    waiting: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(kind: str, value: Item | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((kind, value), timeout=_HANDOVER_S)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # handed over whole: the consumer raises it
            put("error", error)

    thread = threading.Thread(target=produce, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                try:
                    raise value
                finally:
                    del value  # else the error holds this frame and the frame the error
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join(_PARTING_S)


def map_here(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[tuple[Item, Result], None, None]:
    """Apply work to items, one after another, in the caller's thread."""
    for item in items:
        yield item, work(item)


def map_in_order(
    works: Sequence[Callable[[Item], Result]], items: Iterable[Item], ahead: int = 1
) -> Generator[tuple[Item, Result], None, None]:
    """Apply work to items and give (item, result) in the items' order.

    Each work gets a thread that takes the next item when it is free. So many items and results wait in memory: one for
    each work, and those ahead.

    Args:
        works: The same work, once for each device or thread.
        items: What to work on; iterated in the caller's thread.
        ahead: Items beyond one for each work.
    """
    tasks: queue.SimpleQueue[tuple[Item, queue.SimpleQueue] | None] = queue.SimpleQueue()

    def serve(work: Callable[[Item], Result]) -> None:
        while (task := tasks.get()) is not None:
            item, answer = task
            try:
                answer.put((work(item), None))
            except BaseException as error:  # handed over whole: the consumer raises it
                answer.put((None, error))

    threads = [threading.Thread(target=serve, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    pending: list[tuple[Item, queue.SimpleQueue]] = []
    try:
        for item in items:
            pending.append((item, queue.SimpleQueue()))
            tasks.put(pending[-1])
            if len(pending) >= len(works) + ahead:
                yield _answer_of(*pending.pop(0))
        while pending:
            yield _answer_of(*pending.pop(0))
    finally:
        for _ in threads:
            tasks.put(None)
        for thread in threads:
            thread.join(_PARTING_S)


def _answer_of(item: Item, answer: queue.SimpleQueue) -> tuple[Item, Result]:
    result, error = answer.get()
    if error is not None:
        try:
            raise error
        finally:
            del error, answer
    return item, result
