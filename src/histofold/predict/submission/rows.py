"""From an opened slide to its row: what is done for masks, and what objects replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from histofold.competitions.base import Competition
from histofold.core.rle.runs import class_runs
from histofold.imaging.slide import Slide
from histofold.models.build import build_model
from histofold.predict.image import ImageSink, predict_image
from histofold.predict.members import Builder
from histofold.predict.stages import Stage
from histofold.predict.submission.clock import ImagePacer
from histofold.schema.manifest import Manifest, joined_thresholds, look_up_thresholds
from histofold.schema.sample import Sample


@dataclass(frozen=True)
class ImageRow:
    """What was predicted of one image."""

    text: str
    """The host's row; of several classes a line for each."""
    area_px: int
    """Pixels of the mask, of all classes or objects together."""
    rows_done: int | None
    """Rows of pixels that the networks saw, before time ran out."""
    keep: Callable[[bool], None]
    """Hands over what the row says, once it is known whether the row is final."""


class RowMaker(Protocol):
    """Makes the rows of a submission, and the file of them."""

    @property
    def build(self) -> Builder:
        """Builds the networks."""
        ...

    def fallback(self, sample: Sample) -> str:
        """A legal row for an image that cannot be predicted."""
        ...

    def file_text(self, rows: Mapping[str, str]) -> str:
        """The whole file, from each id's row."""
        ...

    def predict(self, stages: Sequence[Stage], slide: Slide, sample: Sample, pacer: ImagePacer) -> ImageRow:
        """Predict an opened slide."""
        ...


RowsFactory = Callable[[Competition, Sequence[Manifest]], RowMaker]
"""Takes the adapter and the manifests of an ensemble."""


class MaskRows:
    """Rows of masks.

    Args:
        competition: The adapter.
        manifests: Those of the ensemble.
        sink: Told of each image what else than its row is to be kept.
    """

    build = staticmethod(build_model)

    def __init__(self, competition: Competition, manifests: Sequence[Manifest], sink: ImageSink | None = None) -> None:
        self._competition, self._manifest, self._sink = competition, manifests[0], sink
        self._thresholds = joined_thresholds([manifest.thresholds for manifest in manifests])

    def fallback(self, sample: Sample) -> str:
        """A legal row for an image that cannot be predicted; of several classes a line for each."""
        return "\n".join([self._competition.fallback(sample)] * len(self._manifest.classes))

    def file_text(self, rows: Mapping[str, str]) -> str:
        """The submission."""
        return self._competition.submission_text(rows, self._manifest.classes)

    def predict(self, stages: Sequence[Stage], slide: Slide, sample: Sample, pacer: ImagePacer) -> ImageRow:
        """Predict the masks of an opened slide, clean and encode them."""
        threshold = look_up_thresholds(self._thresholds, sample.organ, sample.source, self._manifest.classes)
        if self._sink is not None:
            self._sink.begin(sample, slide.shape_hw, threshold)
        prediction = predict_image(stages, slide, sample.pixel_size_um, [threshold], pacer.forward, self._sink)
        masks = prediction.masks(threshold, self._manifest, self._competition.never_empty)
        text = "\n".join(self._competition.row(runs) for runs in class_runs(masks))

        def keep(is_final: bool) -> None:
            if self._sink is not None:
                self._sink.finish(masks, is_final)

        return ImageRow(text, sum(runs.area for runs in class_runs(masks)), prediction.rows_done, keep)
