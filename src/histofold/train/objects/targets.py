"""What networks of objects learn, from the labels of an augmented tile; a loader's worker makes it of each example.

The pieces of an object that are apart in an example (cut by its border, by an object on top, by CutMix, or mirrored at
the border of the tile) are objects of their own: so nobody learns a box around two things.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import default_collate

from histofold.core.objects.instances import Objects
from histofold.data.tiles.labels import IGNORED_LABEL, structure_pixels, touching_pixels
from histofold.data.tiles.masks import IGNORED_BIT

LEAST_PX = 8
"""Pixels of a piece below which it is too little to be learned: to a detector it is background."""
BOUNDARY_PX = 2
"""Width of the boundary that a dense network learns, in pixels of an object from where another one or the ground is."""
BOUNDARY_BIT = 2
"""Of a dense network's mask: bit 0 is the foreground, bit 1 the boundary."""
DISTANCE_ONE = 255
"""What 1 is in a stored distance."""


class Piece(NamedTuple):
    """A connected piece of an object."""

    y: slice
    """Rows of its box."""
    x: slice
    """Columns of it."""
    mask_hw: np.ndarray
    """Its pixels within the box, bool."""


def object_pieces(labels_HW: np.ndarray) -> Iterator[Piece]:
    """The connected pieces (8 neighbours) of the objects of a tile, by label.

    Args:
        labels_HW: Labels, uint16.
    """
    structures_HW = np.where(structure_pixels(labels_HW), labels_HW, np.uint16(0))
    objects = Objects.from_labels(structures_HW)
    columns, rows = np.divmod(objects.starts[objects.offsets[:-1]], len(labels_HW))
    labels_M = structures_HW[rows, columns]
    for label, (top, left, bottom, right) in zip(labels_M, objects.boxes.tolist(), strict=True):
        own_hw = (structures_HW[top:bottom, left:right] == label).view(np.uint8)
        count, parts_hw, stats, _ = cv2.connectedComponentsWithStats(own_hw, connectivity=8)
        for part in range(1, count):
            x, y, width, height = stats[part, :4].tolist()
            mask_hw = parts_hw[y : y + height, x : x + width] == part
            yield Piece(slice(top + y, top + y + height), slice(left + x, left + x + width), mask_hw)


def mask_example(image_HWC: np.ndarray, bits_HW: np.ndarray) -> dict[str, Any]:
    """The example of a network of masks: `image` uint8 HWC, `mask` uint8 HW, bit k for class k and `IGNORED_BIT`."""
    return {"image": torch.from_numpy(image_HWC), "mask": torch.from_numpy(bits_HW)}


def detector_example(image_HWC: np.ndarray, labels_HW: np.ndarray) -> dict[str, Any]:
    """The example of a detector; masks of the objects are made of it on the device, see `detector_targets`.

    What is ignored is painted over with the mean colour: a detector knows no pixels that do not count, and so sees
    there neither objects nor the lack of them.

    Returns:
        `image` uint8 HWC; `labels` int32 HW, the pieces numbered from 1 on, 0 elsewhere; `boxes` float32 (M, 4), first
        column, first row, and the column and row after the last of each piece.
    """
    ignored_HW = labels_HW == IGNORED_LABEL
    if ignored_HW.any():
        image_HWC = image_HWC.copy()
        image_HWC[ignored_HW] = image_HWC.mean(axis=(0, 1)).round().astype(np.uint8)
    pieces_HW, boxes = np.zeros(labels_HW.shape, np.int32), []
    for y, x, mask_hw in object_pieces(labels_HW):
        if np.count_nonzero(mask_hw) >= LEAST_PX:
            boxes.append((x.start, y.start, x.stop, y.stop))
            pieces_HW[y, x][mask_hw] = len(boxes)
    return {
        "image": torch.from_numpy(image_HWC),
        "labels": torch.from_numpy(pieces_HW),
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
    }


def dense_example(image_HWC: np.ndarray, labels_HW: np.ndarray) -> dict[str, Any]:
    """The example of a dense network of objects.

    The boundary is the pixels of an object within `BOUNDARY_PX` of another object or of the ground; the border of a
    tile is none, nor what is ignored. The distance is that from the nearest pixel which is not of the object, over the
    object's largest: 1 in the middle of each object, whatever its size.

    Returns:
        `image` uint8 HWC; `mask` uint8 HW, bit 0 for objects, `BOUNDARY_BIT`, `IGNORED_BIT`; `distance` uint8 HW, 0 to
        `DISTANCE_ONE`.
    """
    ignored_HW = labels_HW == IGNORED_LABEL
    bits_HW = structure_pixels(labels_HW).astype(np.uint8) | ignored_HW * np.uint8(IGNORED_BIT)
    bits_HW |= touching_pixels(labels_HW, BOUNDARY_PX, ground=True) * np.uint8(BOUNDARY_BIT)
    return {
        "image": torch.from_numpy(image_HWC),
        "mask": torch.from_numpy(bits_HW),
        "distance": torch.from_numpy(distance_target(labels_HW)),
    }


def distance_target(labels_HW: np.ndarray) -> np.ndarray:
    """Of each object its distance from what is around it over its own largest; the border of the tile is not around.

    Args:
        labels_HW: Labels, uint16.

    Returns:
        uint8 (H, W), 0 to `DISTANCE_ONE`; 0 outside of objects.
    """
    distances_HW = np.zeros(labels_HW.shape, np.uint8)
    for y, x, mask_hw in object_pieces(labels_HW):
        around = [
            (int(span.start > 0), int(span.stop < side)) for span, side in zip((y, x), labels_HW.shape, strict=True)
        ]
        padded_hw = cv2.copyMakeBorder(mask_hw.view(np.uint8), *around[0], *around[1], cv2.BORDER_CONSTANT)
        depths_hw = np.ones(padded_hw.shape, np.float32)
        if not padded_hw.all():  # else the piece is the whole tile, without anything around it
            depths_hw = cv2.distanceTransform(padded_hw, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        (top, _), (left, _) = around
        own_hw = depths_hw[top : top + mask_hw.shape[0], left : left + mask_hw.shape[1]]
        scaled_hw = np.rint(own_hw * (DISTANCE_ONE / own_hw.max())).astype(np.uint8)
        distances_HW[y, x][mask_hw] = scaled_hw[mask_hw]
    return distances_HW


def collate_examples(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Examples as a batch: of each entry a tensor with a first axis; of `boxes`, whose numbers differ, a list."""
    batch: dict[str, Any] = default_collate([{k: v for k, v in e.items() if k != "boxes"} for e in examples])
    if "boxes" in examples[0]:
        batch["boxes"] = [example["boxes"] for example in examples]
    return batch


def detector_targets(labels_NHW: torch.Tensor, boxes: Sequence[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """What a detector in training is given beside the images, on the device of its arguments.

    Args:
        labels_NHW: int32, of `detector_example`.
        boxes: Of each image float32 (M, 4), x before y.

    Returns:
        Of each image `boxes`, `labels` int64 (M,) of ones and `masks` uint8 (M, H, W).
    """
    targets = []
    for labels_HW, boxes_M4 in zip(labels_NHW, boxes, strict=True):
        numbers_M = torch.arange(1, len(boxes_M4) + 1, dtype=labels_HW.dtype, device=labels_HW.device)
        masks_MHW = (labels_HW == numbers_M[:, None, None]).to(torch.uint8)
        targets.append({"boxes": boxes_M4, "labels": torch.ones_like(numbers_M, dtype=torch.int64), "masks": masks_MHW})
    return targets
