"""Errors of objects by kind: how many, of which source, and close up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from histofold.core.metrics.errors import ObjectErrors
from histofold.core.objects.instances import Objects
from histofold.imaging.slide import open_sample
from histofold.report.page import Block, Gallery, Legend, Pictures, Table
from histofold.report.pictures.objects import close_up
from histofold.report.pictures.overlays import PREDICTION_RGB, TRUTH_RGB
from histofold.trust.objects.evaluate import ERROR_KINDS, ObjectEvaluation

EXAMPLES_A_KIND = 4
CLOSE_UP_SIDE = 240
_LEGEND = Legend((("truth", TRUTH_RGB), ("found", PREDICTION_RGB)))


class ErrorCase(NamedTuple):
    """One error of one image."""

    size: float
    """How grave it is among those of its kind."""
    true: tuple[int, ...]
    """True objects concerned."""
    found: tuple[int, ...]
    """Found objects concerned."""


def error_blocks(evaluation: ObjectEvaluation) -> list[Block]:
    """A table of the errors of each source, and close-ups of the gravest of each kind."""
    return [_error_table(evaluation), _LEGEND, Gallery.of(error_pictures(evaluation))]


def _error_table(evaluation: ObjectEvaluation) -> Table:
    """How many errors of each kind there are in each source."""
    sources = [image.sample.source or "not named" for image in evaluation.images]
    rows = []
    for source in sorted(set(sources)):
        chosen = [place for place, name in enumerate(sources) if name == source]
        counts = sum((Counter(evaluation.errors[place].counts) for place in chosen), Counter())
        true, found = (sum(len(each) for each in _of(evaluation, chosen, kind)) for kind in ("true", "found"))
        rows.append((source, len(chosen), true, found, counts["matches"], *(counts[name] for name in ERROR_KINDS)))
    if len(rows) > 1:
        rows.append(("all", *(sum(values) for values in list(zip(*rows, strict=True))[1:])))
    caption = (
        "A match has an IoU of 0.5 or more; too thin is a match of less than 0.7 of the true area, too fat one of more "
        "than 1.4. Found are the objects that show."
    )
    return Table(("source", "images", "true", "found", "matches", *ERROR_KINDS.values()), rows, caption)


def _of(evaluation: ObjectEvaluation, places: list[int], kind: str) -> Iterator[Objects]:
    """True or found objects of some images."""
    for place in places:
        yield evaluation.images[place].truth if kind == "true" else evaluation.shown[place].objects


def error_pictures(evaluation: ObjectEvaluation) -> Pictures:
    """Close-ups of the gravest errors of each kind, of as many images as there are, as (title, uint8 HWC)."""
    pictures = []
    for name, word in ERROR_KINDS.items():
        cases = [
            (rank, -case.size, place, case)
            for place, errors in enumerate(evaluation.errors)
            for rank, case in enumerate(_gravest(evaluation, place, errors, name))
        ]
        for _, _, place, case in sorted(cases, key=lambda each: each[:3])[:EXAMPLES_A_KIND]:
            image, found = evaluation.images[place], evaluation.shown[place].objects
            with open_sample(image.sample) as slide:
                picture = close_up(slide, image.truth, found, (case.true, case.found), CLOSE_UP_SIDE)
            pictures.append((f"{word}: {image.sample.id}", picture))
    return pictures


def _gravest(evaluation: ObjectEvaluation, place: int, errors: ObjectErrors, name: str) -> list[ErrorCase]:
    """The gravest errors of a kind in one image: the largest objects, and for thin and fat ones the odd shares."""
    true_areas, found_areas = evaluation.images[place].truth.areas, evaluation.shown[place].objects.areas
    cases: list[ErrorCase] = []
    if name == "missed":
        cases = [ErrorCase(true_areas[index], (index,), ()) for index in errors.missed.tolist()]
    elif name == "hallucinated":
        cases = [ErrorCase(found_areas[index], (), (index,)) for index in errors.hallucinated.tolist()]
    elif name == "split":
        cases = [ErrorCase(true_areas[whole], (whole,), parts) for whole, parts in errors.split.items()]
    elif name == "merged":
        cases = [ErrorCase(found_areas[whole], parts, (whole,)) for whole, parts in errors.merged.items()]
    else:
        for true, found in getattr(errors, name).tolist():
            cases.append(ErrorCase(abs(float(np.log(found_areas[found] / true_areas[true]))), (true,), (found,)))
    return sorted(cases, key=lambda case: -case.size)[:EXAMPLES_A_KIND]
