"""Commands: each module one verb, thin, without logic of its own; here, how a verb reads its command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

from histofold.core.faults import InputError

Options = TypeVar("Options")


def parse_options(cls: type[Options], verb: str, arguments: Sequence[str], default: Options | None = None) -> Options:
    """Parse a command line into a dataclass; --help and mistakes end the program as usual (0 and 2).

    Raises:
        InputError: If a value is refused by the dataclass itself.
    """
    import tyro  # `histofold --help` does without

    try:
        if default is None:
            return tyro.cli(cls, prog=f"histofold {verb}", args=list(arguments))
        return tyro.cli(cls, prog=f"histofold {verb}", args=list(arguments), default=default)
    except ValueError as error:
        raise InputError(str(error)) from error


def own_cores() -> int:
    """Cores that this process may use: those of its job where a cluster has narrowed them, else the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
