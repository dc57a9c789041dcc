"""Threads that work ahead: order, errors, and nothing left behind."""

import threading
import time

import pytest

from histofold.core.threads import map_here, map_in_order, read_ahead


def test_read_ahead_keeps_order_and_hands_over_errors():
    assert list(read_ahead(range(20))) == list(range(20))

    def broken():
        yield 1
        raise OSError("disk")

    items = read_ahead(broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="disk"):
        next(items)


def test_read_ahead_ends_its_thread_when_left_early():
    before = threading.active_count()
    items = read_ahead(iter(range(10**9)))
    assert next(items) == 0
    items.close()
    assert threading.active_count() == before


def test_results_keep_the_order_of_the_items():
    def slow(item):
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(map_in_order([slow] * 4, range(30))) == [(item, item * item) for item in range(30)]
    assert list(map_in_order([slow], range(5))) == [(item, item * item) for item in range(5)]
    assert list(map_here(slow, range(5))) == [(item, item * item) for item in range(5)]
