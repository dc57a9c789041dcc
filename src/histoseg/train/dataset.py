"""Tiles as a map-style dataset, and the order in which they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from histoseg.data.tiles import TILE_BINS
from histoseg.train.augment import Augmenter


class TileDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """uint8 tiles and masks, augmented; indexed by (tile, epoch, position) so that each draw is its own.

    The device normalises: workers ship a quarter of the bytes that float32 would be.
    """

    def __init__(self, folder: Path, index: pd.DataFrame, augmenter: Augmenter, seed: int) -> None:
        self._images = [str(folder / "images" / f"{tile_id}.png") for tile_id in index["tile_id"]]
        self._masks = [str(folder / "masks" / f"{tile_id}.png") for tile_id in index["tile_id"]]
        self._augmenter = augmenter
        self._seed = seed

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self._images)

    def __getitem__(self, draw: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The example of a draw (tile, epoch, position): image uint8 HWC, mask uint8 HW."""
        tile, epoch, position = draw
        image_BGR = cv2.imread(self._images[tile], cv2.IMREAD_COLOR)
        mask_HW = cv2.imread(self._masks[tile], cv2.IMREAD_GRAYSCALE)
        if image_BGR is None or mask_HW is None:
            raise FileNotFoundError(f"{self._images[tile]} or its mask cannot be read: build the dataset anew")
        image_HWC = cv2.cvtColor(image_BGR, cv2.COLOR_BGR2RGB)
        image_HWC, mask_HW = self._augmenter(image_HWC, (mask_HW > 0).astype(np.uint8), (self._seed, epoch, position))
        return torch.from_numpy(image_HWC), torch.from_numpy(mask_HW)


class BalancedSampler(Sampler[tuple[int, int, int]]):
    """An endless, seeded order of draws, from any step on.

    Draws come in epochs as long as the index. Balanced: half of an epoch's draws are unmasked tiles and half masked
    ones, the latter shared equally by the bins very_small, small, some and large (bins without tiles are left out);
    within a bin every tile comes once before any comes twice. Else every tile comes once an epoch.
    """

    def __init__(
        self, bins: pd.Series, seed: int, balanced: bool, batch: int, start_step: int, rank: int = 0, ranks: int = 1
    ) -> None:
        """Prepare the order.

        Args:
            bins: Bin of each tile, of `TILE_BINS`.
            seed: Seed of the order.
            balanced: Whether bins are balanced.
            batch: Draws of a step on each process.
            start_step: The first step that is wanted: resuming is starting later in the same order.
            rank: This process.
            ranks: Number of processes; each step's draws are dealt out to them in blocks.
        """
        self._members = [np.flatnonzero(bins.to_numpy() == name) for name in TILE_BINS]
        self._count = len(bins)
        self._seed, self._balanced = seed, balanced
        self._batch, self._start_step, self._rank, self._ranks = batch, start_step, rank, ranks

    def epoch_order(self, epoch: int) -> np.ndarray:
        """The tiles of an epoch, int64 (number of tiles,)."""
        generator = np.random.default_rng((self._seed, epoch))
        if not self._balanced:
            return generator.permutation(self._count)
        masked = [members for members in self._members[1:] if len(members)]
        shares = {id(members): 0.5 / len(masked) for members in masked} if masked else {}
        if len(self._members[0]):
            shares[id(self._members[0])] = 1 - sum(shares.values())
        pools = [members for members in self._members if id(members) in shares]
        weights = np.array([shares[id(members)] for members in pools])
        quotas = np.floor(weights / weights.sum() * self._count).astype(int)
        quotas[: self._count - quotas.sum()] += 1
        drawn = [_draw_evenly(members, quota, generator) for members, quota in zip(pools, quotas, strict=True)]
        return generator.permutation(np.concatenate(drawn))

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Draws (tile, epoch, position) of this process, endlessly."""
        place = (self._start_step * self._ranks + self._rank) * self._batch
        epoch, order = -1, np.empty(0, np.int64)
        while True:
            for draw in range(place, place + self._batch):
                if draw // self._count != epoch:
                    epoch = draw // self._count
                    order = self.epoch_order(epoch)
                position = draw % self._count
                yield int(order[position]), epoch, position
            place += self._batch * self._ranks


def _draw_evenly(members: np.ndarray, quota: int, generator: np.random.Generator) -> np.ndarray:
    """Draw `quota` members so that none comes more than once more often than another."""
    rounds = [generator.permutation(members) for _ in range(-(-quota // len(members)))]
    return np.concatenate([*rounds, members[:0]])[:quota]


def make_loader(dataset: TileDataset, sampler: BalancedSampler, batch: int, workers: int) -> DataLoader[Any]:
    """An endless loader of full batches: images uint8 NHWC and masks uint8 NHW."""
    return DataLoader(
        dataset,
        batch_size=batch,
        sampler=sampler,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_quiet_worker,
        prefetch_factor=4 if workers else None,
        # One of its own: the loader would draw from the global generator, which a resumed run has just restored.
        generator=torch.Generator(),
    )


def _quiet_worker(worker: int) -> None:
    """One thread a worker: they are parallel already."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
