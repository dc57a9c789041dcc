"""Tiles as a map-style dataset, and the order in which they are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from histofold.core.faults import Fault, InputError
from histofold.data.tiles.cut import TILE_BINS
from histofold.data.tiles.files import read_tile
from histofold.data.tiles.masks import IGNORED_BIT
from histofold.imaging.stain import StainMap
from histofold.imaging.tissue import tissue_mask
from histofold.train.augment.cutmix import CutMix
from histofold.train.augment.pipeline import Augmenter

GOLDEN_RATIO = (1 + 5**0.5) / 2


class TileDataset(Dataset[dict[str, torch.Tensor]]):
    """uint8 tiles and masks, augmented; indexed by (tile, epoch, position) so that each draw is its own.

    The device normalises and unpacks the masks: workers ship a quarter of the bytes that float32 would be.
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
        organs: Sequence[str] = (),
        ignore_blank: bool = False,
        cutmix: CutMix | None = None,
    ) -> None:
        """Prepare.

        Args:
            folder: The built dataset.
            index: Its tiles that are trained on; a column `folder` says where those of several datasets lie.
            augmenter: What is done to each.
            seed: Seed of the augmentation.
            stain_maps: Stain normalisation of each slide by its id; the tiles of others stay as they are.
            classes: Number of mask classes K, 7 at most.
            organs: The fold's organs, whose places the examples tell.
            ignore_blank: Whether the loss leaves out what is no tissue, labels on blank glass with it.
            cutmix: What is replaced by pieces of other tiles; None: nothing.
        """
        self._folders = [Path(name) for name in index["folder"]] if "folder" in index else [folder] * len(index)
        self._tile_ids, self._classes = index["tile_id"].tolist(), classes
        self._stain_maps = [stain_maps.get(slide_id) for slide_id in index["id"]] if stain_maps else [None] * len(index)
        places = {organ: place for place, organ in enumerate(organs)}
        known = index["organ"] if "organ" in index else [""] * len(index)
        self._organs = torch.tensor([places.get(organ, -1) for organ in known], dtype=torch.int64)
        self._augmenter, self._seed = augmenter, seed
        self._ignore_blank, self._cutmix = ignore_blank, cutmix

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self._tile_ids)

    def __getitem__(self, draw: tuple[int, int, int]) -> dict[str, torch.Tensor]:
        """The example of a draw (tile, epoch, position).

        Returns:
            `image` uint8 HWC; `mask` uint8 HW, bit k for class k and `IGNORED_BIT`; `organ` int64, the place in the
            fold's organs or -1; `log_zoom` float32, ln of the pixel size that the example shows over the tile's own.
        """
        tile, epoch, position = draw
        key = (self._seed, epoch, position)
        # Bits move through the augmentation as one mask, since it only ever moves pixels of masks as they are.
        image_HWC, bits_HW, log_zoom = self._augmenter(*self.read(tile), key)
        cut = self._cutmix.draw(tile, key, bits_HW.shape) if self._cutmix else None
        if cut is not None:
            other = self._augmenter(*self.read(cut.partner), cut.key)
            image_HWC[cut.y, cut.x] = other.image_HWC[cut.y, cut.x]
            bits_HW[cut.y, cut.x] = other.bits_HW[cut.y, cut.x]
            # One number for both pieces: mixed by area, as the paper mixes labels.
            share = bits_HW[cut.y, cut.x].size / bits_HW.size
            log_zoom = (1 - share) * log_zoom + share * other.log_zoom
        return {
            "image": torch.from_numpy(image_HWC),
            "mask": torch.from_numpy(bits_HW),
            "organ": self._organs[tile],
            "log_zoom": torch.tensor(log_zoom, dtype=torch.float32),
        }

    def read(self, tile: int) -> tuple[np.ndarray, np.ndarray]:
        """A tile as prediction would see it, before augmentation: image uint8 HWC, mask uint8 HW of bits.

        Blank glass is looked for on the tile as it was cut, since stain normalisation may colour it.
        """
        image_HWC, bits_HW = read_tile(self._folders[tile], self._tile_ids[tile], self._classes)
        if self._ignore_blank:
            bits_HW |= (~tissue_mask(image_HWC)).astype(np.uint8) * np.uint8(IGNORED_BIT)
        stain_map = self._stain_maps[tile]
        return (image_HWC if stain_map is None else stain_map(image_HWC)), bits_HW


