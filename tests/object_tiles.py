"""Tiles with bright discs and boxes on noise, and the targets that detectors learn them from."""

from __future__ import annotations

import numpy as np
import torch


def targets_of(labels_HW: np.ndarray) -> dict[str, torch.Tensor]:
    """A detector's target of one tile, whose objects have numbers from 1 on."""
    masks_MHW = np.stack([labels_HW == n for n in range(1, labels_HW.max() + 1)] or [labels_HW > 0])[: labels_HW.max()]
    boxes = []
    for mask in masks_MHW:
        ys, xs = np.nonzero(mask)
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    return {
        "boxes": torch.tensor(np.array(boxes, dtype=np.float32).reshape(-1, 4)),
        "labels": torch.ones(len(boxes), dtype=torch.int64),
        "masks": torch.from_numpy(masks_MHW.astype(np.uint8)),
    }


def tile_of(count: int, hw: tuple[int, int], side: int = 12, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """A normalised image (3, H, W) of discs, side pixels wide, on a jittered grid, and its labels (H, W)."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(hw, dtype=np.int32)
    rows, columns = hw[0] // (side + 2), hw[1] // (side + 2)
    assert count <= rows * columns
    grid_y, grid_x = np.mgrid[: hw[0], : hw[1]]
    for number, place in enumerate(rng.permutation(rows * columns)[:count], start=1):
        y, x = (place // columns) * (side + 2) + side / 2 + 0.5, (place % columns) * (side + 2) + side / 2 + 0.5
        labels[(grid_y - y) ** 2 + (grid_x - x) ** 2 <= (side / 2) ** 2] = number
    image = rng.normal(0, 0.1, (3, *hw)) + (labels > 0) * 2.0 - 0.5
    return torch.from_numpy(image.astype(np.float32)), labels
