"""Objects as runs against their peers, measured in turns in one process: prints ratios, never bare times.

    python benchmarks/bench_objects.py [--repeats 5]

Peers: pycocotools on its own compressed masks (with the usual loops around it), for merging the loop over all pairs of
objects of different tiles, which looks at pixels only where boxes meet, and torchvision for pasting, which is given 50
objects at a time: all at once it would hold 16 GB. Each side starts from the form it holds.
"""

from __future__ import annotations

import argparse
import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from histofold.core.objects import Objects, pairwise_iou
from histofold.core.objects.fusion import fuse_masks, mask_nms
from histofold.core.objects.paste import paste_masks
from histofold.core.objects.seams import TileObjects, merge_tiles
from histofold.core.tiles import TileGrid

SHAPE = (1000, 1000)
TILE, OVERLAP = 256, 64


def draw_nuclei(count: int, seed: int = 0) -> np.ndarray:
    """A label image of ellipses of about 20 pixels, which touch and cover each other."""
    rng = np.random.default_rng(seed)
    labels_HW = np.zeros(SHAPE, np.int32)
    for label in range(1, count + 1):
        centre, axes = rng.integers(0, 1000, 2).tolist(), rng.integers(6, 14, 2).tolist()
        cv2.ellipse(labels_HW, centre, axes, float(rng.uniform(0, 180)), 0, 360, label, -1)
    return labels_HW


def shaken(labels_HW: np.ndarray, shift: int) -> Objects:
    """The nuclei as another member might see them."""
    return Objects.from_labels(np.roll(labels_HW, shift, axis=(0, 1)))


def coco_codes(objects: Objects) -> list[Any]:
    """The same objects as pycocotools holds them."""
    return [coco_mask.encode(np.asfortranarray(runs.to_mask(), np.uint8)) for runs in objects]


def ratio(ours: Callable[[], Any], peer: Callable[[], Any], repeats: int) -> float:
    """Median time of ours over that of the peer, run in turns after one run to warm up."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for run, kept in zip((ours, peer), seconds, strict=True):
            gc.collect()
            started = time.perf_counter()
            run()
            if turn:
                kept.append(time.perf_counter() - started)
    return float(np.median(seconds[0]) / np.median(seconds[1]))


def coco_nms(codes: list[Any], scores_N: np.ndarray) -> list[int]:
    """The usual greedy loop over pycocotools' matrix."""
    iou_NN, kept = coco_mask.iou(codes, codes, [0] * len(codes)), []
    for index in np.argsort(-scores_N, kind="stable"):
        if not (iou_NN[index, kept] > 0.5).any():
            kept.append(int(index))
    return kept


def coco_fusion(codes: list[Any], scores_N: np.ndarray) -> list[np.ndarray]:
    """Groups by pycocotools' matrix, the vote on decoded masks."""
    iou_NN, groups = coco_mask.iou(codes, codes, [0] * len(codes)), []
    for index in np.argsort(-scores_N, kind="stable").tolist():
        overlaps = iou_NN[index, [group[0] for group in groups]]
        if len(groups) and overlaps.max() > 0.5:
            groups[int(overlaps.argmax())].append(index)
        else:
            groups.append([index])
    votes = [coco_mask.decode([codes[index] for index in group]) @ scores_N[group] for group in groups]
    return [vote >= scores_N[group].sum() / 2 for vote, group in zip(votes, groups, strict=True)]


def tiles_of(labels_HW: np.ndarray) -> list[TileObjects]:
    """The nuclei of each tile of a grid."""
    found = []
    for tile in TileGrid(SHAPE, TILE, TILE - OVERLAP):
        objects = Objects.from_labels(labels_HW[tile.read])
        found.append(TileObjects(objects, np.ones(len(objects)), (tile.read[0].start, tile.read[1].start)))
    return found


def merge_pairwise(tiles: list[TileObjects]) -> int:
    """The loop over pairs: a test of boxes, then both masks within what both tiles saw; how many objects are left."""
    entries = []
    for index, (objects, _, (y, x)) in enumerate(tiles):
        window = (y, x, y + objects.shape_hw[0], x + objects.shape_hw[1])
        for runs, (top, left, bottom, right) in zip(objects, objects.boxes.tolist(), strict=True):
            mask_HW = runs.to_window((top, left, bottom, right))
            entries.append((index, window, (top + y, left + x, bottom + y, right + x), mask_HW))
    parent = list(range(len(entries)))
    for one in range(len(entries)):
        for other in range(one + 1, len(entries)):
            a, b = entries[one], entries[other]
            if a[0] == b[0] or a[2][0] >= b[2][2] or b[2][0] >= a[2][2] or a[2][1] >= b[2][3] or b[2][1] >= a[2][3]:
                continue
            seen = (*np.maximum(a[1][:2], b[1][:2]), *np.minimum(a[1][2:], b[1][2:]))
            masks = [within(entry, seen) for entry in (a, b)]
            if np.count_nonzero(masks[0] & masks[1]) > 0.5 * np.count_nonzero(masks[0] | masks[1]):
                parent[root(parent, other)] = root(parent, one)
    return len({root(parent, index) for index in range(len(parent))})


def root(parent: list[int], index: int) -> int:
    """The object that stands for a group."""
    while parent[index] != index:
        index = parent[index]
    return index


