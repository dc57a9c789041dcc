"""How often balanced sampling may draw a tile of a rare bin: its cap against others, on held-out patients.

    python benchmarks/bench_balance.py --data ../shared/data/glas_hubmap_layout --competition hubmap_2022 --um 1.24
    python benchmarks/bench_balance.py --data bench_domain_shift/train --competition folder --um 2 --crop 128

Everything but the cap is the same: bench_peer's encoder and rate, steps, crops and seeds; at 1 every tile is drawn as
often as any other. Whole-slide Dice at 0.5 of the folds' held-out slides, the mean of the seeds for each slide, paired
with that of the cap that is set, with an interval over patients. What is done is not done again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from bench_peer import FOLDS, experiment_of, held_out_dice

from histofold.competitions.registry import get_competition
from histofold.data.build import build_dataset
from histofold.schema.dataset import TilesConfig
from histofold.schema.experiment import AugmentConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.train import sampler
from histofold.train.loop import train_experiment
from histofold.trust.intervals import paired_difference

SET = sampler.MAX_DRAW_RATIO


def dice_under(options: argparse.Namespace, cap: float, seed: int) -> pd.Series:
    """Dice of each slide of the asked folds where training drew under a cap; by id."""
    peer = experiment_of("defaults", options.steps, seed, options.out)
    experiment = replace(
        peer,
        preprocessing=Preprocessing(target_pixel_size_um=options.um),
        tiles=TilesConfig(size=options.tile, stride=options.tile // 2, folds=FOLDS),
        augment=AugmentConfig(crop=options.crop),
        train=replace(peer.train, balanced=cap > 1),
    )
    dataset = Path(experiment.data.dataset)
    if not (dataset / "index.csv").is_file():
        build_dataset(options.data, get_competition(options.competition), experiment, dataset, None, 1)
        bins = pd.read_csv(dataset / "index.csv")["bin"].value_counts()
        print("tiles of each bin:", ", ".join(f"{name} {count}" for name, count in bins.items()))
    sampler.MAX_DRAW_RATIO = cap
    name = f"cap{cap:g}_{seed}"
    for fold in options.folds:
        list(train_experiment(experiment, name, options.out / "runs", fold, True, None))
    return held_out_dice(options.out / "runs" / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--competition", default="hubmap_2022")
    parser.add_argument("--um", type=float, default=1.24, help="pixel size of the network")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--tile", type=int, default=0, help="side of a stored tile; 0: 32 more than --crop")
    parser.add_argument("--out", type=Path, default=Path("bench_balance"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--caps", type=float, nargs="+", default=[1, 2, 5])
    options = parser.parse_args()
    options.tile = options.tile or options.crop + 32
    dice = {
        cap: pd.concat([dice_under(options, cap, seed) for seed in options.seeds]).groupby(level=0).mean()
        for cap in dict.fromkeys([SET, *options.caps])
    }
    of_slide = pd.read_csv(options.out / "dataset" / "folds.csv", dtype=str).set_index("id")["group"]
    own = dice.pop(SET)
    groups = of_slide.loc[own.index].tolist()
    print(f"cap {SET:g}: {np.mean(own):.4f}, {len(own)} slides of {len(set(groups))} patients")
    for cap, changed in dice.items():
        print(f"cap {cap:g}: {paired_difference(own.tolist(), changed.loc[own.index].tolist(), groups)}")


if __name__ == "__main__":
    main()
