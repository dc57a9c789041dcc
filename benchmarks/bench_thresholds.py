"""What a choice of thresholds costs in Dice, on images whose best threshold is known, and whether its score is honest.

    python benchmarks/bench_thresholds.py [--draws 300] [--seeds 200]

Each image's Dice falls off as a parabola over the logit of the threshold, around a best one of its own. Ours (a
smoothed curve, organs drawn towards all) stands beside the highest point of the mean curve and beside the
one-standard-error rule, which takes the threshold nearest to 0.5 that is not clearly worse than the best.

Then thresholds and a setting of cleaning, of which five values are tried, are chosen on the images of five folds: the
nested score, and that of the same choice on the images that made it, are held against a fresh test set that is
predicted with what ships.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from histofold.trust.choices import ScoredCandidates, try_values
from histofold.trust.oof import THRESHOLD_GRID
from histofold.trust.thresholds import best_threshold, blended_curve

GRID = np.array(THRESHOLD_GRID)
LOGITS = np.log(GRID / (1 - GRID))
OPTIMA = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
COUNTS = (8, 15, 30, 60, 100)
ORGANS = (8, 12, 30, 60, 100)
FOLDS, GROUP, VALUES, FRESH = 5, 2, 5, 1500


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


def draw_values(count: int, effects: dict[int, float], rng: np.random.Generator) -> dict[int, np.ndarray]:
    """Dice of each image at each threshold under each value of a setting; the first has no effect."""
    own_NT = draw_images(count, 0.4, rng)
    shared_N1 = np.repeat(rng.normal(0, 0.02, (-(-count // GROUP), 1)), GROUP, axis=0)[:count]
    return {
        value: np.clip(own_NT + (effect + shared_N1 + rng.normal(0, 0.03, (count, 1))) * (value > 0), 0, 1)
        for value, effect in effects.items()
    }


def honesty(seeds: int, count: int, spread: float) -> None:
    """Print how far scores lie from a fresh test set, mean over seeds with its standard error.

    Args:
        seeds: How many.
        count: Images that choose.
        spread: Of the true effects of the values that are tried.
    """
    errors = []
    for seed in range(seeds):
        rng = np.random.default_rng((seed, count, int(1000 * spread)))
        effects = {value: rng.normal(0, spread) if value else 0.0 for value in range(VALUES)}
        facts = pd.DataFrame({"fold": np.arange(count) // GROUP % FOLDS, "organ": "", "source": ""})
        facts["group"] = [str(place // GROUP) for place in range(count)]
        drawn = draw_values(count, effects, rng)
        tables = {value: pd.concat([facts, pd.DataFrame(d, columns=list(GRID))], axis=1) for value, d in drawn.items()}
        scored, fresh = ScoredCandidates(tables, list(GRID)), draw_values(FRESH, effects, rng)

        def proved(folds: frozenset[int], scored: ScoredCandidates[int] = scored) -> int:
            trial = try_values(scored, "value", {value: value for value in range(VALUES)}, 0, folds)
            return int(trial.best if trial.taken else 0)

        def best(folds: frozenset[int], scored: ScoredCandidates[int] = scored) -> int:
            return scored.best(list(range(VALUES)), folds)

        row = []
        for choose in (proved, best):
            value = choose(scored.folds)
            cut = scored.thresholds(value, scored.folds)["default"]
            truth = fresh[value][:, np.abs(GRID - cut).argmin()].mean()
            same = scored.scores(value, scored.folds, scored.folds).mean()
            row += [scored.nested_scores(choose).mean() - truth, same - truth, truth]
        errors.append(row)
    means, errors_of = 1000 * np.mean(errors, axis=0), 1000 * np.std(errors, axis=0, ddof=1) / seeds**0.5
    words = [f"nested {means[k]:+.2f} ({errors_of[k]:.2f}), same images {means[k + 1]:+.2f}" for k in (0, 3)]
    print(
        f"{count} images, effects spread by {spread:g} | proved gains: {words[0]} | highest mean: {words[1]} | "
        f"proved less highest on the fresh set {means[2] - means[5]:+.2f}",
        flush=True,
    )


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=200)
    options = parser.parse_args()
    one_organ(options.draws)
    several_organs(options.draws)
    print("thousandths of Dice above a fresh test set (standard error of the mean)")
    for spread in (0.0, 0.01):
        honesty(options.seeds, 60, spread)


if __name__ == "__main__":
    main()
