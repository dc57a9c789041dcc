"""Objects of an image over the bare forward passes of its tiles, in turns in one process: ratios of processor time.

    python benchmarks/bench_object_kernel.py [--objects 2000] [--rounds 3]

The networks do all of their work, and what they say is replaced by what the image shows (its colours are the maps of a
perfect network), so that as many objects as are drawn go through pasting, watershed, joining, cutting and the row.
Memory is the peak of what all that allocates beside the networks.
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy import ndimage

from histofold.competitions.vasculature_2023 import Vasculature2023
from histofold.imaging.slide import Slide
from histofold.library import ArrayReader
from histofold.models.instances.build import build_network
from histofold.models.instances.finds import TileFinds
from histofold.predict.devices import best_precision
from histofold.predict.objects.image import predict_detections
from histofold.predict.stages import Networks, Stage, build_stages
from histofold.predict.tiled import grid_of
from histofold.predict.views import network_input
from histofold.schema.manifest import Manifest
from histofold.schema.network import ModelConfig
from histofold.schema.objects import DENSE_MAPS, ObjectConfig
from histofold.schema.prediction import PredictConfig
from histofold.schema.preprocessing import Preprocessing

SIDE = 1000
CPU = torch.device("cpu")
GOAL, MOST_MB = 1.05, 100


def draw_maps(count: int) -> tuple[np.ndarray, int]:
    """Discs of about 14 pixels that touch, as uint8 maps (H, W, 3) of object, boundary and distance; their number."""
    rng = np.random.default_rng(0)
    labels_HW, number = np.zeros((SIDE, SIDE), np.int32), 0
    for _ in range(20 * count):
        y, x = rng.integers(7, SIDE - 7, 2).tolist()
        if number < count and not labels_HW[y - 6 : y + 7 : 3, x - 6 : x + 7 : 3].any():
            number += 1
            cv2.circle(labels_HW, (x, y), int(rng.integers(5, 9)), number, -1)
    deep_HW = ndimage.distance_transform_edt(labels_HW > 0)
    edges_HW = ndimage.grey_dilation(labels_HW, 3) != ndimage.grey_erosion(labels_HW, 3)
    maps = np.stack([0.9 * (labels_HW > 0), (labels_HW > 0) & edges_HW, np.minimum(deep_HW / 5, 1)], axis=-1)
    return np.rint(255 * maps).astype(np.uint8), len(np.unique(labels_HW)) - 1


class Answering(torch.nn.Module):
    """A network that does its work, and says what its image shows."""

    def __init__(self, net: torch.nn.Module, answer: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.net, self.answer = net, answer

    def forward(self, images_NCHW: torch.Tensor) -> Any:
        """The work, then the answer."""
        self.net(images_NCHW)
        return self.answer(images_NCHW)


def shown_maps(images_NCHW: torch.Tensor) -> torch.Tensor:
    """Logits of the maps that images show."""
    return torch.logit(images_NCHW.float().clamp(1e-4, 1 - 1e-4))


def shown_objects(images_NCHW: torch.Tensor) -> list[TileFinds]:
    """The discs that images show, each a box and a mask of 28 x 28."""
    found = []
    for image_CHW in images_NCHW:
        middles_HW = (image_CHW[2] > 0.7).numpy().astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(middles_HW, connectivity=4)
        corners_M4 = torch.from_numpy(stats[1:, [1, 0, 1, 0]].astype(np.float32))
        sizes_M2 = torch.from_numpy(stats[1:, [3, 2]].astype(np.float32))
        grow = torch.tensor([-3.0, -3.0, 3.0, 3.0])
        boxes_M4 = corners_M4 + grow + torch.cat([torch.zeros_like(sizes_M2), sizes_M2], 1)
        y_H1, x_1W = torch.linspace(-1, 1, 28)[:, None], torch.linspace(-1, 1, 28)[None]
        disc_hw = (1.3 - (y_H1**2 + x_1W**2).sqrt()).clamp(0, 1)
        found.append(TileFinds(boxes_M4, torch.full((len(boxes_M4),), 0.9), disc_hw.repeat(len(boxes_M4), 1, 1)))
    return found


def stages_for(
    config: ModelConfig, answer: Callable[[torch.Tensor], Any], classes: tuple[str, ...], views: tuple[str, ...]
) -> list[Stage]:
    """A random network with an answer of its own."""
    manifest = Manifest(
        competition="vasculature_2023",
        preprocessing=Preprocessing(normalise="none", target_pixel_size_um=1.0),
        classes=classes,
        objects=ObjectConfig(max_objects=5000, marker=0.6),
        views=views,
        tile=512,
        batch=2,
    )
    net = build_network(config.architecture, config.arguments()).eval().to(memory_format=torch.channels_last)
    networks = Networks([Answering(net, answer)], CPU, best_precision(CPU))
    return build_stages([networks], [(manifest, 1.0)])


def bare_passes(stage: Stage) -> None:
    """The forward passes of an image's tiles and nothing else."""
    manifest, networks = stage.manifest, stage.networks[0]
    grid = grid_of(manifest, (SIDE, SIDE))
    left = len(grid)
    while left > 0:
        count = min(manifest.batch, left)
        tiles_NCHW = torch.zeros(count, 3, *grid.tile_hw, dtype=torch.uint8)
        for view in manifest.views:
            inputs_NCHW = network_input(tiles_NCHW, view, manifest.preprocessing)
            with torch.inference_mode(), torch.autocast("cpu", networks.precision, networks.precision != torch.float32):
                networks.models[0].net(inputs_NCHW)  # type: ignore[operator]
        left -= count


def main() -> None:
    """Print the ratio and the peak of memory for a dense network and for a detector."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    maps_HWC, drawn = draw_maps(options.objects)
    slide = Slide(Path("array"), ArrayReader(maps_HWC))
    lite, alone = "tu-tf_efficientnet_lite0", ("identity",)
    dense, detector = ModelConfig(encoder=lite, classes=3), ModelConfig(architecture="maskrcnn", encoder=lite)
    cases = {
        "unet, four views": stages_for(dense, shown_maps, ("blood_vessel", *DENSE_MAPS), PredictConfig().views),
        "maskrcnn, one view": stages_for(detector, shown_objects, ("blood_vessel",), alone),
    }
    for name, stages in cases.items():
        ratios = []
        for _ in range(options.rounds + 1):
            started = time.process_time()
            detections = predict_detections(stages, slide, 1.0)
            row = Vasculature2023().object_row("a", detections)
            whole_s = time.process_time() - started
            started = time.process_time()
            bare_passes(stages[0])
            ratios.append(whole_s / (time.process_time() - started))
        model: Any = stages[0].networks[0].models[0]
        model.net = torch.nn.Identity()
        tracemalloc.start()
        predict_detections(stages, slide, 1.0)
        peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        print(f"{name}: {drawn} objects drawn, {len(detections)} found, a row of {len(row)} characters")
        print(f"  image / bare passes {statistics.median(ratios[1:]):.3f} (goal {GOAL})")
        print(f"  peak beside the network {peak_mb:.0f} MB (goal {MOST_MB})")


if __name__ == "__main__":
    main()
