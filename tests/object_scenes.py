"""Small scenes of objects for tests, and what overlap means by sets of pixels."""

from __future__ import annotations

import numpy as np


def random_labels(rng: np.random.Generator, shape_hw: tuple[int, int]) -> np.ndarray:
    """A label image of boxes that cover each other, with gaps in its labels; sometimes without any."""
    labels_HW = np.zeros(shape_hw, int)
    for label in rng.permutation(12)[: rng.integers(0, 7)] + 1:
        y, x = rng.integers(0, shape_hw[0]), rng.integers(0, shape_hw[1])
        labels_HW[y : y + rng.integers(1, 6), x : x + rng.integers(1, 7)] = label
    return labels_HW


def moved(rng: np.random.Generator, labels_HW: np.ndarray) -> np.ndarray:
    """Another answer to the same scene: shifted, eaten away, renamed, with objects split, merged, lost and made up."""
    answer_HW = np.roll(labels_HW, rng.integers(-1, 2, 2), (0, 1)) * (
        rng.random(labels_HW.shape) > rng.choice([0, 0.2])
    )
    renamed = np.concatenate([[0], rng.integers(0, 14, 12)])
    extra_HW = random_labels(rng, labels_HW.shape)
    return np.where((extra_HW > 0) & (rng.random() < 0.5), extra_HW, renamed[answer_HW])


def random_masks(rng: np.random.Generator, shape_hw: tuple[int, int], most: int = 7) -> list[np.ndarray]:
    """Masks that may overlap, touch the corners, come twice, or hold nothing."""
    masks = []
    for _ in range(rng.integers(0, most)):
        mask_HW = np.zeros(shape_hw, bool)
        y, x = rng.integers(-2, shape_hw[0]), rng.integers(-2, shape_hw[1])
        mask_HW[max(y, 0) : y + rng.integers(1, 7), max(x, 0) : x + rng.integers(1, 8)] = True
        masks += [mask_HW & (rng.random(shape_hw) > rng.choice([0, 0.3]))] * rng.choice([1, 1, 1, 2])
    return masks


def pixel_sets(instances: np.ndarray | list[np.ndarray]) -> list[frozenset[int]]:
    """Each object's pixels, by ascending label or in the given order."""
    if isinstance(instances, np.ndarray):
        instances = [instances == label for label in sorted(set(instances.ravel().tolist()) - {0})]
    return [frozenset(np.flatnonzero(mask_HW).tolist()) for mask_HW in instances]


def set_iou(one: frozenset[int], other: frozenset[int]) -> float:
    """IoU of two objects; 0 if both hold nothing."""
    return len(one & other) / len(one | other) if one | other else 0.0
