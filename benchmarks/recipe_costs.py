"""What each recipe of experiments/ costs: arithmetic of its training, and GPU-hours where a speed is assumed.

    python benchmarks/recipe_costs.py [experiments/*.toml]

The operations of a forward pass are counted on the meta device, so that nothing is computed; a training step is taken
as three forward passes. The hours are an estimate, not a measurement: they assume that a card reaches a quarter of its
fp16 peak.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from histofold.models.build import build_model
from histofold.schema.experiment import Experiment
from histofold.schema.network import is_detector
from histofold.schema.parse import load_toml, read_toml
from histofold.schema.sweep import load_sweep

PEAK_TFLOPS = {"T4": 65.0, "A100": 312.0}
"""Dense fp16 peak with tensor cores, by the maker's data sheets."""
REACHED_SHARE = 0.25
PASSES_A_STEP = 3  # forward, and twice as much backward


def step_tflop(experiment: Experiment) -> float:
    """Floating-point operations of an optimisation step, in units of 10^12."""
    spec, train = experiment.preprocessing, experiment.train
    size = spec.whole_size if spec.scale_mode == "whole" else experiment.tiles.size
    side = min(experiment.augment.crop or size, size)
    with torch.device("meta"):
        model = build_model(experiment.model.architecture, experiment.model.arguments()).eval()
        images_NCHW = torch.empty(1, 3, side, side)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(images_NCHW)
    return PASSES_A_STEP * counter.get_total_flops() * train.batch * train.accumulate / 1e12


def trained_runs(path: Path, folds: int) -> tuple[Experiment, int]:
    """The experiment of a file, and how many times it is trained."""
    data = read_toml(path)
    if "space" in data:
        sweep = load_sweep(path)
        return sweep.experiment, len(sweep.folds) * sweep.size()
    return load_toml(Experiment, path), folds


def main() -> None:
    paths = [Path(name) for name in sys.argv[1:]] or sorted(Path("experiments").glob("*.toml"))
    cards = " ".join(f"{name + ' h':>8}" for name in PEAK_TFLOPS)
    print(f"{'recipe':<28} {'TFLOP a step':>13} {'steps':>7} {'runs':>5} {cards}")
    for path in paths:
        if "runs" in read_toml(path):
            continue  # an ensemble is packaged, not trained
        experiment, runs = trained_runs(path, load_toml_folds(path))
        if experiment.train.steps == 0:
            continue  # scored as it was published
        if is_detector(experiment.model.architecture):
            print(f"{path.stem:<28} a detector: its operations go with what it finds, and are not counted")
            continue
        each, steps = step_tflop(experiment), experiment.train.steps
        hours = [each * steps * runs / (peak * REACHED_SHARE) / 3600 for peak in PEAK_TFLOPS.values()]
        print(f"{path.stem:<28} {each:>13.2f} {steps:>7} {runs:>5} " + " ".join(f"{value:>8.1f}" for value in hours))


def load_toml_folds(path: Path) -> int:
    """Folds of an experiment file; the main competition's folds.csv has five, and what is held out once is one."""
    tiles = read_toml(path).get("tiles", {})
    return 1 if tiles.get("holdout") else int(tiles.get("folds", 5))


if __name__ == "__main__":
    main()
