"""What skipping blank tiles would cost: refused where it costs truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tqdm import tqdm

from histofold.competitions.base import Truth
from histofold.core.faults import Fault, InputError
from histofold.core.rle.runs import class_runs
from histofold.imaging.slide import open_sample
from histofold.imaging.stain import network_view
from histofold.predict.tiled import grid_of, is_blank_tile, read_padded
from histofold.schema.manifest import Manifest
from histofold.schema.prediction import views_by_zoom
from histofold.schema.sample import Sample


def refuse_costly_skipping(manifest: Manifest, truth: Truth, samples: Sequence[Sample]) -> None:
    """Refuse a manifest that skips blank tiles where some of them hold truth; one that does not skip passes unseen.

    Args:
        manifest: The settings of prediction.
        truth: Of the slides.
        samples: Held-out slides.

    Raises:
        InputError: With every slide that would lose truth, and how many pixels.
    """
    if not manifest.skip_blank:
        return
    faults = []
    for sample in tqdm(samples, desc="blank tiles", unit="slide", leave=False, dynamic_ncols=True):
        lost = blank_truth_pixels(manifest, truth, sample)
        if lost:
            rule = f"{lost} pixels of its truth lie in tiles that skip_blank would leave out"
            faults.append(Fault(sample.id, str(sample.image_path), rule, "set predict.skip_blank = false"))
    if faults:
        raise InputError(faults)


def blank_truth_pixels(manifest: Manifest, truth: Truth, sample: Sample) -> int:
    """Pixels of a slide's truth, of all classes, that blank tiles answer for: the most of any zoom of the views.

    Of blended tiles each counts with all that it shows, since it pulls down what overlaps with it.
    """
    labelled = class_runs(truth.target(sample))
    lost = [0]
    with open_sample(sample) as slide:
        for zoom in views_by_zoom(manifest.views):
            zoomed = replace(manifest, preprocessing=manifest.preprocessing.zoomed(zoom))
            view = network_view(slide, zoomed.preprocessing, sample.pixel_size_um)
            pixels = 0
            for tile in grid_of(zoomed, view.shape_hw):
                if is_blank_tile(read_padded(view, tile)):
                    region = tile.read if manifest.blend else tile.write
                    window = _original_window(region, view.shape_hw, slide.shape_hw)
                    pixels += sum(int(runs.to_window(*window).sum()) for runs in labelled)
            lost.append(pixels)
    return max(lost)


def _original_window(
    region: tuple[slice, slice], scaled_hw: tuple[int, int], original_hw: tuple[int, int]
) -> tuple[slice, slice]:
    """A region of the scaled image in pixels of the file; cut pixels count in full."""
    y, x = (
        slice(math.floor(span.start * original / scaled), math.ceil(span.stop * original / scaled))
        for span, scaled, original in zip(region, scaled_hw, original_hw, strict=True)
    )
    return y, x
