"""What is kept of each held-out slide beside its Dice: pixels and objects at every threshold, and small maps."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from histofold.core.metrics.errors import gravest_cases, object_errors
from histofold.core.objects.instances import Objects
from histofold.core.objects.morphology import mask_components
from histofold.core.rle.runs import Masks, Runs, class_runs
from histofold.core.rle.sets import pixels_within, without_runs
from histofold.data.thumbnails import fitting_shape, small_owners
from histofold.trust.thresholds import THRESHOLD_GRID

PROBABILITY_CUTS = (*THRESHOLD_GRID, 0.85, 0.9, 0.95)
"""Where probabilities are parted into bins, to hold them against the truth."""
MAP_SIDE = 640
"""Longer side of the maps in pixels, at most."""
COUNTED_ERRORS = ("missed", "hallucinated", "split", "merged")
"""Errors of connected pieces of masks, whose areas say little that Dice does not."""


@dataclass(frozen=True, kw_only=True)
class ScoredClass:
    """One class of a slide: pixels that do not count are left out everywhere."""

    truth_px: int
    """Pixels of its truth."""
    predicted_px: tuple[int, ...]
    """Pixels of its mask at each threshold of `THRESHOLD_GRID`."""
    hit_px: tuple[int, ...]
    """Of these, pixels of the truth."""
    raw_px: tuple[int, ...]
    """Pixels of at least each probability of `PROBABILITY_CUTS`, before masks are cleaned; none where not known."""
    raw_hit_px: tuple[int, ...]
    """Of these, pixels of the truth."""
    objects: tuple[dict[str, int], ...]
    """At each threshold of `THRESHOLD_GRID`, with connected pieces as objects: how many are `true` and `found`, how
    many are `matches`, how many errors there are of each of `COUNTED_ERRORS`, and as `missed_px` and so on the area of
    the gravest one; nothing where pieces are no objects."""
    masks: str
    """A picture of uint16 as `encode_map` makes it, whose bit n is the mask at threshold n; empty where cleaning masks
    changes nothing that it would show, so that `probabilities` say it all."""
    probabilities: str
    """A picture of uint8: how many of `PROBABILITY_CUTS` a pixel reaches; empty where they are not known."""

    def dice(self, place: int) -> float:
        """Dice at the threshold of a place in `THRESHOLD_GRID`; both empty counts as 1."""
        total = self.predicted_px[place] + self.truth_px
        return 2 * self.hit_px[place] / total if total else 1.0

    def small_mask(self, threshold: float) -> np.ndarray:
        """The mask at a threshold of the grid, bool (h, w)."""
        place = THRESHOLD_GRID.index(threshold)
        if not self.masks:
            return self.small_probabilities() > place  # the grid is the first of the cuts
        return np.asarray(decode_map(self.masks) >> place & 1 > 0)

    def small_probabilities(self) -> np.ndarray:
        """How many of `PROBABILITY_CUTS` each pixel reaches, uint8 (h, w)."""
        return decode_map(self.probabilities)


@dataclass(frozen=True, kw_only=True)
class ScoredSlide:
    """A held-out slide."""

    shape_hw: tuple[int, int]
    """Height and width in pixels."""
    counted_px: int
    """Pixels that count."""
    seconds: float
    """Time that reading and predicting it took."""
    classes: tuple[ScoredClass, ...]
    """Its classes."""

    @property
    def scores(self) -> list[list[float]]:
        """Dice of each class at each threshold of the grid, (K, T)."""
        return [[each.dice(place) for place in range(len(THRESHOLD_GRID))] for each in self.classes]


def scored_slide(
    raw: Sequence[Masks],
    cleaned: Sequence[Masks],
    target: Masks,
    ignored: Runs | None = None,
    *,
    seconds: float,
    pieces: bool = True,
) -> ScoredSlide:
    """Hold the masks of a slide against its truth.

    Args:
        raw: At each of `PROBABILITY_CUTS`, before cleaning; none where they are not known.
        cleaned: At each of `THRESHOLD_GRID`, as they are submitted.
        target: The truth.
        ignored: Pixels that do not count.
        seconds: Time that the masks took.
        pieces: Whether connected pieces are objects; those of a slice of a volume are not.
    """
    truths = class_runs(target)
    shape_hw = truths[0].shape_hw
    raw_KT, cleaned_KT = (
        [[class_runs(without_runs(masks, ignored))[place] for masks in each] for place in range(len(truths))]
        for each in (raw, cleaned)
    )
    return ScoredSlide(
        shape_hw=shape_hw,
        counted_px=shape_hw[0] * shape_hw[1] - (ignored.area if ignored is not None else 0),
        seconds=round(seconds, 3),
        classes=tuple(_scored_class(*each, pieces) for each in zip(raw_KT, cleaned_KT, truths, strict=True)),
    )


def _scored_class(raw: Sequence[Runs], cleaned: Sequence[Runs], truth: Runs, pieces: bool) -> ScoredClass:
    small_hw = fitting_shape(truth.shape_hw, MAP_SIDE)
    true_objects = mask_components(truth)
    bits_HW = np.zeros(small_hw, np.uint16)
    for place, runs in enumerate(cleaned):
        bits_HW |= (small_owners(Objects.from_runs([runs], runs.shape_hw), small_hw) >= 0).astype(np.uint16) << place
    levels_HW = small_owners(Objects.from_runs(raw, truth.shape_hw), small_hw) + 1
    uncleaned_HW = (1 << np.minimum(levels_HW, len(cleaned))) - 1
    return ScoredClass(
        truth_px=truth.area,
        predicted_px=tuple(runs.area for runs in cleaned),
        hit_px=tuple(int(pixels_within(runs, truth).sum()) for runs in cleaned),
        raw_px=tuple(runs.area for runs in raw),
        raw_hit_px=tuple(int(pixels_within(runs, truth).sum()) for runs in raw),
        objects=tuple(piece_counts(mask_components(runs), true_objects) for runs in cleaned) if pieces else (),
        masks="" if raw and (bits_HW == uncleaned_HW).all() else encode_map(bits_HW),
        probabilities=encode_map(levels_HW.astype(np.uint8)) if raw else "",
    )


def piece_counts(found: Objects, true: Objects) -> dict[str, int]:
    """Objects, matches and errors of one image, and the areas of the gravest errors; see `ScoredClass.objects`."""
    errors = object_errors(found, true)
    counts = {"true": len(true), "found": len(found), "matches": len(errors.matches)}
    for name in COUNTED_ERRORS:
        cases = gravest_cases(errors, true, found, name)
        counts |= {name: len(cases), f"{name}_px": int(cases[0].size) if cases else 0}
    return counts


def encode_map(map_HW: np.ndarray) -> str:
    """A map of uint8 or uint16 as the base64 of a PNG file, some tens of kilobytes."""
    return base64.b64encode(cv2.imencode(".png", map_HW, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()).decode()


def decode_map(text: str) -> np.ndarray:
    """What `encode_map` was given."""
    map_HW = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_UNCHANGED)
    if map_HW is None:
        raise ValueError("a map of the journal is no PNG file: remove oof_scores.jsonl, and evaluate the run anew")
    return map_HW
