"""Tiles as a map-style dataset, and the order in which they are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from histoseg.core.faults import Fault, InputError
from histoseg.data.tile_files import read_tile
from histoseg.data.tile_masks import unpack_bits
from histoseg.data.tiles import TILE_BINS
from histoseg.imaging.stain import StainMap
from histoseg.train.augment import Augmenter


class TileDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """uint8 tiles and masks, augmented; indexed by (tile, epoch, position) so that each draw is its own.

    The device normalises: workers ship a quarter of the bytes that float32 would be.
    """

    def __init__(
        self,
        folder: Path,
        index: pd.DataFrame,
        augmenter: Augmenter,
        seed: int,
        stain_maps: Mapping[str, StainMap] | None = None,
        *,
        classes: int = 1,
    ) -> None:
        """Prepare.

        Args:
            folder: The built dataset.
            index: Its tiles that are trained on; a column `folder` says where those of several datasets lie.
            augmenter: What is done to each.
            seed: Seed of the augmentation.
            stain_maps: Stain normalisation of each slide by its id; the tiles of others stay as they are.
            classes: Number of mask classes K.
        """
        self._folders = [Path(name) for name in index["folder"]] if "folder" in index else [folder] * len(index)
        self._tile_ids, self._classes = index["tile_id"].tolist(), classes
        self._stain_maps = [stain_maps.get(slide_id) for slide_id in index["id"]] if stain_maps else [None] * len(index)
        self._augmenter = augmenter
        self._seed = seed

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self._tile_ids)

    def __getitem__(self, draw: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The example of a draw (tile, epoch, position): image uint8 HWC, mask uint8 HW, or KHW of several classes."""
        tile, epoch, position = draw
        image_HWC, bits_HW = self.read(tile)
        # Bits move through the augmentation as one mask, since it only ever moves pixels of masks as they are.
        image_HWC, bits_HW = self._augmenter(image_HWC, bits_HW, (self._seed, epoch, position))
        mask = bits_HW if self._classes == 1 else unpack_bits(bits_HW, self._classes)
        return torch.from_numpy(image_HWC), torch.from_numpy(mask)

    def read(self, tile: int) -> tuple[np.ndarray, np.ndarray]:
        """A tile as prediction would see it, before augmentation: image uint8 HWC, mask uint8 HW (bit k: class k)."""
        image_HWC, bits_HW = read_tile(self._folders[tile], self._tile_ids[tile], self._classes)
        stain_map = self._stain_maps[tile]
        return (image_HWC if stain_map is None else stain_map(image_HWC)), bits_HW


class BalancedSampler(Sampler[tuple[int, int, int]]):
    """An endless, seeded order of draws, from any step on.

    Draws come in epochs as long as the index. Balanced: half of an epoch's draws are unmasked tiles and half masked
    ones, the latter shared equally by the bins very_small, small, some and large (bins without tiles are left out);
    within a bin every tile comes once before any comes twice. Else every tile comes once an epoch. Where regions have
    shares, each gets its share of an epoch's draws and the tiles of all others what is left; within a region all is as
    above.
    """

    def __init__(
        self,
        bins: pd.Series,
        seed: int,
        balanced: bool,
        batch: int,
        start_step: int,
        rank: int = 0,
        ranks: int = 1,
        *,
        regions: pd.Series | None = None,
        shares: Mapping[str, float] | None = None,
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
            regions: Region of each tile, where `shares` is given.
            shares: Share of the draws of each region, adding up to 1 at most.

        Raises:
            InputError: If a region with a share has no tile.
        """
        names = bins.to_numpy()
        self._pools: list[tuple[np.ndarray, float]] = []
        for members, share in _region_pools(len(bins), regions, shares or {}):
            self._pools += _bin_pools(members, names, share) if balanced else [(members, share)]
        self._count = len(bins)
        self._seed, self._permutes = seed, not balanced and not shares
        self._batch, self._start_step, self._rank, self._ranks = batch, start_step, rank, ranks

    def epoch_order(self, epoch: int) -> np.ndarray:
        """The tiles of an epoch, int64 (number of tiles,)."""
        generator = np.random.default_rng((self._seed, epoch))
        if self._permutes:
            return generator.permutation(self._count)
        weights = np.array([weight for _, weight in self._pools])
        quotas = np.floor(weights / weights.sum() * self._count).astype(int)
        quotas[: self._count - quotas.sum()] += 1
        drawn = [_draw_evenly(pool[0], quota, generator) for pool, quota in zip(self._pools, quotas, strict=True)]
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


def _region_pools(count: int, regions: pd.Series | None, shares: Mapping[str, float]) -> list[tuple[np.ndarray, float]]:
    """The tiles of each region that has a share, and those of all others with what is left, each with its share."""
    if regions is None or not shares:
        return [(np.arange(count), 1.0)]
    names = regions.to_numpy()
    missing = [name for name in shares if name not in set(names)]
    if missing:
        known = ", ".join(sorted(set(names) - {""})) or "none: the competition knows no regions"
        rule = "no tile to train on lies in this region"
        raise InputError(
            [Fault(f"train.regions.{name}", "index.csv", rule, f"regions of the tiles: {known}") for name in missing]
        )
    pools = [(np.flatnonzero(names == name), share) for name, share in shares.items()]
    rest, left = np.flatnonzero(~np.isin(names, list(shares))), 1 - sum(shares.values())
    return pools + [(rest, left)] * (len(rest) > 0 and left > 1e-9)


def _bin_pools(members: np.ndarray, names: np.ndarray, share: float) -> list[tuple[np.ndarray, float]]:
    """The tiles of each bin among some, with their shares: half for unmasked tiles, half for the masked bins."""
    each = [members[names[members] == name] for name in TILE_BINS]
    masked = [pool for pool in each[1:] if len(pool)]
    if not masked or not len(each[0]):
        pools = masked or each[:1]
        return [(pool, share / len(pools)) for pool in pools]
    return [(each[0], share / 2), *((pool, share / 2 / len(masked)) for pool in masked)]


def _draw_evenly(members: np.ndarray, quota: int, generator: np.random.Generator) -> np.ndarray:
    """Draw `quota` members so that none comes more than once more often than another."""
    rounds = [generator.permutation(members) for _ in range(-(-quota // len(members)))]
    return np.concatenate([*rounds, members[:0]])[:quota]


def make_loader(dataset: TileDataset, sampler: BalancedSampler, batch: int, workers: int) -> DataLoader[Any]:
    """An endless loader of full batches: images uint8 NHWC and masks uint8 NHW, or NKHW of several classes."""
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
