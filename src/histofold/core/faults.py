"""Faults of the input and of images: what was found, where, which rule it breaks, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One fault of the input."""

    id: str
    """The sample or key at fault."""
    file: str
    """The file that holds it, as the user would look for it."""
    rule: str
    """What is wrong, in words."""
    remedy: str
    """What the user can do."""

    def __str__(self) -> str:
        """One line: id, file, rule, remedy."""
        return f"{self.id}: {self.file}: {self.rule}; {self.remedy}"


@dataclass(frozen=True)
class InputNotice(Fault):
    """What deserves a look and stops nothing; it comes among the faults of a folder, and `parted` takes it out."""


def parted(found: Iterable[Fault]) -> tuple[list[Fault], list[InputNotice]]:
    """What must be mended, and what only deserves a look."""
    both = list(found)
    notices = [each for each in both if isinstance(each, InputNotice)]
    return [each for each in both if not isinstance(each, InputNotice)], notices


def listed_ids(ids: Iterable[str], most: int = 6) -> str:
    """The first of some ids in words, and how many more there are."""
    shown = list(ids)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


class InputError(ValueError):
    """The input is at fault; carries every fault found, not only the first. Commands exit 2 on it."""

    def __init__(self, faults: Sequence[Fault] | str) -> None:
        self.faults: list[Fault] = [] if isinstance(faults, str) else list(faults)
        message = faults if isinstance(faults, str) else "\n".join(str(fault) for fault in faults)
        super().__init__(message)


class ImageError(ValueError):
    """An image is missing, broken, too large or of a kind that is not read."""

    file: str
    """The image, as the user would look for it; empty where only a message was given."""
    rule: str
    """What is wrong."""
    remedy: str
    """What the user can do."""

    def __init__(self, message: str, file: str = "", rule: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.file = file
        self.rule = rule
        self.remedy = remedy


def image_fault(path: str | os.PathLike[str], rule: str, remedy: str) -> ImageError:
    """An `ImageError` whose text and attributes name the file, the rule and the remedy."""
    return ImageError(f"{path}: {rule}: {remedy}", str(path), rule, remedy)
