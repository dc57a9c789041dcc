"""Objects as another frame sees them: a tile's within its surroundings, or the part of them in a window."""

from __future__ import annotations

import numpy as np

from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects


def framed_objects(objects: Objects, origin_yx: tuple[int, int], shape_hw: tuple[int, int]) -> Objects:
    """The objects in a frame of their image, as many as before: what lies beyond it is cut off.

    Args:
        objects: Objects of an image.
        origin_yx: Row and column of the image where the frame begins; negative where it begins before the image.
        shape_hw: Height and width of the frame in pixels.

    Example:
        >>> objects = Objects.from_labels(np.array([[1, 1, 0], [0, 2, 2]]))
        >>> framed_objects(objects, (-1, 1), (3, 3)).boxes.tolist()
        [[1, 0, 2, 1], [2, 0, 3, 2]]
    """
    columns, rows = np.divmod(objects.starts, objects.shape_hw[0])
    columns, rows = columns - origin_yx[1], rows - origin_yx[0]
    tops, bottoms = np.maximum(rows, 0), np.minimum(rows + objects.lengths, shape_hw[0])
    seen = (bottoms > tops) & (columns >= 0) & (columns < shape_hw[1])
    counts = np.concatenate([[0], np.cumsum(seen)])
    starts = columns[seen] * shape_hw[0] + tops[seen]
    return Objects(starts, (bottoms - tops)[seen], counts[objects.offsets], (int(shape_hw[0]), int(shape_hw[1])))


def framed_detections(found: Detections, origin_yx: tuple[int, int], shape_hw: tuple[int, int]) -> Detections:
    """The detections that have a pixel in a frame of their image, as `framed_objects` cuts them."""
    framed = Detections(framed_objects(found.objects, origin_yx, shape_hw), found.scores)
    return framed.select(framed.objects.areas > 0)
