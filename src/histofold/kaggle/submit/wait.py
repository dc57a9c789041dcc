"""Asking again and again until something is done: pauses that grow, and a failed question now and then is no matter."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.submit.client import ClientError

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How to wait."""

    first_s: float = 10.0
    """The first pause between two questions, in seconds."""
    longest_s: float = 300.0
    """The longest pause."""
    growth: float = 1.3
    """How much longer each pause is than the one before."""
    failures: int = 8
    """As many questions in a row may fail for reasons that pass by themselves."""

    def pauses(self) -> list[float]:
        """The pauses from the first to the longest one, which then stays."""
        values = [self.first_s]
        while values[-1] < self.longest_s:
            values.append(min(values[-1] * self.growth, self.longest_s))
        return values


def wait_for(
    ask: Callable[[], Answer],
    is_done: Callable[[Answer], bool],
    patience: Patience,
    *,
    what: str,
    limit_s: float,
) -> Answer:
    """Ask until the answer is a final one.

    Args:
        ask: The question.
        is_done: Whether an answer is final.
        patience: How to wait.
        what: What is waited for, in words.
        limit_s: When to give up, in seconds.

    Raises:
        InputError: After `limit_s`; what is waited for goes on at Kaggle's.
        ClientError: If a question fails for good, or too often in a row.
    """
    started, failed, told = time.monotonic(), 0, ""
    pauses = patience.pauses()
    for turn in range(2**31):
        try:
            answer, failed = ask(), 0
            if is_done(answer):
                return answer
            words = "not there yet" if answer is None else str(answer)
            if words != told:
                told = words
                logger.info("%s: %s", what, told)
        except ClientError as error:
            failed += 1
            if not error.transient or failed >= patience.failures:
                raise
            logger.warning("%s: %s; asked again", what, error.faults[0].rule)
        if time.monotonic() - started > limit_s:
            break
        time.sleep(pauses[min(turn, len(pauses) - 1)])
    remedy = "look at its page; the same command goes on waiting"
    raise InputError([Fault(what, "Kaggle", f"not done after {limit_s / 3600:.1f} hours", remedy)])
