"""Rows of single objects, in place of rows of masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import numpy as np

from histofold.competitions.base import Competition, ObjectCompetition
from histofold.competitions.objects import covered_pixels
from histofold.core.faults import Fault, InputError
from histofold.core.objects.detections import Detections
from histofold.imaging.slide import Slide
from histofold.models.instances.build import build_network
from histofold.predict.image import Threshold
from histofold.predict.objects.cut import cut_detections
from histofold.predict.objects.image import object_settings, predict_objects
from histofold.predict.stages import Stage
from histofold.predict.submission.clock import ImagePacer
from histofold.predict.submission.rows import ImageRow
from histofold.schema.manifest import Manifest, Member
from histofold.schema.network import BOX_DETECTORS, is_detector
from histofold.schema.sample import Sample


class ObjectSink(Protocol):
    """Is given what there is of each image besides its row, as an `ImageSink`; no kernel has one."""

    def begin(self, sample: Sample, shape_hw: tuple[int, int], threshold: Threshold) -> None: ...  # noqa: D102

    def add(self, y: int, probs_KHW: np.ndarray) -> None: ...  # noqa: D102

    def finish(self, found: Detections, is_final: bool) -> None: ...  # noqa: D102


class ObjectRows:
    """Rows of objects; an adapter that takes masks is given the union of an image's objects.

    Args:
        competition: The adapter.
        manifests: Those of the ensemble.
        sink: Told of each image what else than its row is to be kept.
        form: Writes the file; None: the adapter.

    Raises:
        InputError: If boxes are to be fused of networks that give none.
    """

    build = staticmethod(build_network)

    def __init__(
        self,
        competition: Competition,
        manifests: Sequence[Manifest],
        sink: ObjectSink | None = None,
        form: Competition | None = None,
    ) -> None:
        self._competition, self._sink, self._form = competition, sink, form or competition
        self._classes = manifests[0].row_classes
        config = manifests[0].objects
        if config is not None and config.fusion == "boxes":
            _check_boxes([member for manifest in manifests for member in manifest.members])

    def fallback(self, sample: Sample) -> str:
        """A legal row for an image that cannot be predicted."""
        return self._competition.fallback(sample)

    def file_text(self, rows: Mapping[str, str]) -> str:
        """The submission, in the form that is asked for."""
        return self._form.submission_text(rows, self._classes)

    def predict(self, stages: Sequence[Stage], slide: Slide, sample: Sample, pacer: ImagePacer) -> ImageRow:
        """Predict the objects of an opened slide, cut and encode them."""
        config = object_settings(stages)
        if self._sink is not None:
            self._sink.begin(sample, slide.shape_hw, config.mask_threshold)
        found = predict_objects(stages, slide, sample.pixel_size_um, pacer.run_batch, self._sink)
        detections = cut_detections(found.raw, config)

        def keep(is_final: bool) -> None:
            if self._sink is not None:
                self._sink.finish(detections, is_final)

        area = int(detections.objects.areas.sum())
        return ImageRow(self._text(sample, detections), area, found.rows_done, keep)

    def _text(self, sample: Sample, detections: Detections) -> str:
        if self._competition.task == "instances":
            return cast(ObjectCompetition, self._competition).object_row(sample.id, detections)
        return self._competition.row(covered_pixels(detections.objects))


def _check_boxes(members: Sequence[Member]) -> None:
    """Refuse detectors that have no masks in boxes of others."""
    without = [each for each in members if is_detector(each.architecture) and each.architecture not in BOX_DETECTORS]
    if without:
        rule = "has no masks in boxes that others found, and objects.fusion is boxes"
        remedy = "write objects.fusion = masks or nms"
        raise InputError([Fault(each.file, each.architecture, rule, remedy) for each in without])
