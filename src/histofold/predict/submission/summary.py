"""What a kernel's log ends with: a table of the images, the worst first, and what became of the run, in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from histofold.predict.submission.runner import ImageRecord, RunSummary

SUMMARY_LINES = 60  # what the whole may take: people read the log in a browser
_OUTCOMES = ("fallback", "degraded", "taken over", "predicted")  # from the worst
_GROUPS = 8  # reasons, and steps, that are listed one by one
_REASON_WIDTH = 60
_ID_WIDTH = 24
_HEADER = ("id", "pixels", "seconds", "passes", "area %", "outcome", "reason")


def summary_lines(summary: RunSummary) -> list[str]:
    """The summary of a run: totals, the table, reasons of fallback rows, and what was left out, at most 60 lines.

    Args:
        summary: What `run_submission` gave.
    """
    tail = [*_grouped("reasons of fallback rows", _reason_counts(summary)), *_grouped("steps", Counter(summary.steps))]
    room = SUMMARY_LINES - len(tail) - 4  # title, header and the two lines around what is left out
    ranked = sorted(summary.images, key=_badness)
    lines = [_totals(summary), *_aligned([_HEADER, *map(_cells, ranked[:room])])]
    hidden = ranked[room:]
    if hidden:
        counts = ", ".join(f"{count} {name}" for name, count in Counter(image.outcome for image in hidden).items())
        slowest = max(image.seconds for image in hidden)
        lines.append(f"... and {len(hidden)} more: {counts}; the slowest took {slowest:.1f} s")
    return lines + tail


def _badness(image: ImageRecord) -> tuple[int, float]:
    """Rank of an image: by outcome, the slowest first."""
    rank = _OUTCOMES.index(image.outcome) if image.outcome in _OUTCOMES else -1
    return rank, -image.seconds


def _totals(summary: RunSummary) -> str:
    counts = Counter(image.outcome for image in summary.images)
    listed = ", ".join(f"{counts[name]} {name}" for name in reversed(_OUTCOMES))
    place = f" on {summary.device}" * bool(summary.device)
    return f"summary: {len(summary.images)} images in {summary.seconds:.0f} s{place}: {listed}"


def _cells(image: ImageRecord) -> tuple[str, ...]:
    """The cells of an image's line."""
    size, area = "?", ""
    if image.shape_hw is not None:
        height, width = image.shape_hw
        size, area = f"{height} x {width}", f"{100 * image.area_px / max(1, height * width):.2f}"
    cells = (_short(image.id, _ID_WIDTH), size, f"{image.seconds:.2f}", image.passes, area, image.outcome)
    return (*cells, _short(image.reason, _REASON_WIDTH))


def _short(text: str, width: int) -> str:
    """Text on one line, its end left out where it is too long."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 3]}..."


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of columns: numbers to the right, words to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    to_left = ("id", "outcome", "reason")
    return [
        "  ".join(
            cell.ljust(width) if name in to_left else cell.rjust(width)
            for cell, width, name in zip(row, widths, _HEADER, strict=True)
        ).rstrip()
        for row in rows
    ]


def _reason_counts(summary: RunSummary) -> Counter[str]:
    """How often each reason kept a fallback row; those that differ in ids, paths or numbers alone are one."""
    reasons: Counter[str] = Counter()
    for image in summary.images:
        if image.outcome == "fallback":
            text = re.sub(r"\S*[/\\]\S*", "FILE", image.reason)
            text = re.sub(rf"(?<!\w){re.escape(image.id)}(?!\w)", "ID", text)
            reasons[_short(re.sub(r"\d+", "#", text), 2 * _REASON_WIDTH) or "no reason given"] += 1
    return reasons


def _grouped(title: str, counts: Counter[str]) -> list[str]:
    """The most frequent lines under a title, and how many others there are; nothing where there are none."""
    if not counts:
        return []
    lines = [f"{title}:", *(f"  {count} x {_short(text, 160)}" for text, count in counts.most_common(_GROUPS))]
    others = len(counts) - _GROUPS
    return lines + [f"  and {others} others"] * (others > 0)
