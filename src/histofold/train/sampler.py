"""The order in which tiles are drawn: balanced over bins and regions, and shared by organs and datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from torch.utils.data import Sampler

from histofold.data.tiles.cut import TILE_BINS
from histofold.train.fold import FoldSetup, refuse_unknown

GOLDEN_RATIO = (1 + 5**0.5) / 2
MAX_DRAW_RATIO = 3.0
"""How much more often a tile of one bin may be drawn than one of another: few tiles, drawn again and again, are learnt
by heart and crowd out all others."""


def training_order(setup: FoldSetup, start_step: int, rank: int = 0, ranks: int = 1) -> BalancedSampler:
    """The order in which a fold's tiles are drawn, from a step on.

    Args:
        setup: The fold.
        start_step: The first step that is wanted.
        rank: This process.
        ranks: Number of processes.
    """
    config = setup.experiment.train
    shares = {
        column: {name: share for name, share in wanted.items() if (setup.index[column] == name).any()}
        for column, wanted in (("organ", config.organs), ("source", config.sources))
    }
    return make_sampler(
        setup.index,
        setup.weights,
        seed=config.seed,
        balanced=config.balanced,
        batch=config.batch,
        start_step=start_step,
        rank=rank,
        ranks=ranks,
        region_shares=config.regions,
        shares=shares,
    )


def make_sampler(
    index: pd.DataFrame,
    weights: Mapping[str, float],
    *,
    seed: int,
    balanced: bool,
    batch: int,
    start_step: int,
    rank: int = 0,
    ranks: int = 1,
    region_shares: Mapping[str, float] | None = None,
    shares: Mapping[str, Mapping[str, float]] | None = None,
) -> BalancedSampler:
    """The order of a fold's tiles: by shares of organs or sources, the weights of its datasets, balanced over bins.

    Organs come first: where they have shares, the weights of the datasets hold within each organ, among those datasets
    that have it, and bins are balanced within these. The same holds for sources.

    Args:
        index: Columns bin, dataset, region, organ and source of the tiles that are trained on.
        weights: Weight of each dataset by its name.
        seed: Seed of the order.
        balanced: Whether bins are balanced.
        batch: Draws of a step on each process.
        start_step: The first step that is wanted.
        rank: This process.
        ranks: Number of processes.
        region_shares: Share of the draws of each region; datasets that have none of these regions draw from all.
        shares: Share of the draws of each organ, or each source, by the column (`organ`, `source`); all others share
            what is left of 1. Only one of both columns has shares.

    Raises:
        InputError: If a region with a share has no tile in any dataset, or none in one that has others of them; or if
            an organ or source with a share has no tile.
    """
    place = {"seed": seed, "batch": batch, "start_step": start_step, "rank": rank, "ranks": ranks}
    pools = [(np.arange(len(index)), 1.0)]
    shared = [(column, wanted) for column, wanted in (shares or {}).items() if wanted]
    for column, wanted in shared:
        pools = share_pools(index[column].tolist(), wanted, f"{column}s")
    parts = []
    for members, share in pools:
        order = _joined_order(index.iloc[members], weights, balanced, region_shares or {}, place)
        parts.append((members, order, share))
    return parts[0][1] if not shared else SourceSampler(parts, count=len(index), **place)


def _joined_order(
    index: pd.DataFrame,
    weights: Mapping[str, float],
    balanced: bool,
    region_shares: Mapping[str, float],
    place: Mapping[str, int],
) -> BalancedSampler:
    """The order of some tiles, of each dataset by its weight; places in it are rows of this index."""
    parts = []
    nowhere = not set(region_shares) & set(index.get("region", ()))
    for name, part in index.groupby("dataset", sort=False):
        regions = part["region"].tolist() if "region" in part.columns else []
        shares = region_shares if nowhere or set(region_shares) & set(regions) else {}
        order = BalancedSampler(part["bin"], balanced=balanced, regions=regions, shares=shares, **place)
        parts.append((index.index.get_indexer(part.index), order, weights[str(name)]))
    return parts[0][1] if len(parts) == 1 else SourceSampler(parts, count=len(index), **place)


class BalancedSampler(Sampler[tuple[int, int, int]]):
    """An endless, seeded order of draws, from any step on.

    Draws come in epochs as long as the index. Balanced: half of an epoch's draws are unmasked tiles and half masked
    ones, the latter shared equally by the bins very_small, small, some and large (bins without tiles are left out);
    within a bin every tile comes once before any comes twice. Where a bin has so few tiles that each would be drawn
    more than `MAX_DRAW_RATIO` times as often as one of another bin, the shares are moved just so far that none is. Not
    balanced, every tile comes once an epoch. Where regions have shares, each gets its share of an epoch's draws and the
    tiles of all others what is left; within a region all is as above. All shares are met within one draw in every
    epoch, and exactly in the long run.
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


