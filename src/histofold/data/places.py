"""Images that were cut from one slide: which of them a fold must not train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from histofold.data.folds import ALWAYS_TRAINED
from histofold.schema.sample import Sample


def trained_ids(folds: pd.DataFrame, samples: Mapping[str, Sample], fold: int) -> list[str]:
    """The images that a fold trains on, in the order of folds.csv.

    Left out are those that it holds out; those that lie on a slide beside a held-out one, or touch it at a corner, for
    they show its rim, and objects that both have a part of; and of those that are always trained on without being
    scored any that share its group.

    Args:
        folds: Columns id, group and fold (int) of folds.csv.
        samples: The images by id.
        fold: The fold.
    """
    held_out = folds["fold"] == fold
    held, others = folds.loc[held_out, "id"].tolist(), folds.loc[~held_out]
    left_out = touching_ids([samples[key] for key in held if key in samples], list(samples.values()))
    groups = set(folds.loc[held_out, "group"]) - {""}
    kin = others[others["group"].isin(groups) & (others["fold"] == ALWAYS_TRAINED)]
    left_out |= {key for key in kin["id"] if key in samples and not samples[key].is_scored}
    return [key for key in others["id"] if key not in left_out]


def touching_ids(held: Sequence[Sample], samples: Sequence[Sample]) -> set[str]:
    """The samples that share a pixel, a side or a corner with one that is held out, on the same slide.

    Samples whose place or size is not known touch none.
    """
    boxes_M4, slides = _boxes(held)
    found = set()
    for sample in samples:
        own_14, own_slide = _boxes([sample])
        if len(own_14):
            near = (boxes_M4[:, :2] <= own_14[0, 2:]) & (own_14[0, :2] <= boxes_M4[:, 2:])
            if (near.all(axis=1) & (slides == own_slide[0])).any():
                found.add(sample.id)
    return found


def _boxes(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (y, x, bottom, right) in their slides, int64 (M, 4), of the samples that have one, and these slides."""
    placed = [(each.place, each.shape_hw) for each in samples if each.place is not None and each.shape_hw is not None]
    boxes = [(y, x, y + height, x + width) for (_, y, x), (height, width) in placed]
    return np.array(boxes, np.int64).reshape(-1, 4), np.array([slide for (slide, _, _), _ in placed], dtype=str)
