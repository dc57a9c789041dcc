"""Out-of-fold Dice of five networks and of a plain script, from random weights, each with the same processor time.

    python benchmarks/bench_models.py --data ../shared/data/glas_hubmap_layout --seconds 400 --out bench_models

Three folds by patient, one core each (--core, so that runs may stand side by side on a machine). Ours counts steps: a
few are timed first, and as many are taken as fit into the seconds. The peer, `peer_smp.py`, stops likewise. Both
are scored on the same slides; the difference is paired, its interval by the bootstrap over patients.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from histoseg.commands.build_dataset import build_dataset
from histoseg.commands.evaluate import evaluate_run
from histoseg.commands.train import train_experiment
from histoseg.competitions.registry import get_competition
from histoseg.models.build import build_model
from histoseg.schema.augment import AugmentConfig
from histoseg.schema.dataset import DataConfig, TilesConfig
from histoseg.schema.experiment import Experiment, PredictConfig, TrainConfig
from histoseg.schema.network import ModelConfig
from histoseg.schema.optim import OptimConfig
from histoseg.schema.preprocessing import Preprocessing
from histoseg.trust.paired import paired_difference

NEVER = 10**6  # validation during training would cost time that the peer does not spend
NETWORKS = {
    "unet": (ModelConfig(encoder="resnet18", decoder_channels=(128, 64, 32, 24, 16)), 2e-3, 160),
    "unext50": (ModelConfig(architecture="unext50"), 1e-3, 160),
    "effunet_b0": (ModelConfig(architecture="effunet-b0"), 2e-3, 160),
    "deeplabv3": (
        ModelConfig(architecture="deeplabv3", encoder="resnet18", output_stride=16, atrous_rates=(6, 12, 18)),
        2e-3,
        160,
    ),
    "segformer_b0": (ModelConfig(architecture="segformer"), 1e-3, 160),
}
"""Network, learning rate and side of the crops."""


def experiment_of(name: str, dataset: Path, seconds: float) -> Experiment:
    """The experiment of a network, as long as fits into the seconds."""
    model, rate, crop = NETWORKS[name]
    experiment = Experiment(
        data=DataConfig(dataset=str(dataset)),
        preprocessing=Preprocessing(target_pixel_size_um=1.8),
        tiles=TilesConfig(size=192, stride=96, folds=3, area_bins=(0.3, 0.5, 0.7)),
        augment=AugmentConfig(preset="light", crop=crop),
        model=model,
        optim=OptimConfig(lr=rate, ema=0.98),
        train=TrainConfig(steps=1, batch=4, workers=1, validate_every=NEVER),
        predict=PredictConfig(tile=288, halo=32),
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


def peer_scores(data: Path, folds: Path, seconds: float, out: Path) -> pd.DataFrame:
    """The plain script's out-of-fold scores; folds that are done are not run again."""
    script = Path(__file__).with_name("peer_smp.py")
    parts = []
    for fold in range(3):
        path = out / f"peer_{fold}.csv"
        if not path.is_file():
            arguments = ["--data", data, "--folds", folds, "--fold", fold, "--seconds", seconds, "--out", path]
            subprocess.run([sys.executable, str(script), *map(str, arguments)], check=True)
        parts.append(pd.read_csv(path, dtype={"id": str, "group": str}))
    return pd.concat(parts).set_index("id")


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
    dataset = options.out / "dataset"
    if not (dataset / "index.csv").is_file():
        first = experiment_of("unet", dataset, 1)
        build_dataset(options.data, get_competition("hubmap_2022"), first, dataset, None, 1)
    peer = peer_scores(options.data, dataset / "folds.csv", options.seconds, options.out)
    print(f"{'network':<14} {'steps':>6} {'Dice':>7} {'at 0.5':>7}   against the peer's {peer['dice'].mean():.4f}")
    for name in options.networks:
        run = options.out / "runs" / name
        if not (run / "summary.json").is_file():
            experiment = experiment_of(name, dataset, options.seconds)
            train_experiment(experiment, name, options.out / "runs", None, True, None)
        summary = evaluate_run(run)
        scores = pd.read_csv(run / "oof.csv", dtype={"id": str}).set_index("id")["dice"]
        difference = paired_difference(peer["dice"].tolist(), scores.loc[peer.index].tolist(), peer["group"].tolist())
        steps = int(pd.read_csv(run / "fold0" / "log.csv")["step"].iloc[-1])
        print(f"{name:<14} {steps:>6} {summary['dice']:>7.4f} {summary['dice_at_half']:>7.4f}   {difference}")


if __name__ == "__main__":
    main()
