"""Errors of objects by kind: how many, of which source, and close up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from histofold.core.metrics.errors import ERROR_KINDS, gravest_cases
from histofold.core.objects.instances import Objects
from histofold.imaging.slide import open_sample
from histofold.report.blocks import Block, Gallery, Legend, Pictures, Table
from histofold.report.pictures.objects import close_up
from histofold.report.pictures.overlays import PREDICTION_RGB, TRUTH_RGB
from histofold.trust.objects.evaluate import ObjectEvaluation

EXAMPLES_A_KIND = 4
CLOSE_UP_SIDE = 240
OUTLINE_LEGEND = Legend((("truth", TRUTH_RGB), ("found", PREDICTION_RGB)))


def error_blocks(evaluation: ObjectEvaluation) -> list[Block]:
    """A table of the errors of each source, and close-ups of the gravest of each kind."""
    return [_error_table(evaluation), OUTLINE_LEGEND, Gallery.of(error_pictures(evaluation))]


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
            for truth, found in [(evaluation.images[place].truth, evaluation.shown[place].objects)]
            for rank, case in enumerate(gravest_cases(errors, truth, found, name)[:EXAMPLES_A_KIND])
        ]
        for _, _, place, case in sorted(cases, key=lambda each: each[:3])[:EXAMPLES_A_KIND]:
            image, found = evaluation.images[place], evaluation.shown[place].objects
            with open_sample(image.sample) as slide:
                picture = close_up(slide, image.truth, found, (case.true, case.found), CLOSE_UP_SIDE)
            pictures.append((f"{word}: {image.sample.id}", picture))
    return pictures
