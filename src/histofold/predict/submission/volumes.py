"""Rows of volumes: a volume is predicted as a whole when the first of its slices is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from histofold.competitions.base import Competition
from histofold.core.faults import image_fault
from histofold.core.rle.runs import Runs
from histofold.imaging.planes import gather_volume, volume_scratch
from histofold.imaging.slide import Slide
from histofold.imaging.volume import list_slices, slice_number
from histofold.predict.image import ImageSink
from histofold.predict.stages import Stage
from histofold.predict.submission.clock import ImagePacer
from histofold.predict.submission.rows import ImageRow, MaskRows
from histofold.predict.volumes import cut_probability, cut_volume, predict_volume
from histofold.schema.manifest import Manifest, look_up_threshold
from histofold.schema.sample import Sample
from histofold.schema.volumes import VolumeConfig


class VolumeRows(MaskRows):
    """Rows of slices from their whole volumes, of which one at a time is held as runs.

    All slices that lie in the folder take part, asked for or not; numbers that are missing between them are taken from
    the slices before and after them where these are there.
    """

    _folder: Path | None = None
    _masks: dict[int, Runs] = {}  # noqa: RUF012 -- replaced, never changed
    _unread: frozenset[int] = frozenset()
    _cut = 0.0  # the probability from which on voxels are mask
    _probs: dict[int, np.ndarray] = {}  # noqa: RUF012 -- of a sink's volume, mapped from a file that is kept for it

    def __init__(self, competition: Competition, manifests: Sequence[Manifest], sink: ImageSink | None = None) -> None:
        super().__init__(competition, manifests, sink)
        self._scratch = ExitStack()

    def predict(self, stages: Sequence[Stage], slide: Slide, sample: Sample, pacer: ImagePacer) -> ImageRow:
        """The row of a slice, once its volume is predicted."""
        folder, number = sample.image_path.parent, slice_number(sample.image_path)
        if folder != self._folder:
            self._predict_volume(stages, sample, pacer)
            self._folder = folder
        place = -1 if number is None else number
        if place in self._unread:
            rule = "neither it nor both of its neighbours can be read"
            raise image_fault(sample.image_path, rule, "download the volume again")
        runs = self._masks[place]
        if self._sink is not None:
            self._sink.begin(sample, slide.shape_hw, self._cut)
            self._sink.add(0, self._probs[place][None].astype(np.float32))

        def keep(is_final: bool) -> None:
            if self._sink is not None:
                self._sink.finish(runs, is_final)

        return ImageRow(self._competition.row(runs), runs.area, None, keep)

    def _predict_volume(self, stages: Sequence[Stage], sample: Sample, pacer: ImagePacer) -> None:
        """Find the masks, and for a sink the probabilities, of all slices of a sample's volume by their number."""
        path = sample.image_path
        found = list_slices(path.parent)
        numbers = list(range(min(found), max(found) + 1))
        slices = [
            replace(sample, image_path=found.get(number, path.with_stem(f"{number:0{len(path.stem)}d}")))
            for number in numbers
        ]
        settings = self._manifest.volume or VolumeConfig()
        threshold = look_up_threshold(self._thresholds, sample.organ, sample.source)
        self._scratch.close()  # of the volume before
        scratch = self._scratch.enter_context(volume_scratch())
        volume = gather_volume(slices, scratch)
        map_DHW = predict_volume(stages, volume, settings.axes, scratch, pacer.forward, pacer.allows)
        self._unread = frozenset(numbers[place] for place in volume.unread)
        self._masks = dict(zip(numbers, cut_volume(map_DHW, threshold, self._manifest), strict=True))
        if self._sink is None:
            self._scratch.close()
        else:
            self._cut = cut_probability(map_DHW, threshold, self._manifest)
            self._probs = dict(zip(numbers, map_DHW, strict=True))
