"""One image from slide to detections at its original size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from histofold.core.objects.detections import Detections
from histofold.core.objects.frames import framed_detections
from histofold.imaging.slide import Slide
from histofold.imaging.surroundings import with_surroundings
from histofold.predict.image import ImageBands
from histofold.predict.objects.cut import cut_detections
from histofold.predict.objects.dense import dense_detections
from histofold.predict.objects.detect import detect
from histofold.predict.objects.run import BatchRunner, run_batch
from histofold.predict.stages import Networks, Stage
from histofold.predict.tiled import TileBatch, dense_values
from histofold.schema.objects import DENSE_MAPS, ObjectConfig


class BandSink(Protocol):
    """Is given the bands of dense maps, as an `ImageSink`."""

    def add(self, y: int, probs_KHW: np.ndarray) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class ObjectPrediction:
    """What an ensemble says of the objects of one image, at its original size."""

    raw: Detections
    """Before any cut."""
    rows_done: int
    """Rows of the image that the networks saw."""


def predict_objects(
    stages: Sequence[Stage],
    slide: Slide,
    pixel_size_um: float | None,
    run: BatchRunner = run_batch,
    sink: BandSink | None = None,
) -> ObjectPrediction:
    """Predict a slide in memory that does not grow with it: some rows of its maps, and the runs of its objects.

    Where the networks see tiles with their surroundings, what they find there is cut off at the tile's sides.

    Args:
        stages: The ensemble; the settings are those of the first stage.
        slide: The opened slide.
        pixel_size_um: Its pixel size; None (unknown) means the whole-image scale.
        run: Takes each batch through a stage; it may leave passes out where time is short.
        sink: Given the maps of dense networks.

    Raises:
        OutOfTimeError: If time ran out before there was anything.
    """
    context_px, (height, width) = stages[0].manifest.preprocessing.context_px, slide.shape_hw
    if not context_px:
        return _predict_frame(stages, slide, pixel_size_um, run, sink)
    surrounded = with_surroundings(slide, context_px)
    own_sink = None if sink is None else _OwnPart(sink, context_px, (height, width))
    seen = _predict_frame(stages, surrounded, pixel_size_um, run, own_sink)
    own = framed_detections(seen.raw, (context_px, context_px), (height, width))
    return ObjectPrediction(own, min(max(seen.rows_done - context_px, 0), height))


@dataclass(frozen=True)
class _OwnPart:
    """Gives a sink the part of maps that is the tile's own."""

    sink: BandSink
    context_px: int
    shape_hw: tuple[int, int]

    def add(self, y: int, probs_KHW: np.ndarray) -> None:
        """Hand on what a band has of the tile."""
        first, last = (min(max(row - self.context_px, 0), self.shape_hw[0]) for row in (y, y + probs_KHW.shape[1]))
        if last > first:
            rows = slice(first + self.context_px - y, last + self.context_px - y)
            columns = slice(self.context_px, self.context_px + self.shape_hw[1])
            self.sink.add(first, np.ascontiguousarray(probs_KHW[:, rows, columns]))


def _predict_frame(
    stages: Sequence[Stage], slide: Slide, pixel_size_um: float | None, run: BatchRunner, sink: BandSink | None
) -> ObjectPrediction:
    """As `predict_objects`, of all that a slide shows."""
    config = object_settings(stages)
    if stages[0].manifest.classes[1:] != DENSE_MAPS:
        return ObjectPrediction(*detect(stages, slide, pixel_size_um, config, run))

    def forward(stage: Stage, networks: Networks, batch: TileBatch) -> np.ndarray:
        return dense_values(run(stage, networks, batch, networks))

    bands = _seen_by(sink, iter(ImageBands(stages, slide, pixel_size_um, forward)))
    return ObjectPrediction(*dense_detections(bands, slide.shape_hw, config))


def _seen_by(sink: BandSink | None, bands: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """Bands, each of which a sink is given too."""
    for y, maps_KHW in bands:
        if sink is not None:
            sink.add(y, maps_KHW)
        yield y, maps_KHW


def raw_detections(stages: Sequence[Stage], slide: Slide, pixel_size_um: float | None) -> Detections:
    """All that the networks found, fused over members and views, at the slide's size: what `cut_detections` takes."""
    return predict_objects(stages, slide, pixel_size_um).raw


def predict_detections(stages: Sequence[Stage], slide: Slide, pixel_size_um: float | None) -> Detections:
    """The detections of a slide, as they are submitted, the best first."""
    return cut_detections(raw_detections(stages, slide, pixel_size_um), object_settings(stages))


def object_settings(stages: Sequence[Stage]) -> ObjectConfig:
    """How the objects of an ensemble are found."""
    return stages[0].manifest.objects or ObjectConfig()
