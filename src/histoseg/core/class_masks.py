"""Masks of one or of several classes, as runs."""

from __future__ import annotations

from collections.abc import Sequence

from histoseg.core.rle import Runs

Masks = Runs | tuple[Runs, ...]
"""An image's mask: runs, or those of each class where there are several. Classes may overlap."""


def class_runs(masks: Masks) -> tuple[Runs, ...]:
    """The runs of each class."""
    return (masks,) if isinstance(masks, Runs) else masks


def join_classes(runs: Sequence[Runs]) -> Masks:
    """The runs of each class as one value: bare runs where there is a single class."""
    return runs[0] if len(runs) == 1 else tuple(runs)
