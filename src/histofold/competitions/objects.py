"""What adapters of single objects share: truth as a union of objects, and scores of detections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from histofold.competitions.base import Adapter, ObjectScore, Task
from histofold.competitions.surroundings import PlacedTruth, truth_in_surroundings
from histofold.core.faults import InputError
from histofold.core.metrics.ranked import ApRule
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import Masks, Runs
from histofold.core.rle.sets import subtract_runs, union_runs
from histofold.schema.sample import Sample

TruthReader = Callable[[Sample], tuple[Objects, Objects]]
"""Gives the objects of a training sample, and the unsure ones."""
PooledMetric = Callable[..., float]
"""A score of images' detections (objects, scores_M), of their true objects, and perhaps of `ignored` ones; NaN where no
image has an object."""


class ObjectAdapter(Adapter):
    """An adapter of single objects; as one of masks its truth is the union of them."""

    task: Task = "instances"
    metric = "AP"

    @property
    def ap_rule(self) -> ApRule:
        """By which rule the host's score counts."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        # A function, since no kernel shall carry what reads outlines and masks, as it would a method of a common name.
        self._read_truth: TruthReader | None = None
        self._known: dict[str, tuple[Objects, Objects]] = {}

    def _use_truth(self, read: TruthReader) -> None:
        """Read the truth of samples by another function from here on."""
        self._read_truth, self._known = read, {}

    def _known_truth(self, sample: Sample) -> tuple[Objects, Objects]:
        """The objects of a training sample, and those that people were unsure of; read once.

        Raises:
            InputError: With all faults of what says so; without any where nothing does.
        """
        if self._read_truth is None:
            raise InputError(f"{sample.id}: no objects are known: check the dataset first")
        if sample.id not in self._known:
            self._known[sample.id] = self._read_truth(sample)
        return self._known[sample.id]

    def objects(self, sample: Sample) -> Objects:
        """The true objects of a training sample; `samples` must have been called. Raises as `_known_truth`."""
        return self._known_truth(sample)[0]

    def unsure(self, sample: Sample) -> Objects:
        """Objects of a training sample that neither training nor a score counts; raises as `objects`."""
        return self._known_truth(sample)[1]

    def in_surroundings(self, sample: Sample, context_px: int) -> tuple[Objects, Runs]:
        """The truth of a training sample and of so many pixels around it: objects, and pixels that do not count.

        Raises:
            InputError: As `objects`.
        """
        own = PlacedTruth(0, 0, *self._known_truth(sample))
        return truth_in_surroundings([own, *self._labelled_neighbours(sample)], context_px)

    def _labelled_neighbours(self, sample: Sample) -> list[PlacedTruth]:
        """The truth of labelled tiles around a sample: there are none."""
        return []

    def target(self, sample: Sample) -> Masks:
        """The pixels of all objects of a training sample; raises as `objects`."""
        return covered_pixels(self.objects(sample))

    def ignored(self, sample: Sample) -> Runs | None:
        """The pixels of unsure objects alone; None where there are none."""
        unsure = self.unsure(sample)
        left = subtract_runs(covered_pixels(unsure), covered_pixels(self.objects(sample))) if len(unsure) else None
        return left if left is not None and left.area else None


def pooled_scores(
    competition: ObjectAdapter,
    predictions: Mapping[str, Detections],
    samples: Sequence[Sample],
    metrics: Mapping[str, PooledMetric],
) -> ObjectScore:
    """Scores of training samples; one without a prediction counts as without a detection.

    That of a single image is 1 where there is nothing to find and nothing was found, and 0 where there is nothing to
    find and something was found.

    Args:
        competition: What knows the true and the unsure objects.
        predictions: Detections by id.
        samples: What is scored.
        metrics: The metrics by name, the host's first.
    """
    truths, unsure = ([of(sample) for sample in samples] for of in (competition.objects, competition.unsure))
    found = [
        (predictions[sample.id].objects, predictions[sample.id].scores)
        if sample.id in predictions
        else (Objects.from_runs([], true.shape_hw), np.zeros(0))
        for sample, true in zip(samples, truths, strict=True)
    ]
    host, *further = metrics

    def value(name: str, images: slice) -> float:
        ignored = {"ignored": unsure[images]} if any(map(len, unsure[images])) else {}
        return metrics[name](found[images], truths[images], **ignored)

    by_id = {
        sample.id: value(host, slice(place, place + 1)) if len(truths[place]) else float(not len(found[place][0]))
        for place, sample in enumerate(samples)
    }
    every = slice(None)
    return ObjectScore(value(host, every), by_id, {name: value(name, every) for name in further})


def covered_pixels(objects: Objects) -> Runs:
    """The pixels of any of the objects."""
    nothing = Runs(np.zeros(0, np.int64), np.zeros(0, np.int64), objects.shape_hw)
    return union_runs([nothing, *objects])
