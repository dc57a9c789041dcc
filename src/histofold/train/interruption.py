"""Ctrl-C and SIGTERM while a fold trains: the step is finished and saved first, and where it goes on is said."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from histofold.train.checkpoint import state_paths


class Interrupted(KeyboardInterrupt):
    """Training was interrupted by a signal.

    Args:
        number: The signal.
        words: What is saved.
    """

    def __init__(self, number: int, words: str = "") -> None:
        super().__init__(words)
        self.number = number


class Interruption:
    """Holds signals back while a step changes weights; between steps, and the second time, they interrupt at once.

    Only the main thread may hold signals back; others leave them alone.

    Args:
        leads: Whether this process saves. Of several the first one does; the others pass signals over, for it needs
            them to finish its step, and end when they find it gone or their agent kills them.
    """

    def __init__(self, leads: bool = True) -> None:
        self.number = 0
        self._leads, self._enabled = leads, threading.current_thread() is threading.main_thread()
        self._holds = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        """Take the signals over, those aside that the process ignores."""
        for number in (signal.SIGINT, signal.SIGTERM) if self._enabled else ():
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note if self._leads else signal.SIG_IGN)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Give them back; an interruption of which a library made an error of its own, as torch.save does, is one."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, Exception) and isinstance(error.__context__, KeyboardInterrupt):
            raise Interrupted(getattr(error.__context__, "number", signal.SIGINT)) from None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number or not self._holds:
            raise Interrupted(number)
        self.number = number

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """For the time of a step: `number` then says whether it was interrupted."""
        self._holds = True
        try:
            yield
        except Exception:
            if self.number:  # the terminal interrupts what the step depends on, too
                raise Interrupted(self.number) from None
            raise
        finally:
            self._holds = False


def saved_words(folder: Path, fold: int) -> str:
    """What is left of an interrupted fold, and so at which step it goes on.

    Args:
        folder: runs/E/fold{k}.
        fold: Its number.
    """
    paths = state_paths(folder)
    if not paths:
        return f"fold {fold}: nothing is saved yet, it starts again at step 0"
    return f"fold {fold}: saved at step {int(paths[-1].stem.removeprefix('state_'))}, it goes on there"
