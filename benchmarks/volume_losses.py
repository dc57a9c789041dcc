"""Losses of thin vessels side by side: learned from one synthetic kidney, scored on the other.

    python benchmarks/volume_losses.py [--steps 150] [--size 24 112 96] [--slices 3] [--axes xy]

Prints, for each loss, the surface Dice of the held-out kidney at the threshold 0.5 and at the best of sixteen, which
flatters all alike, and how much of it is found to be vessel. Same seed, steps, network and tiles for all.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from histofold.competitions.sennet_2024 import Sennet2024
from histofold.core.log import logger
from histofold.core.metrics import surface_dice
from histofold.core.rle.runs import class_runs
from histofold.data.build import build_dataset
from histofold.imaging.planes import gather_volume, sorted_volumes, volume_scratch
from histofold.predict.volumes import predict_volume
from histofold.schema.augment import AugmentConfig
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import Experiment, PredictConfig, TrainConfig
from histofold.schema.loss import LossConfig
from histofold.schema.network import ModelConfig
from histofold.schema.optim import OptimConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.synth.sennet_2024.folder import make_sennet_2024
from histofold.train.loop import train_experiment
from histofold.trust.oof import THRESHOLD_GRID, finished_folds

LOSSES = {
    "bce": LossConfig(bce=1.0, dice=0.0),
    "bce 50:1": LossConfig(bce=1.0, dice=0.0, bce_positive_weight=50.0),
    "bce, ignore background": LossConfig(bce=1.0, dice=0.0, ignore="background"),
    "bce and dice": LossConfig(bce=0.5, dice=0.5),
}
HELD_OUT = "kidney_1_dense"


def small_experiment(dataset: Path, steps: int, slices: int, axes: tuple[str, ...]) -> Experiment:
    """A network of two million operations a tile, which learns the task in minutes."""
    return Experiment(
        data=DataConfig(dataset=str(dataset)),
        preprocessing=Preprocessing(target_pixel_size_um=50.0, slices=slices),
        tiles=TilesConfig(size=96, stride=48, min_tissue=0.0, folds=2, area_bins=(0.002, 0.01, 0.03), axes=axes),
        augment=AugmentConfig(preset="light", crop=64, colour=0.0, hed=0.0),
        model=ModelConfig(encoder="tu-lcnet_035", decoder_channels=(32, 32, 16, 16, 16)),
        optim=OptimConfig(lr=3e-3, ema=0.95),
        train=TrainConfig(steps=steps, batch=8, workers=0, validate_every=steps, save_every=steps),
        # As large as the crops: at 64 px the deepest maps are 2 x 2, and their statistics are those of the border.
        predict=PredictConfig(tile=64, halo=8, views=("identity",)),
    )


def scored(run: Path, root: Path) -> str:
    """The scores of a finished fold on the kidney that it did not see."""
    (fold,) = finished_folds(run)
    adapter = Sennet2024()
    slices = sorted_volumes(adapter.samples(root, "train"))[HELD_OUT]
    truth_DHW = np.stack([class_runs(adapter.target(sample))[0].to_mask() for sample in slices])
    with volume_scratch() as scratch:
        map_DHW = np.array(predict_volume(fold.ensemble(), gather_volume(slices, scratch), ("xy",), scratch))
    scores = {cut: surface_dice(map_DHW >= cut, truth_DHW) for cut in THRESHOLD_GRID}
    best = max(scores, key=lambda cut: scores[cut])
    found = ", ".join(f"{(map_DHW >= cut).mean():.1%} at {cut}" for cut in (0.5, best))
    return f"{scores[0.5]:.3f} at 0.5, {scores[best]:.3f} at {best}; vessel {truth_DHW.mean():.1%}, found {found}"


def main() -> None:
    """Train and score each loss in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--size", type=int, nargs=3, default=(24, 112, 96))
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--axes", nargs="+", default=["xy"])
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    options = parser.parse_args()
    logger.setLevel("ERROR")
    with TemporaryDirectory() as folder:
        root, dataset = Path(folder) / "raw", Path(folder) / "dataset"
        depth, height, width = options.size
        make_sennet_2024(root, shape_dhw=(depth, height, width), progress=False)
        experiment = small_experiment(dataset, options.steps, options.slices, tuple(options.axes))
        folds = build_dataset(root, Sennet2024(), experiment, dataset, None, 1).folds
        held_out = int(folds.loc[folds["id"].str.startswith(HELD_OUT), "fold"].iloc[0])
        for name in options.losses:
            chosen = replace(experiment, loss=LOSSES[name])
            runs = Path(folder) / "runs"
            list(train_experiment(chosen, name, runs, fold=held_out, resume=False, limit=None))
            print(f"{name}: {scored(runs / name, root)}", flush=True)


if __name__ == "__main__":
    main()
