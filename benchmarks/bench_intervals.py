"""How often 95% intervals over groups hold the true mean, and how often they find a gain where there is none.

    python benchmarks/bench_intervals.py [--draws 2000]

Scores of images are drawn with a part that their group shares, bell-shaped or bunched below 1 as Dice is, from groups
of equal or of very unequal size. The percentile bootstrap over groups, which many scripts take, stands beside ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from scipy.stats import beta, norm

from histofold.trust.intervals import grouped_interval

GROUPS = (3, 5, 8, 11, 30)
SHARED = 0.4  # part of the variance that the images of a group share
Sizes = Callable[[np.random.Generator, int], np.ndarray]
SIZES: dict[str, Sizes] = {
    "one image a group": lambda rng, count: np.ones(count, int),
    "six images a group": lambda rng, count: np.full(count, 6),
    "unequal groups": lambda rng, count: rng.geometric(0.2, count),
    "one group of half": lambda rng, count: np.append(np.full(count - 1, 4), 4 * (count - 1)),
}


def bootstrap_interval(scores: np.ndarray, groups: list[str], draws: int = 500) -> tuple[float, float]:
    """The percentile bootstrap over groups."""
    codes = np.unique(groups, return_inverse=True)[1]
    sums_G, counts_G = np.bincount(codes, scores), np.bincount(codes)
    drawn = np.random.default_rng(0).integers(len(sums_G), size=(draws, len(sums_G)))
    low, high = np.quantile(sums_G[drawn].sum(axis=1) / counts_G[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def draw_scores(rng: np.random.Generator, sizes: np.ndarray, skewed: bool) -> tuple[np.ndarray, list[str], float]:
    """Scores, groups and the true mean."""
    codes = np.repeat(np.arange(len(sizes)), sizes)
    shared = rng.normal(0, SHARED**0.5, len(sizes))[codes]
    values = shared + rng.normal(0, (1 - SHARED) ** 0.5, len(codes))
    groups = [str(code) for code in codes]
    if skewed:
        return beta.ppf(norm.cdf(values), 4, 1.2), groups, 4 / 5.2
    return 0.8 + 0.1 * values, groups, 0.8


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    rng = np.random.default_rng(0)
    print("coverage and false gains in %, ours (bootstrap); a false gain is an interval wholly above the truth")
    for name, sizes_of in SIZES.items():
        for skewed in (False, True):
            cells = []
            for count in GROUPS:
                hits, gains = np.zeros(2), np.zeros(2)
                for _ in range(draws):
                    scores, groups, truth = draw_scores(rng, sizes_of(rng, count), skewed)
                    for place, of in enumerate((grouped_interval, bootstrap_interval)):
                        low, high = of(scores, groups)
                        hits[place] += low <= truth <= high
                        gains[place] += low > truth
                hits, gains = 100 * hits / draws, 100 * gains / draws
                cells.append(f"{count} groups: {hits[0]:.1f} ({hits[1]:.1f}), {gains[0]:.1f} ({gains[1]:.1f})")
            print(f"{name}, {'bunched below 1' if skewed else 'bell-shaped'} | " + " | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
