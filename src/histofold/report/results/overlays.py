"""Pictures of predictions for people to look at: outlines over the slide, small enough for any viewer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from histofold.core.objects.detections import Detections
from histofold.core.rle.rings import trace_components
from histofold.core.rle.runs import Runs, class_runs
from histofold.data.thumbnails import fitting_shape, read_small
from histofold.imaging.slide import open_sample
from histofold.predict.submission.results import Found
from histofold.report.pictures.overlays import contact_sheet, draw_rings, save_png
from histofold.report.results.objects import object_colour
from histofold.report.results.outlines import CLASS_COLOURS
from histofold.schema.sample import Sample

OVERLAY_SIDE = 1600
"""Longer side of a picture in pixels, at most."""


def write_overlay(path: Path, sample: Sample, found: Found, classes: Sequence[str]) -> None:
    """Write a slide with the outlines of its mask; of several classes a picture beside the other, with their names.

    Objects have a colour each.

    Args:
        path: The PNG file, which is replaced whole or not at all.
        sample: The slide, which is read band by band.
        found: The mask, those of each class, or objects.
        classes: Names of the classes.

    Raises:
        ImageError: If the slide cannot be read.
    """
    with open_sample(sample) as slide:
        shape_hw = slide.shape_hw
        small_HWC = read_small(slide, fitting_shape(shape_hw, OVERLAY_SIDE))
    if isinstance(found, Detections):
        for place, runs in enumerate(found.objects):
            draw_rings(small_HWC, _rings(runs), shape_hw, object_colour(place))
        save_png(path, small_HWC)
        return
    pictures = []
    for place, runs in enumerate(class_runs(found)):
        picture_HWC = small_HWC.copy()
        draw_rings(picture_HWC, _rings(runs), shape_hw, CLASS_COLOURS[place % len(CLASS_COLOURS)])
        pictures.append(picture_HWC)
    if len(pictures) > 1:
        pictures = [contact_sheet(pictures, classes, columns=3, cell=max(small_HWC.shape))]
    save_png(path, pictures[0])


def _rings(runs: Runs) -> Iterator[np.ndarray]:
    return (ring for each in trace_components(runs) for ring in each.rings)
