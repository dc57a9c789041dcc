"""What is raised when an image cannot be used: the file, the rule it breaks and the remedy, in words."""

from __future__ import annotations

import os


class ImageError(ValueError):
    """An image is missing, broken, too large or of a kind that is not read.

    Attributes:
        file: The image, as the user would look for it; empty where only a message was given.
        rule: What is wrong.
        remedy: What the user can do.
    """

    def __init__(self, message: str, file: str = "", rule: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.file = file
        self.rule = rule
        self.remedy = remedy


def image_fault(path: str | os.PathLike[str], rule: str, remedy: str) -> ImageError:
    """An `ImageError` whose text and attributes name the file, the rule and the remedy."""
    return ImageError(f"{path}: {rule}: {remedy}", str(path), rule, remedy)
