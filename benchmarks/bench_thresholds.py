"""What a choice of thresholds costs in Dice, on images whose best threshold is known.

    python benchmarks/bench_thresholds.py [--draws 300]

Each image's Dice falls off as a parabola over the logit of the threshold, around a best one of its own. Ours (a
smoothed curve, organs drawn towards all) stands beside the highest point of the mean curve and beside the
one-standard-error rule, which takes the threshold nearest to 0.5 that is not clearly worse than the best.
"""

from __future__ import annotations

import argparse

import numpy as np

from histofold.trust.oof import THRESHOLD_GRID
from histofold.trust.thresholds import best_threshold, blended_curve

GRID = np.array(THRESHOLD_GRID)
LOGITS = np.log(GRID / (1 - GRID))
OPTIMA = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
COUNTS = (8, 15, 30, 60, 100)
ORGANS = (8, 12, 30, 60, 100)


def draw_images(count: int, best: float, rng: np.random.Generator) -> np.ndarray:
    """Dice of each image at each threshold, (N, T)."""
    own_best = np.log(best / (1 - best)) + rng.normal(0, 1.2, count)
    fall = np.exp(rng.normal(np.log(0.015), 0.8, count))
    dice = rng.beta(6, 1.5, count)[:, None] * (1 - np.minimum(1, fall[:, None] * (LOGITS - own_best[:, None]) ** 2))
    return np.clip(dice + rng.normal(0, 0.004, dice.shape), 0, 1)


def highest(scores_NT: np.ndarray) -> float:
    """The highest point of the mean curve."""
    return float(GRID[scores_NT.mean(axis=0).argmax()])


def one_standard_error(scores_NT: np.ndarray) -> float:
    """The threshold nearest to 0.5 that is not clearly worse than the best."""
    short_NT = scores_NT[:, [scores_NT.mean(axis=0).argmax()]] - scores_NT
    good = GRID[short_NT.mean(axis=0) <= short_NT.std(axis=0, ddof=1) / len(short_NT) ** 0.5 + 1e-9]
    return float(min(good, key=lambda t: (abs(t - 0.5), t)))


def loss(truth_T: np.ndarray, chosen: float) -> float:
    """Dice lost to the best threshold, in thousandths."""
    return 1000 * float(truth_T.max() - truth_T[np.abs(GRID - chosen).argmin()])


def one_organ(draws: int) -> None:
    """Print what each rule loses on images of one kind."""
    truths = {best: draw_images(40_000, best, np.random.default_rng(99)).mean(axis=0) for best in OPTIMA}
    print(f"one kind of images, best thresholds {OPTIMA}: thousandths of Dice lost")
    for count in COUNTS:
        losses = []
        for best, truth_T in truths.items():
            for draw in range(draws):
                scores_NT = draw_images(count, best, np.random.default_rng((count, int(10 * best), draw)))
                rules = (
                    best_threshold(scores_NT.mean(axis=0), GRID),
                    highest(scores_NT),
                    one_standard_error(scores_NT),
                )
                losses.append([loss(truth_T, chosen) for chosen in rules])
        ours, plain, one_error = np.mean(losses, axis=0)
        print(f"{count} images | ours {ours:.2f} | highest point {plain:.2f} | one standard error {one_error:.2f}")


def several_organs(draws: int) -> None:
    """Print what each rule loses where organs of few and of many images differ in their best threshold."""
    print(f"organs of {ORGANS} images: thousandths of Dice lost, mean over organs")
    for spread in (0.0, 0.3, 0.7, 1.2):
        losses = []
        for draw in range(draws):
            rng = np.random.default_rng((draw, int(10 * spread)))
            optima = 1 / (1 + np.exp(-rng.normal(-0.3, spread, len(ORGANS))))
            organs = [draw_images(count, best, rng) for count, best in zip(ORGANS, optima, strict=True)]
            everything_T = np.concatenate(organs).mean(axis=0)
            for scores_NT, best in zip(organs, optima, strict=True):
                truth_T = draw_images(6000, best, np.random.default_rng(7)).mean(axis=0)
                ours = best_threshold(blended_curve(scores_NT, everything_T), GRID)
                rules = (ours, highest(scores_NT), one_standard_error(scores_NT))
                losses.append([loss(truth_T, chosen) for chosen in rules])
        ours, plain, one_error = np.mean(losses, axis=0)
        words = f"logits of the best thresholds spread by {spread}"
        print(f"{words} | ours {ours:.2f} | highest point {plain:.2f} | one standard error {one_error:.2f}")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=300)
    draws = parser.parse_args().draws
    one_organ(draws)
    several_organs(draws)


if __name__ == "__main__":
    main()
