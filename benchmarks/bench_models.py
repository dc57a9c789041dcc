"""Out-of-fold Dice of five networks from random weights, each with the same processor time.

    python benchmarks/bench_models.py --data ../shared/data/glas_hubmap_layout --seconds 400 --out bench_models

Three folds by patient, one core each (--core, so that runs may stand side by side on a machine). Steps are counted: a
few are timed first, and as many are taken as should fit into the seconds; what they took is printed.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import torch

from histofold.competitions.registry import get_competition
from histofold.data.build import build_dataset
from histofold.data.tiles.masks import masked_fraction
from histofold.models.build import build_model
from histofold.schema.augment import AugmentConfig
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import Experiment, PredictConfig, TrainConfig
from histofold.schema.network import ModelConfig
from histofold.schema.optim import OptimConfig
from histofold.schema.parse import load_toml
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.run_record import read_records
from histofold.train.loop import train_experiment
from histofold.trust.evaluate import evaluate_run

NEVER = 10**6  # validation during training would cost time that the peer does not spend
DEEPLAB = ModelConfig(architecture="deeplabv3", encoder="resnet18", output_stride=16, atrous_rates=(3, 6, 9))
NETWORKS = {
    "unet": (ModelConfig(encoder="resnet18", decoder_channels=(128, 64, 32, 24, 16)), 2e-3, 3.0),
    "unext50": (ModelConfig(architecture="unext50"), 1e-3, 3.0),
    "effunet_b0": (ModelConfig(architecture="effunet-b0"), 2e-3, 3.0),
    "deeplabv3": (DEEPLAB, 1e-3, 2.4),
    "segformer_b0": (ModelConfig(architecture="segformer"), 1e-3, 3.0),
}
"""Network, learning rate and pixel size in um: coarse, so that many small steps fit into the seconds."""
CROP_UM, TILE_UM = 300, 384
"""Sides of the crops and of the tiles that they come from; a slide has 480 x 324 um."""


def dataset_of(name: str, out: Path) -> Path:
    """The tiles of a network's scale."""
    return out / f"dataset_{NETWORKS[name][2]:g}"


def experiment_of(name: str, dataset: Path, seconds: float) -> Experiment:
    """The experiment of a network, as long as fits into the seconds."""
    model, rate, pixel_um = NETWORKS[name]
    crop, tile = (32 * round(side_um / pixel_um / 32) for side_um in (CROP_UM, TILE_UM))
    experiment = Experiment(
        data=DataConfig(dataset=str(dataset)),
        preprocessing=Preprocessing(target_pixel_size_um=pixel_um),
        tiles=TilesConfig(size=tile, stride=tile // 2, folds=3, area_bins=(0.3, 0.5, 0.7)),
        augment=AugmentConfig(preset="light", crop=crop),
        model=model,
        optim=OptimConfig(lr=rate, ema=0.98),
        train=TrainConfig(steps=1, batch=4, workers=1, validate_every=NEVER),
        predict=PredictConfig(tile=192, halo=32),
    )
    steps = max(20, round(seconds / step_seconds(experiment)))
    return replace(experiment, train=replace(experiment.train, steps=steps))


def step_seconds(experiment: Experiment, count: int = 5) -> float:
    """Seconds of a bare step, the median of a few; the loader's worker takes a little more on the same core."""
    network = build_model(experiment.model.architecture, experiment.model.arguments()).train()
    network = network.to(memory_format=torch.channels_last)
    side = experiment.augment.crop
    images_NCHW = torch.rand(experiment.train.batch, 3, side, side).to(memory_format=torch.channels_last)
    times = []
    for _ in range(count):
        started = time.monotonic()
        network(images_NCHW).square().mean().backward()
        times.append(time.monotonic() - started)
    return 1.1 * sorted(times)[count // 2]


def everything_dice(data: Path) -> float:
    """Dice of masks that cover every slide whole: what a network must beat to have learnt anything."""
    competition = get_competition("hubmap_2022")
    shares = [masked_fraction(competition.target(sample)) for sample in competition.samples(data, "train")]
    return sum(2 * share / (1 + share) for share in shares) / len(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--out", type=Path, default=Path("bench_models"))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--core", type=int, default=0)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.core})
    torch.set_num_threads(1)
    for name in options.networks:
        dataset = dataset_of(name, options.out)
        if not (dataset / "index.csv").is_file():  # the folds are drawn alike at each scale
            build_dataset(
                options.data, get_competition("hubmap_2022"), experiment_of(name, dataset, 1), dataset, None, 1
            )
    print(f"all of every slide masked: {everything_dice(options.data):.4f}")
    print(f"{'network':<14} {'steps':>6} {'s a fold':>8} {'Dice':>7} {'at 0.5':>7}")
    for name in options.networks:
        run = options.out / "runs" / name
        begun = sorted(run.glob("fold*/experiment.toml"))  # a run that was interrupted keeps its number of steps
        if begun:
            experiment = load_toml(Experiment, begun[0])
        else:
            experiment = experiment_of(name, dataset_of(name, options.out), options.seconds)
        list(train_experiment(experiment, name, options.out / "runs", None, True, None))
        summary = evaluate_run(run).summary
        records = list(read_records(run).values())
        steps, seconds = records[0].steps, sum(record.seconds for record in records) / len(records)
        print(f"{name:<14} {steps:>6} {seconds:>8.0f} {summary['dice']:>7.4f} {summary['dice_at_half']:>7.4f}")


if __name__ == "__main__":
    main()
