"""Ends a run that hangs, before the host would: a submission that is not done on time counts for nothing."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from histofold.core.log import logger
from histofold.predict.submission.clock import Budget
from histofold.predict.submission.journal import SubmissionJournal

_LOOK_S = 1.0
_LEAST_MERCY_S = 8.0  # loading networks cannot be interrupted at once, and a reader that hangs is waited for
_MERCY_S = 20.0  # between asking and ending; less where the limit is short


@contextmanager
def flush_on_sigterm(journal: SubmissionJournal) -> Iterator[None]:
    """On SIGTERM write the csv, then leave with the usual status 143. Only the main thread may install handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        journal.flush()
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Watchdog:
    """Watches a budget from a thread of its own.

    The budget stops work between batches. A decoder that never returns, or a single batch that takes an hour, does not
    ask it. When half of the budget's reserve is gone, the main thread is interrupted; if that does not help either,
    the csv (complete, with fallback rows) is written a last time and the process ends.

    Args:
        budget: The clock.
        journal: The submission.
        status: Exit status of a process that had to be ended.
    """

    def __init__(self, budget: Budget, journal: SubmissionJournal, status: int) -> None:
        self._budget, self._journal, self._status = budget, journal, status
        limit_s = budget.limit_s or 0.0
        self._late_s = max(1.0, 0.5 * min(budget.reserve_s, 0.5 * limit_s))
        self._mercy_s = min(_MERCY_S, max(_LEAST_MERCY_S, 0.5 * self._late_s))
        self._done = threading.Event()
        self.fired = False
        self._handler: Any = None
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        """Begin to watch, where there is a limit and this is the main thread."""
        if self._budget.limit_s is not None and threading.current_thread() is threading.main_thread():
            # A process that a shell has put into the background ignores interrupts, ours included.
            self._handler = signal.signal(signal.SIGINT, signal.default_int_handler)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """All is written: watch no longer."""
        self._done.set()
        if self._thread.ident is not None:
            self._thread.join()
            signal.signal(signal.SIGINT, self._handler or signal.SIG_DFL)

    def _watch(self) -> None:
        while self._budget.left_s() > -self._late_s:
            if self._done.wait(min(_LOOK_S, max(0.01, self._budget.left_s() + self._late_s))):
                return
        self.fired = True
        logger.error("an image hangs and the time is over: it is interrupted, the rows that are done stay")
        # A signal and not only a flag: the main thread may be waiting for a reader that hangs.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if self._done.wait(self._mercy_s):
            return
        self._journal.flush()
        logger.error("it cannot be interrupted: the process ends here, the submission is complete with fallback rows")
        logging.shutdown()
        os._exit(self._status)