class BalancedSampler(Sampler[tuple[int, int, int]]):
    """An endless, seeded order of draws, from any step on.

    Draws come in epochs as long as the index. Balanced: half of an epoch's draws are unmasked tiles and half masked
    ones, the latter shared equally by the bins very_small, small, some and large (bins without tiles are left out);
    within a bin every tile comes once before any comes twice. Else every tile comes once an epoch. Where regions have
    shares, each gets its share of an epoch's draws and the tiles of all others what is left; within a region all is as
    above. All shares are met within one draw in every epoch, and exactly in the long run.
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
        regions: Sequence[str] = (),
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
            regions: Region of each tile; needed where `shares` is given.
            shares: Share of the draws of each region, adding up to 1 at most.

        Raises:
            InputError: If a region with a share has no tile.
        """
        names = bins.to_numpy()
        self._pools: list[tuple[np.ndarray, float]] = []
        everything = [(np.arange(len(bins)), 1.0)]
        for members, share in share_pools(regions, shares, "regions") if shares else everything:
            self._pools += _bin_pools(members, names, share) if balanced else [(members, share)]
        self._count = len(bins)
        self._seed, self._permutes = seed, not balanced and not shares
        self._batch, self._start_step, self._rank, self._ranks = batch, start_step, rank, ranks

    def epoch_order(self, epoch: int) -> np.ndarray:
        """The tiles of an epoch, int64 (number of tiles,)."""
        generator = np.random.default_rng((self._seed, epoch))
        if self._permutes:
            return generator.permutation(self._count)
        quotas = _epoch_quotas([weight for _, weight in self._pools], self._count, epoch)
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


def share_pools(
    names: Sequence[str], shares: Mapping[str, float], setting: Literal["regions", "organs"]
) -> list[tuple[np.ndarray, float]]:
    """The tiles of each name that has a share, and those of all others with what is left, each with its share.

    Args:
        names: Region or organ of each tile, empty where it is unknown.
        shares: Share of the draws by name, adding up to 1 at most.
        setting: The setting that the shares come from, for the message.

    Raises:
        InputError: With each name that has a share and no tile.
    """
    names_N = np.asarray(names, dtype=str)
    refuse_unknown(f"train.{setting}", shares, names_N)
    pools = [(np.flatnonzero(names_N == name), share) for name, share in shares.items()]
    rest, left = np.flatnonzero(~np.isin(names_N, list(shares))), 1 - sum(shares.values())
    return pools + [(rest, left)] * (len(rest) > 0 and left > 1e-9)


def refuse_unknown(setting: str, wanted: Iterable[str], names: Iterable[str]) -> None:
    """Refuse names of regions or organs that no tile has.

    Args:
        setting: Dotted name of the setting that holds them, whose last part is `regions`, `organs` or `organ_weights`.
        wanted: Its names.
        names: Region or organ of each tile, empty where it is unknown.

    Raises:
        InputError: With each of them, and those that tiles have.
    """
    what = "region" if setting.endswith("regions") else "organ"
    found = sorted(set(names) - {""})
    remedy = f"{what}s of the tiles: {', '.join(found) or 'none, the competition tells no ' + what}"
    rule = f"no tile to train on is of this {what}"
    faults = [Fault(f"{setting}.{name}", "index.csv", rule, remedy) for name in wanted if name not in found]
    if faults:
        raise InputError(faults)


def _epoch_quotas(weights: Sequence[float], count: int, epoch: int) -> np.ndarray:
    """Draws of each pool in an epoch of `count`, int64: systematic sampling along the pools' shares laid end to end.

    Each quota is its share rounded up or down, and so is that of neighbouring pools together: those of one region. The
    offset moves by the golden ratio, whose multiples fill [0, 1) evenly, so that no pool is left out for good.
    """
    bounds = np.round(np.cumsum(weights) / np.sum(weights) * count, 9)
    places = np.arange(count) + epoch * GOLDEN_RATIO % 1
    return np.bincount(np.searchsorted(bounds[:-1], places, side="right"), minlength=len(weights))


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
    """An endless loader of full batches: of each entry of an example a tensor with a first axis of `batch`."""
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
