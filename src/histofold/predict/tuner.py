"""The batch that a machine predicts fastest with; what is found goes into the manifest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from histofold.models.instances.build import build_network
from histofold.predict.devices import best_device, describe_device, is_out_of_memory
from histofold.predict.members import load_ensemble
from histofold.predict.objects.finds import find_in_tiles
from histofold.predict.stages import Level
from histofold.predict.tiled import grid_of
from histofold.schema.manifest import Manifest
from histofold.schema.network import is_detector

LARGEST_BATCH = 32
ENOUGH = 0.97  # of the best speed: the smallest batch that reaches it needs the least memory
ROUNDS = 3


@dataclass(frozen=True)
class BatchProposal:
    """What was measured, and what is proposed."""

    batch: int
    """The proposal: the smallest batch within 3% of the fastest."""
    seconds_a_tile: dict[int, float]
    """Median seconds of a tile at each batch that was tried."""
    device: str
    """What they were measured on."""
    ended: str
    """Why larger batches were not tried."""

    def lines(self) -> list[str]:
        """In words, speeds as ratios to the slowest."""
        slowest = max(self.seconds_a_tile.values())
        speeds = ", ".join(f"{batch}: {slowest / each:.2f}x" for batch, each in self.seconds_a_tile.items())
        return [
            f"speed by batch on {self.device}: {speeds} ({self.ended})",
            f"batch {self.batch} goes into the manifest",
        ]


def propose_batch(folder: Path, manifest: Manifest) -> BatchProposal:
    """Time batches of 1, 2, 4, ... tiles with the first member and view of a package, in turn, and propose one.

    Args:
        folder: The package.
        manifest: Its checked manifest.

    Raises:
        InputError: If its members cannot be loaded.
        MemoryError: If a single tile is too much.
    """
    device = best_device()
    stage = load_ensemble([(folder, manifest)], [device], build=build_network)[0]
    passes, size = stage.passes_at(Level(1, 1)), grid_of(stage.manifest, (1, 1)).size
    tiles_NHWC = np.random.default_rng(0).integers(0, 256, (LARGEST_BATCH, size, size, 3), np.uint8)

    def forward(batch: int) -> None:
        if is_detector(manifest.members[0].architecture):
            find_in_tiles(stage.networks[0], tiles_NHWC[:batch], passes, stage.manifest)
        else:
            stage.networks[0](tiles_NHWC[:batch], passes, stage.manifest)

    batches, ended = usable_batches(forward)
    times: dict[int, list[float]] = {batch: [] for batch in batches}
    for _ in tqdm(range(ROUNDS), desc="tune", unit="round", leave=False, dynamic_ncols=True):
        for batch in batches:
            started = time.perf_counter()
            forward(batch)
            times[batch].append((time.perf_counter() - started) / batch)
    medians = {batch: statistics.median(each) for batch, each in times.items()}
    return BatchProposal(smallest_of_the_fastest(medians), medians, describe_device(device), ended)


def usable_batches(forward: Callable[[int], object]) -> tuple[list[int], str]:
    """Powers of two that memory allows, up to the largest; each is tried once, which also warms it up.

    A batch that is the largest to fit is left out: beside the readers and another process it may not.

    Raises:
        MemoryError: If not even one tile fits.
    """
    usable: list[int] = []
    batch = 1
    while batch <= LARGEST_BATCH:
        try:
            forward(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if not usable:
                raise MemoryError("one tile alone is too much for the memory: lower predict.tile") from error
            return usable[:-1] or usable, f"{batch} did not fit into memory"
        usable.append(batch)
        batch *= 2
    return usable, f"{LARGEST_BATCH} is the largest that is tried"


def smallest_of_the_fastest(seconds_a_tile: dict[int, float]) -> int:
    """The smallest batch whose speed is within 3% of the best one's."""
    fastest = min(seconds_a_tile.values())
    return min(batch for batch, each in seconds_a_tile.items() if fastest >= ENOUGH * each)
