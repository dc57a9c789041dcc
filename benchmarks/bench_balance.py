"""How often balanced sampling may draw a tile of a rare bin: its cap against others, on held-out patients.

    python benchmarks/bench_balance.py --data ../shared/data/glas_hubmap_layout --competition hubmap_2022 --um 1.24
    python benchmarks/bench_balance.py --data bench_domain_shift/train --competition folder --um 2 --crop 128

Everything but the cap is the same: the shipped encoder, steps, crops, rate and seeds; at 1 every tile is drawn as often
as any other. Whole-slide Dice at 0.5 of the folds' held-out slides, the mean of the seeds for each slide, paired with
that of the cap that is set, with an interval over patients. What is done is not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from histofold.competitions.registry import get_competition
from histofold.data.build import build_dataset
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import AugmentConfig, Experiment, ModelConfig, OptimConfig, TrainConfig
from histofold.schema.network import SHIPPED_ENCODER
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.run_record import read_records
from histofold.train import sampler
from histofold.train.loop import train_experiment
from histofold.trust.intervals import paired_difference

SET = sampler.MAX_DRAW_RATIO
FOLDS = 3
NEVER = 10**6  # validation during training would cost time and changes nothing


def held_out_dice(options: argparse.Namespace, cap: float, seed: int) -> pd.Series:
    """Dice of each slide of the asked folds where training drew under a cap; by id."""
    experiment = Experiment(
        data=DataConfig(dataset=str(options.out / "dataset")),
        preprocessing=Preprocessing(target_pixel_size_um=options.um),
        tiles=TilesConfig(size=options.tile, stride=options.tile // 2, folds=FOLDS),
        augment=AugmentConfig(crop=options.crop),
        model=ModelConfig(encoder=SHIPPED_ENCODER, encoder_weights="shipped"),
        optim=OptimConfig(lr=1.5e-3, encoder_lr_factor=0.3),
        train=TrainConfig(steps=options.steps, seed=seed, workers=1, validate_every=NEVER, balanced=cap > 1),
    )
    dataset = options.out / "dataset"
    if not (dataset / "index.csv").is_file():
        build_dataset(options.data, get_competition(options.competition), experiment, dataset, None, 1)
        bins = pd.read_csv(dataset / "index.csv")["bin"].value_counts()
        print("tiles of each bin:", ", ".join(f"{name} {count}" for name, count in bins.items()))
    sampler.MAX_DRAW_RATIO = cap
    name = f"cap{cap:g}_{seed}"
    for fold in options.folds:
        list(train_experiment(experiment, name, options.out / "runs", fold, True, None))
    records = read_records(options.out / "runs" / name).values()
    return pd.Series({key: dice for record in records for key, dice in record.dice_by_id.items()})


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
        cap: pd.concat([held_out_dice(options, cap, seed) for seed in options.seeds]).groupby(level=0).mean()
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
