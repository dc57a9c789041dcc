"""A type that would be a circle of imports: its name is a word in an annotation, and nothing more."""

from __future__ import annotations


def describe(shape: Shape) -> str:  # noqa: F821
    return f"{shape} 1"