class SourceSampler(BalancedSampler):
    """Draws each source by its weight, and within a source in the source's own endless order.

    Sources are datasets, or the tiles of an organ each. An epoch is as long as the joined index; each source gets its
    share of it, rounded, and at least one draw. A source that is drawn less than it has tiles goes on in the next epoch
    where it stopped, so that no tile is left out.
    """

    def __init__(
        self,
        parts: Sequence[tuple[np.ndarray, BalancedSampler, float]],
        *,
        count: int,
        seed: int,
        batch: int,
        start_step: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """Prepare the order.

        Args:
            parts: Of each source the places of its tiles in the joined index, its own order, and its weight.
            count: Number of tiles of the joined index, with those that no source draws.
            seed: Seed of the mixture.
            batch: Draws of a step on each process.
            start_step: The first step that is wanted.
            rank: This process.
            ranks: Number of processes.
        """
        self._orders = [(places, order) for places, order, _ in parts]
        self._count = count
        self._quotas = source_quotas([weight for _, _, weight in parts], self._count)
        self._seed = seed
        self._batch, self._start_step, self._rank, self._ranks = batch, start_step, rank, ranks

    def epoch_order(self, epoch: int) -> np.ndarray:
        """The tiles of an epoch as places in the joined index, int64 (number of tiles,)."""
        drawn = [
            places[_stretch(order, len(places), epoch * quota, quota)]
            for (places, order), quota in zip(self._orders, self._quotas, strict=True)
        ]
        # The third number keeps this permutation apart from those within the sources.
        return np.random.default_rng((self._seed, epoch, 1)).permutation(np.concatenate(drawn))


def source_quotas(weights: Sequence[float], count: int) -> list[int]:
    """Draws of each source in an epoch of `count`: shares by weight, rounded by largest remainder, at least one."""
    ideal = np.asarray(weights, float) / sum(weights) * count
    quotas = np.maximum(1, np.floor(ideal).astype(int))
    while quotas.sum() != count:
        gaps = ideal - quotas
        step = 1 if quotas.sum() < count else -1
        quotas[int((gaps * step - (quotas + step < 1) * count).argmax())] += step
    return [int(quota) for quota in quotas]


def _stretch(order: BalancedSampler, count: int, start: int, length: int) -> np.ndarray:
    """Draws `start` to `start + length` of an endless order whose epochs have `count` draws."""
    epochs = range(start // count, (start + length - 1) // count + 1)
    return np.concatenate([order.epoch_order(epoch) for epoch in epochs])[start % count :][:length]


def share_pools(names: Sequence[str], shares: Mapping[str, float], setting: str) -> list[tuple[np.ndarray, float]]:
    """The tiles of each name that has a share, and those of all others with what is left, each with its share.

    Args:
        names: Region, organ or source of each tile, empty where it is unknown.
        shares: Share of the draws by name, adding up to 1 at most.
        setting: The setting that the shares come from, for the message: `regions`, `organs` or `sources`.

    Raises:
        InputError: With each name that has a share and no tile.
    """
    names_N = np.asarray(names, dtype=str)
    refuse_unknown(f"train.{setting}", shares, names_N)
    pools = [(np.flatnonzero(names_N == name), share) for name, share in shares.items()]
    rest, left = np.flatnonzero(~np.isin(names_N, list(shares))), 1 - sum(shares.values())
    return pools + [(rest, left)] * (len(rest) > 0 and left > 1e-9)


def _epoch_quotas(weights: Sequence[float], count: int, epoch: int) -> np.ndarray:
    """Draws of each pool in an epoch of `count`, int64: systematic sampling along the pools' shares laid end to end.

    Each quota is its share rounded up or down, and so is that of neighbouring pools together: those of one region. The
    offset moves by the golden ratio, whose multiples fill [0, 1) evenly, so that no pool is left out for good.
    """
    bounds = np.round(np.cumsum(weights) / np.sum(weights) * count, 9)
    places = np.arange(count) + epoch * GOLDEN_RATIO % 1
    return np.bincount(np.searchsorted(bounds[:-1], places, side="right"), minlength=len(weights))


def _bin_pools(members: np.ndarray, names: np.ndarray, share: float) -> list[tuple[np.ndarray, float]]:
    """The tiles of each bin among some, with their shares: half for unmasked tiles, half for the masked bins.

    So far as no tile is drawn more than `MAX_DRAW_RATIO` times as often as another.
    """
    each = [members[names[members] == name] for name in TILE_BINS]
    masked = [pool for pool in each[1:] if len(pool)]
    if not masked or not len(each[0]):
        pools = masked or each[:1]
        shares = [share / len(pools)] * len(pools)
    else:
        pools = [each[0], *masked]
        shares = [share / 2, *[share / 2 / len(masked)] * len(masked)]
    return list(zip(pools, _limited_shares(shares, [len(pool) for pool in pools]), strict=True))


def _limited_shares(shares: list[float], sizes: Sequence[int]) -> list[float]:
    """Shares of pools of so many tiles, of the same sum, moved until no tile is drawn too much more often than another.

    The rates share / size are clipped to [c, `MAX_DRAW_RATIO` c]. The clipped sum is piecewise linear in c and rises
    with it, so that the c that keeps the sum is read off between its kinks.
    """
    counts_P = np.maximum(np.asarray(sizes, float), 1)
    rates_P = np.asarray(shares) / counts_P
    if rates_P.max() <= MAX_DRAW_RATIO * rates_P.min():
        return shares
    kinks = np.sort(np.concatenate([rates_P, rates_P / MAX_DRAW_RATIO]))
    sums = [float(counts_P @ rates_P.clip(kink, MAX_DRAW_RATIO * kink)) for kink in kinks]
    least = float(np.interp(sum(shares), sums, kinks))
    return (counts_P * rates_P.clip(least, MAX_DRAW_RATIO * least)).tolist()


def _draw_evenly(members: np.ndarray, quota: int, generator: np.random.Generator) -> np.ndarray:
    """Draw `quota` members so that none comes more than once more often than another."""
    rounds = [generator.permutation(members) for _ in range(-(-quota // len(members)))]
    return np.concatenate([*rounds, members[:0]])[:quota]
