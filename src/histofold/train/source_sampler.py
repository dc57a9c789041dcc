"""The order in which the tiles of several datasets, or of several organs, are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from histofold.train.dataset import BalancedSampler, share_pools


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
    organ_shares: Mapping[str, float] | None = None,
) -> BalancedSampler:
    """The order of a fold's tiles: by the shares of organs, the weights of its datasets, and balanced over bins.

    Organs come first: where they have shares, the weights of the datasets hold within each organ, among those datasets
    that have it, and bins are balanced within these.

    Args:
        index: Columns bin, dataset, region and organ of the tiles that are trained on.
        weights: Weight of each dataset by its name.
        seed: Seed of the order.
        balanced: Whether bins are balanced.
        batch: Draws of a step on each process.
        start_step: The first step that is wanted.
        rank: This process.
        ranks: Number of processes.
        region_shares: Share of the draws of each region; datasets that have none of these regions draw from all.
        organ_shares: Share of the draws of each organ; all other organs share what is left of 1.

    Raises:
        InputError: If a region with a share has no tile in any dataset, or none in one that has others of them; or if
            an organ with a share has no tile.
    """
    place = {"seed": seed, "batch": batch, "start_step": start_step, "rank": rank, "ranks": ranks}
    pools = [(np.arange(len(index)), 1.0)]
    if organ_shares:
        pools = share_pools(index["organ"].tolist(), organ_shares, "organs")
    parts = []
    for members, share in pools:
        order = _joined_order(index.iloc[members], weights, balanced, region_shares or {}, place)
        parts.append((members, order, share))
    return parts[0][1] if not organ_shares else SourceSampler(parts, count=len(index), **place)


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
