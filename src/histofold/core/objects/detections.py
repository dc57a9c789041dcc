"""Scored objects of one image, as detectors find them and hosts rank them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histofold.core.objects.instances import Objects


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects of one class with a score each.

    Raises:
        ValueError: If there is not one finite score an object.

    Example:
        >>> found = Detections(Objects.from_labels(np.array([[1, 1, 0], [0, 2, 2]])), [0.3, 0.8])
        >>> found.best(1).objects.boxes.tolist()
        [[1, 1, 2, 3]]
    """

    objects: Objects
    """What was found; objects may overlap."""
    scores: np.ndarray
    """Score of each, float64 (M,), finite; kept in the given order."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", checked_scores(self.scores, len(self.objects)))

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.objects)

    def select(self, indices: np.ndarray) -> Detections:
        """Some of them, in the given order.

        Args:
            indices: Whole numbers (n,), or bool (M,).
        """
        chosen = np.arange(len(self))[indices]
        return Detections(self.objects.select(chosen), self.scores[chosen])

    def best(self, count: int) -> Detections:
        """At most `count` of them by descending score, equal ones in the given order.

        Raises:
            ValueError: If `count` is negative.
        """
        if count < 0:
            raise ValueError(f"count={count}: 0 or more detections")
        return self.select(np.argsort(-self.scores, kind="stable")[:count])


def checked_scores(scores_N: np.ndarray, count: int) -> np.ndarray:
    """The scores as float64, once there is a finite one for each of `count` detections.

    Raises:
        ValueError: If there is not one finite score a detection.
    """
    scores_N = np.asarray(scores_N, np.float64)
    if scores_N.shape != (count,) or not np.isfinite(scores_N).all():
        raise ValueError(f"scores of shape {scores_N.shape} for {count} detections: give each one finite score")
    return scores_N
