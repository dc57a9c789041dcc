"""The instances of one image in three flat arrays: a few kilobytes an object where a mask each would be a megabyte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from histofold.core.rle.paint import split_lines
from histofold.core.rle.runs import Runs, mask_bounds, runs_from_bounds


@dataclass(frozen=True, eq=False)
class Objects:
    """Objects of one image, which may overlap; made by `from_masks`, `from_labels` or `from_runs`.

    Runs count down the columns (order "F", as COCO and most hosts do) and end where a column ends.

    Example:
        >>> objects = Objects.from_labels(np.array([[1, 1, 0], [0, 2, 2]]))
        >>> len(objects), objects.areas.tolist(), objects.boxes.tolist()
        (2, [2, 2], [[0, 0, 1, 2], [1, 1, 2, 3]])
    """

    starts: np.ndarray
    """First pixel of each run, 0-based, int64; ascending within an object."""
    lengths: np.ndarray
    """Pixels of each run, int64."""
    offsets: np.ndarray
    """Object n has the runs offsets[n] to offsets[n + 1], int64 (N + 1,); an object may have none."""
    shape_hw: tuple[int, int]
    """Height and width of the image in pixels."""

    @classmethod
    def from_runs(cls, parts: Sequence[Runs], shape_hw: tuple[int, int]) -> Objects:
        """One object a mask.

        Args:
            parts: Masks in order "F", all of the image's size; may be none.
            shape_hw: Height and width of the image in pixels.

        Raises:
            ValueError: If a mask has another size or order.
        """
        for index, runs in enumerate(parts):
            if (runs.shape_hw, runs.order) != (tuple(shape_hw), "F"):
                raise ValueError(
                    f'object {index}: runs of {runs.shape_hw} pixels in order "{runs.order}" in an image of '
                    f'{tuple(shape_hw)}: encode all at the image\'s size, in order "F"'
                )
        nothing = np.zeros(0, np.int64)
        pieces = [split_lines(runs.starts, runs.lengths, runs.line_length) for runs in parts]
        return cls(
            np.concatenate([nothing, *(starts for starts, _ in pieces)]),
            np.concatenate([nothing, *(lengths for _, lengths in pieces)]),
            np.cumsum([0, *(len(starts) for starts, _ in pieces)]),
            (int(shape_hw[0]), int(shape_hw[1])),
        )

    @classmethod
    def from_masks(cls, masks: np.ndarray | Sequence[np.ndarray], shape_hw: tuple[int, int] | None = None) -> Objects:
        """One object a mask, in the given order.

        Args:
            masks: masks_NHW or a list of masks (H, W) of any dtype, non-zero = mask.
            shape_hw: Height and width of the image, needed where there may be no mask; (1, 1) is taken without it.

        Raises:
            ValueError: If a mask is not (H, W) or not of the size of the others.
        """
        arrays = [np.asarray(mask) for mask in masks]
        frame = shape_hw or (arrays[0].shape if arrays else (1, 1))
        for index, mask_HW in enumerate(arrays):
            if mask_HW.ndim != 2 or mask_HW.shape != tuple(frame):
                raise ValueError(
                    f"mask {index} is {mask_HW.shape} in an image of {tuple(frame)} pixels (H, W): give one mask "
                    "(H, W) an object, all of the image's size"
                )
        height, width = frame
        parts = [runs_from_bounds(mask_bounds(mask_HW != 0, "F"), (height, width), "F") for mask_HW in arrays]
        return cls.from_runs(parts, (height, width))

    @classmethod
    def from_labels(cls, labels_HW: np.ndarray) -> Objects:
        """One object a label, by ascending label.

        Args:
            labels_HW: Whole numbers (H, W), 0 = background; labels may leave gaps, and need not be connected.

        Raises:
            ValueError: If it is no label image.
        """
        labels_HW = np.asarray(labels_HW)
        if labels_HW.ndim != 2 or labels_HW.size == 0 or labels_HW.dtype.kind not in "iu" or labels_HW.min() < 0:
            raise ValueError(
                f"label image of {labels_HW.dtype}{labels_HW.shape}: needs whole numbers (H, W), 0 or more; "
                "give a single mask as [mask]"
            )
        height, width = labels_HW.shape
        changed = np.ones((width, height), bool)  # the first pixel of a column begins a run
        np.not_equal(labels_HW.T[:, 1:], labels_HW.T[:, :-1], out=changed[:, 1:])
        starts = np.flatnonzero(changed)
        values = labels_HW.T[starts // height, starts % height]
        lengths = np.diff(starts, append=labels_HW.size)
        order = np.argsort(values, kind="stable")
        order = order[np.count_nonzero(values == 0) :]
        firsts = np.flatnonzero(np.diff(values[order], prepend=0))
        return cls(starts[order], lengths[order], np.append(firsts, len(order)), (height, width))

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Runs:
        """One object as a mask of runs."""
        span = slice(self.offsets[range(len(self))[index]], self.offsets[range(len(self))[index] + 1])
        return Runs(self.starts[span], self.lengths[span], self.shape_hw)

    def __iter__(self) -> Iterator[Runs]:
        """The objects as masks of runs."""
        return (self[index] for index in range(len(self)))

    def select(self, indices: np.ndarray) -> Objects:
        """Some of the objects, in the given order.

        Args:
            indices: Whole numbers (n,), or bool (N,).
        """
        chosen = np.arange(len(self))[indices]
        counts = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        runs = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], counts)
        return Objects(self.starts[runs], self.lengths[runs], offsets, self.shape_hw)

    @cached_property
    def areas(self) -> np.ndarray:
        """Pixels of each object, int64 (N,)."""
        return np.diff(np.concatenate([[0], np.cumsum(self.lengths)])[self.offsets])

    @cached_property
    def boxes(self) -> np.ndarray:
        """Box of each object as (y, x, bottom, right), int64 (N, 4), ends excluded; zeros for one without a pixel."""
        boxes_N4 = np.zeros((len(self), 4), np.int64)
        filled = np.flatnonzero(np.diff(self.offsets))
        if len(filled):
            columns, rows = np.divmod(self.starts, self.shape_hw[0])
            firsts = self.offsets[filled]
            boxes_N4[filled, 0] = np.minimum.reduceat(rows, firsts)
            boxes_N4[filled, 1] = columns[firsts]
            boxes_N4[filled, 2] = np.maximum.reduceat(rows + self.lengths, firsts)
            boxes_N4[filled, 3] = columns[self.offsets[filled + 1] - 1] + 1
        return boxes_N4


def as_objects(instances: Objects | np.ndarray | Sequence[np.ndarray]) -> Objects:
    """Objects from what people hold: objects, a label image (H, W), masks_NHW or a list of masks.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(instances, Objects):
        return instances
    if isinstance(instances, np.ndarray) and instances.ndim == 2:
        return Objects.from_labels(instances)
    return Objects.from_masks(instances)