def within(entry: tuple[Any, ...], seen: tuple[int, ...]) -> np.ndarray:
    """An object's mask over what both tiles saw."""
    mask_HW = np.zeros((seen[2] - seen[0], seen[3] - seen[1]), bool)
    (top, left, bottom, right), mask = entry[2], entry[3]
    y, x, end_y, end_x = max(top, seen[0]), max(left, seen[1]), min(bottom, seen[2]), min(right, seen[3])
    inside = mask[y - top : end_y - top, x - left : end_x - left]
    mask_HW[y - seen[0] : end_y - seen[0], x - seen[1] : end_x - seen[1]] = inside
    return mask_HW


def boxed_masks(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and their 28 x 28 maps, as Mask R-CNN gives them."""
    rng = np.random.default_rng(0)
    centres_M2, sides_M2 = rng.uniform(0, 1000, (count, 2)), rng.uniform(10, 40, (count, 2))
    boxes_M4 = np.concatenate([centres_M2 - sides_M2 / 2, centres_M2 + sides_M2 / 2], axis=1).clip(0, 1000)
    maps_Mhw = np.stack([cv2.GaussianBlur(rng.random((28, 28), np.float32), (0, 0), 3) for _ in range(count)])
    return boxes_M4.astype(np.float32), maps_Mhw


def torchvision_masks(boxes_M4: np.ndarray, maps_Mhw: np.ndarray) -> list[np.ndarray]:
    """The masks by torchvision, 50 at a time."""
    boxes, maps = torch.from_numpy(boxes_M4[:, [1, 0, 3, 2]]), torch.from_numpy(maps_Mhw)[:, None]
    parts = [slice(at, at + 50) for at in range(0, len(boxes), 50)]
    return [
        mask for part in parts for mask in (paste_masks_in_image(maps[part], boxes[part], SHAPE) > 0.5)[:, 0].numpy()
    ]


def compare_pasting(repeats: int) -> None:
    """Print the rows of pasting."""
    boxes_M4, maps_Mhw = boxed_masks(200)
    assert all(
        np.array_equal(runs.to_mask(), mask)
        for runs, mask in zip(
            paste_masks(boxes_M4, maps_Mhw, SHAPE), torchvision_masks(boxes_M4, maps_Mhw), strict=True
        )
    )
    pasting = ratio(
        lambda: paste_masks(boxes_M4, maps_Mhw, SHAPE), lambda: torchvision_masks(boxes_M4, maps_Mhw), repeats
    )
    print(f"| pasting 200 masks of 28 x 28 | {pasting:.3f} of torchvision | 1.0 |", flush=True)
    boxes_M4, maps_Mhw = boxed_masks(2000)
    memory = peak_mb(lambda: paste_masks(boxes_M4, maps_Mhw, SHAPE))
    print(f"| pasting 2,000, peak memory beside the maps | {memory:.0f} MB | 100 MB |", flush=True)


def peak_mb(run: Callable[[], Any]) -> float:
    """Most memory that was in use at once while it ran, in MB."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    labels_HW = draw_nuclei(400)
    members = [shaken(labels_HW, shift) for shift in (0, 1, 2, 3)]
    found, true = members[:2]
    codes = [coco_codes(objects) for objects in (found, true)]
    scores = [np.random.default_rng(shift).uniform(0.1, 1, len(objects)) for shift, objects in enumerate(members)]
    all_objects = Objects.from_runs([runs for objects in members for runs in objects], SHAPE)
    all_codes, all_scores = coco_codes(all_objects), np.concatenate(scores)
    crowds = [0] * len(true)
    print("| work | / peer | target |\n|---|---|---|")
    iou = ratio(lambda: pairwise_iou(found, true), lambda: coco_mask.iou(*codes, crowds), repeats)
    assert np.array_equal(pairwise_iou(found, true), coco_mask.iou(*codes, crowds))
    print(f"| IoU of 400 with 400 | {iou:.2f} of pycocotools | 1.0 |", flush=True)
    nms = ratio(lambda: mask_nms(all_objects, all_scores), lambda: coco_nms(all_codes, all_scores), repeats)
    assert mask_nms(all_objects, all_scores).tolist() == coco_nms(all_codes, all_scores)
    print(f"| NMS of 4 members of 400 | {nms:.2f} of pycocotools | 1.0 |", flush=True)
    detections = list(zip(members, scores, strict=True))
    fusion = ratio(lambda: fuse_masks(detections), lambda: coco_fusion(all_codes, all_scores), 1)
    assert len(fuse_masks(detections)[0]) == len(coco_fusion(all_codes, all_scores))
    print(f"| mask fusion of 4 members of 400 | {fusion:.3f} of pycocotools | 1.0 |", flush=True)
    dense_HW = draw_nuclei(2400)
    tiles = tiles_of(dense_HW)
    count = sum(len(tile.objects) for tile in tiles)
    merging = ratio(lambda: merge_tiles(tiles, SHAPE), lambda: merge_pairwise(tiles), 1)
    merged = len(merge_tiles(tiles, SHAPE)[0])
    assert merged == merge_pairwise(tiles)
    print(
        f"| merging {count} objects of {len(tiles)} tiles to {merged} | {merging:.3f} of the loop over pairs | 0.1 |",
        flush=True,
    )
    memory = peak_mb(lambda: merge_tiles(tiles_of(dense_HW), SHAPE))
    print(f"| the same from label images, peak memory | {memory:.0f} MB | 100 MB |", flush=True)
    compare_pasting(repeats)


if __name__ == "__main__":
    main()
