"""Faults of the input: what was found, where, which rule it breaks, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One fault of the input.

    Attributes:
        id: The sample or key at fault.
        file: The file that holds it, as the user would look for it.
        rule: What is wrong, in words.
        remedy: What the user can do.
    """

    id: str
    file: str
    rule: str
    remedy: str

    def __str__(self) -> str:
        """One line: id, file, rule, remedy."""
        return f"{self.id}: {self.file}: {self.rule}; {self.remedy}"


class InputError(ValueError):
    """The input is at fault; carries every fault found, not only the first. Commands exit 2 on it."""

    def __init__(self, faults: Sequence[Fault] | str) -> None:
        self.faults: list[Fault] = [] if isinstance(faults, str) else list(faults)
        message = faults if isinstance(faults, str) else "\n".join(str(fault) for fault in faults)
        super().__init__(message)