def join_objects(parts: Sequence[Objects], shape_hw: tuple[int, int] | None = None) -> Objects:
    """The objects of several lists as one, in order.

    Args:
        parts: Objects of one image; lists without an object may be of any size.
        shape_hw: Height and width of the image; needed where there may be no object.

    Raises:
        ValueError: If they are of images of different sizes.
    """
    filled = [part for part in parts if len(part)]
    frames = {part.shape_hw for part in filled} | ({shape_hw} if shape_hw else set())
    if len(frames) > 1:
        raise ValueError(f"objects of images of {sorted(frames)} px (H, W): bring all to one size")
    frame = frames.pop() if frames else parts[0].shape_hw if parts else (1, 1)
    nothing = np.zeros(0, np.int64)
    return Objects(
        np.concatenate([nothing, *(part.starts for part in filled)]),
        np.concatenate([nothing, *(part.lengths for part in filled)]),
        np.cumsum(np.concatenate([[0], *(np.diff(part.offsets) for part in filled)])).astype(np.int64),
        frame,
    )


class ColumnRuns(NamedTuple):
    """Runs of several objects by their places, in any order; they may overlap."""

    object: np.ndarray
    """Index of the object, int64 (P,)."""
    column: np.ndarray
    """Column of the run, int64 (P,)."""
    row: np.ndarray
    """First row, int64 (P,)."""
    length: np.ndarray
    """Pixels, int64 (P,); row + length is at most the image's height."""


def unite_runs(runs: ColumnRuns, count: int, shape_hw: tuple[int, int]) -> Objects:
    """`count` objects, each the pixels of any of its runs."""
    height, width = shape_hw
    # All objects at once, each in an image of its own, and a pixel free below each column: runs end where columns end.
    keys = (runs.object * width + runs.column) * (height + 1) + runs.row
    order = keys.argsort(kind="stable")
    keys, reached = keys[order], np.maximum.accumulate((keys + runs.length)[order])
    begins = np.flatnonzero(keys > np.concatenate([[-1], reached[:-1]])[: len(keys)])
    lengths = reached[np.append(begins[1:], len(keys))[: len(begins)] - 1] - keys[begins]
    lines, rows = np.divmod(keys[begins], height + 1)
    owners, columns = np.divmod(lines, width)
    return Objects(columns * height + rows, lengths, owners.searchsorted(np.arange(count + 1)), (height, width))
