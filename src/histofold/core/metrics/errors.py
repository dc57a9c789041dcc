"""What is wrong with predicted objects, one by one: for counts, and for pictures of each kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from histofold.core.metrics.instances import LabelsOrMasks, matched_pairs, sized_objects
from histofold.core.objects.instances import Objects
from histofold.core.objects.overlaps import overlapping_pairs, pair_ious
from histofold.core.rle.sets import union_runs

MATCH_IOU = 0.5
THIN, FAT = 0.7, 1.4  # area of a matched prediction by its truth's
ERROR_KINDS = {
    "missed": "missed",
    "hallucinated": "hallucinated",
    "split": "split",
    "merged": "merged",
    "too_thin": "too thin",
    "too_fat": "too fat",
}
"""Fields of `ObjectErrors` and their words."""


@dataclass(frozen=True, eq=False)
class ObjectErrors:
    """Errors of one image as indices into its true and its predicted objects.

    Every object without a match is explained: a true one is missed, split or swallowed by a merged one; a predicted
    one is hallucinated, merged or a part of a split one. Matched objects may be split, merged, too thin or too fat.
    """

    matches: np.ndarray
    """(true, predicted) of each match, int64 (P, 2), by ascending true index."""
    missed: np.ndarray
    """True objects that nothing explains, int64, ascending."""
    hallucinated: np.ndarray
    """Predicted objects that nothing explains, int64, ascending."""
    split: dict[int, tuple[int, ...]]
    """For each split true object the predicted ones that lie in it."""
    merged: dict[int, tuple[int, ...]]
    """For each merged predicted object the true ones that it covers."""
    too_thin: np.ndarray
    """(true, predicted) of the matches whose prediction is below 0.7 of its truth's area, int64 (P, 2)."""
    too_fat: np.ndarray
    """(true, predicted) of those above 1.4 of it, int64 (P, 2)."""

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each kind, by the fields' names."""
        return {name: len(getattr(self, name)) for name in self.__dataclass_fields__}


def object_errors(predicted: LabelsOrMasks, true: LabelsOrMasks) -> ObjectErrors:
    """Errors of the predicted objects of one image.

    - A match is a pair of IoU 0.5 or more; pairs are taken by descending IoU (of equal ones the first true, then the
      first predicted object), each object once.
    - A true object is split if two or more predicted ones lie by at least half of their pixels in it and together
      cover at least half of it. Two answers to one object count as such.
    - A predicted object is merged if it covers at least half of each of two or more true ones.
    - A true object is missed if it has no match, is not split, and no merged one covers at least half of it.
    - A predicted object is hallucinated if it has no match, is not merged, and is no part of a split one.

    Args:
        predicted: Label image (H, W), list of masks, or `Objects`; those without a pixel count as none.
        true: Likewise, of the same size.

    Raises:
        ValueError: If one is neither, or the sizes differ.

    Example:
        >>> object_errors(np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 1]])).split
        {0: (0, 1)}
    """
    found, truth = sized_objects(predicted, true)
    pairs = overlapping_pairs(truth, found)
    ious = pair_ious(truth, found, pairs)
    matched = np.sort(matched_pairs(pairs, ious, ious >= MATCH_IOU))  # pairs ascend by true index
    matches = np.column_stack([pairs.first[matched], pairs.second[matched]])
    inside = 2 * pairs.shared >= found.areas[pairs.second]
    covered = 2 * pairs.shared >= truth.areas[pairs.first]
    split = {
        index: parts
        for index, parts in _several(pairs.first[inside], pairs.second[inside]).items()
        if _half_covered(truth, index, found, parts)
    }
    merged = _several(pairs.second[covered], pairs.first[covered])
    shares = found.areas[matches[:, 1]] / truth.areas[matches[:, 0]]
    return ObjectErrors(
        matches=matches,
        missed=_unexplained(truth, matches[:, 0], split, merged),
        hallucinated=_unexplained(found, matches[:, 1], merged, split),
        split=split,
        merged=merged,
        too_thin=matches[shares < THIN],
        too_fat=matches[shares > FAT],
    )


def _several(wholes: np.ndarray, parts: np.ndarray) -> dict[int, tuple[int, ...]]:
    """The parts of each whole that has two or more, both ascending."""
    parts_of: dict[int, list[int]] = {}
    for whole, part in sorted(zip(wholes.tolist(), parts.tolist(), strict=True)):
        parts_of.setdefault(whole, []).append(part)
    return {whole: tuple(indices) for whole, indices in parts_of.items() if len(indices) > 1}


def _half_covered(truth: Objects, index: int, found: Objects, parts: tuple[int, ...]) -> bool:
    """Whether predicted objects together cover at least half of a true one."""
    union = Objects.from_runs([union_runs([found[part] for part in parts])], found.shape_hw)
    shared = overlapping_pairs(truth.select(np.array([index])), union).shared
    return bool(2 * shared.sum() >= truth.areas[index])


def _unexplained(
    objects: Objects, matched: np.ndarray, own: dict[int, tuple[int, ...]], others: dict[int, tuple[int, ...]]
) -> np.ndarray:
    """Objects with pixels that have no match, no such error of their own, and no part in one of the other side."""
    explained = {*matched.tolist(), *own, *(part for parts in others.values() for part in parts)}
    return np.array([index for index in np.flatnonzero(objects.areas).tolist() if index not in explained], np.int64)


class ErrorCase(NamedTuple):
    """One error of one image."""

    size: float
    """How grave it is among those of its kind."""
    true: tuple[int, ...]
    """True objects concerned."""
    found: tuple[int, ...]
    """Found objects concerned."""


def gravest_cases(errors: ObjectErrors, truth: Objects, found: Objects, name: str) -> list[ErrorCase]:
    """The errors of a kind in one image, the gravest first: the largest objects, of thin and fat ones the odd shares.

    Args:
        errors: Of the image.
        truth: Its true objects.
        found: Its predicted objects.
        name: A field of `ObjectErrors` that is an error.
    """
    cases: list[ErrorCase] = []
    if name == "missed":
        cases = [ErrorCase(truth.areas[index], (index,), ()) for index in errors.missed.tolist()]
    elif name == "hallucinated":
        cases = [ErrorCase(found.areas[index], (), (index,)) for index in errors.hallucinated.tolist()]
    elif name == "split":
        cases = [ErrorCase(truth.areas[whole], (whole,), parts) for whole, parts in errors.split.items()]
    elif name == "merged":
        cases = [ErrorCase(found.areas[whole], parts, (whole,)) for whole, parts in errors.merged.items()]
    else:
        for true, predicted in getattr(errors, name).tolist():
            size = abs(float(np.log(found.areas[predicted] / truth.areas[true])))
            cases.append(ErrorCase(size, (true,), (predicted,)))
    return sorted(cases, key=lambda case: -case.size)
