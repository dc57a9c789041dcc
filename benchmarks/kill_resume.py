"""Kill a training run at a random moment, resume it, and hold its weights against those of a run that never was killed.

    python benchmarks/kill_resume.py [--times 20] [--verbs 0] [--starved 0] [--only VERB ...] [--out DIR] [--seed 0]

--verbs is how often each verb of the chain is killed, and --starved how often each is given too little disk, and too
little memory: tests/small_kills.py, with a network of a thousand weights.

Small pictures, a small U-Net and 20 steps; the settings change from time to time: moving average, Ranger with
accumulation, plateau with equal parts and auxiliary heads. A kill may come at any moment after the first step has been
logged as begun: between states, while one is being written, or during a validation.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

import cv2
import numpy as np
import torch
from safetensors.torch import load_file

from histofold.competitions.registry import get_competition
from histofold.data.build import build_dataset
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import Experiment, ModelConfig, PredictConfig, TrainConfig
from histofold.schema.files import write_atomically
from histofold.schema.loss import LossConfig
from histofold.schema.optim import OptimConfig
from histofold.schema.parse import to_toml
from histofold.schema.preprocessing import Preprocessing

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from small_kills import VERBS, kill_once, make_stages, starve_once, use_tiny_nets

STEPS = 20
BASE = Experiment(
    preprocessing=Preprocessing(scale_mode="whole", whole_size=64),
    tiles=TilesConfig(folds=2),
    model=ModelConfig(encoder="resnet18", decoder_channels=(16, 16, 8, 8, 8)),
    train=TrainConfig(steps=STEPS, batch=2, workers=1, validate_every=4, save_every=2, precision="fp32"),
    predict=PredictConfig(views=("identity",)),
)
VARIANTS = {
    "moving average": BASE,
    "Ranger, accumulated": replace(
        BASE, optim=OptimConfig(optimizer="ranger"), train=replace(BASE.train, accumulate=2)
    ),
    "plateau, equal parts, heads": replace(
        BASE,
        optim=OptimConfig(schedule="plateau", plateau_patience=0, ema=0.0, average_from=0.3, average_every=1),
        loss=LossConfig(deep_supervision=0.2, pixel_size=0.1),
    ),
}


def make_dataset(root: Path) -> Path:
    """Eight pictures of blots, built; gives the dataset's folder."""
    if (root / "dataset").is_dir():
        return root / "dataset"
    for name in ("images", "masks"):
        (root / "raw" / name).mkdir(parents=True, exist_ok=True)
    for number in range(8):
        small = np.random.default_rng(number).integers(60, 230, (26, 32, 3), dtype=np.uint8)
        image_HWC = cv2.resize(small, (64, 52), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / "raw" / "images" / f"p{number}.png"), image_HWC)
        cv2.imwrite(str(root / "raw" / "masks" / f"p{number}.png"), (image_HWC[:, :, 0] > 150).astype(np.uint8) * 255)
    build_dataset(root / "raw", get_competition("folder"), BASE, root / "dataset", None, 1)
    return root / "dataset"


def command(folder: Path, experiment: Experiment) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "small.toml", to_toml(experiment))
    program = [sys.executable, "-m", "histofold.commands.main", "train", str(folder / "small.toml")]
    return [*program, "--runs", str(folder), "--fold", "0", "--resume"]


def kill_at_random(words: list[str], fold: Path, draws: random.Random) -> str:
    """Start a run and kill it after a random state and a random moment more; says how far it had come."""
    after, pause_s = draws.randrange(0, STEPS, 2), draws.uniform(0, 0.3)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wanted = fold / (f"state_{after:07d}.pt" if after else "experiment.toml")
    while process.poll() is None and not wanted.is_file():
        time.sleep(0.002)
    time.sleep(pause_s)
    was_running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    states = sorted(path.stem.removeprefix("state_").lstrip("0") for path in fold.glob("state_*.pt"))
    return f"killed {pause_s:.2f} s after step {after}, newest state {states[-1] if states else 'none'}" + (
        "" if was_running else " (had ended already)"
    )


def weights(fold: Path) -> dict[str, torch.Tensor]:
    return load_file(fold / "model.safetensors")


def hurt_verbs(root: Path, kills: int, starved: int, seed: int, only: Sequence[str]) -> int:
    """Kill and starve the named verbs in turn, each so often; prints what each lost, gives how many lost something.

    Raises:
        AssertionError: If a verb fails where nobody hurts it.
    """
    shutil.rmtree(root, ignore_errors=True)
    use_tiny_nets(lambda place, value: setattr(resolve_name(place.rpartition(".")[0]), place.rpartition(".")[2], value))
    stages, draws, lossy = [stage for stage in make_stages(root) if stage.verb in only], random.Random(seed), 0
    ways = {
        "killed": (kills, kill_once),
        "short of disk": (starved, partial(starve_once, kind="disk")),
        "short of memory": (starved, partial(starve_once, kind="memory")),
    }
    for way, (times, hurt) in ways.items():
        for number in range(times):
            for stage in stages:
                lost = hurt(root, stage, draws)
                lossy += bool(lost)
                print(f"{number + 1:3d}  {stage.verb} {way}: {'; '.join(lost) or 'nothing lost'}", flush=True)
    print(f"{(kills + 2 * starved) * len(stages)} trials, {lossy} with a loss")
    return lossy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--verbs", type=int, default=0)
    parser.add_argument("--starved", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(VERBS), choices=list(VERBS))
    parser.add_argument("--out", type=Path, default=Path("kill_resume"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if arguments.verbs or arguments.starved:
        return int(
            hurt_verbs(arguments.out / "verbs", arguments.verbs, arguments.starved, arguments.seed, arguments.only) > 0
        )
    data = DataConfig(dataset=str(make_dataset(arguments.out)))
    whole = {}
    for name, experiment in VARIANTS.items():
        folder = arguments.out / "whole" / name.replace(", ", "_").replace(" ", "_")
        subprocess.run(command(folder, replace(experiment, data=data)), check=True, capture_output=True)
        whole[name] = weights(folder / "small" / "fold0")
    draws, equal = random.Random(arguments.seed), 0
    for number in range(arguments.times):
        name = list(VARIANTS)[number % len(VARIANTS)]
        folder = arguments.out / "cut"
        shutil.rmtree(folder, ignore_errors=True)
        words, fold = command(folder, replace(VARIANTS[name], data=data)), folder / "small" / "fold0"
        told = kill_at_random(words, fold, draws)
        subprocess.run(words, check=True, capture_output=True)
        resumed = weights(fold)
        same = resumed.keys() == whole[name].keys() and all(torch.equal(resumed[k], whole[name][k]) for k in resumed)
        equal += same
        print(f"{number + 1:3d}  {name}: {told}: {'equal to the bit' if same else 'DIFFERENT'}", flush=True)
    print(f"{equal} of {arguments.times} runs equal to the bit")
    return 0 if equal == arguments.times else 1


if __name__ == "__main__":
    raise SystemExit(main())
