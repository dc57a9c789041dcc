"""The step of the training loop against the bare step of its network, and bf16 against fp32; prints ratios.

    python benchmarks/bench_train_step.py [--side 256] [--batch 8] [--encoder resnet34] [--steps 4] [--rounds 7]

Whole step: tiles read and augmented by workers, normalised, forward, losses, backward, clipping, optimiser, moving
average, log. Bare step: forward, one loss, backward and optimiser on one fixed batch that lies on the device. Rounds of
both are taken turn by turn, so that all see the same machine; the load of the machine is printed with the medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from histofold.competitions.registry import get_competition
from histofold.data.build import build_dataset
from histofold.models.build import build_model
from histofold.predict.devices import best_device, best_precision
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import Experiment, ModelConfig, TrainConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.train.fold import FoldSetup, prepare_fold
from histofold.train.loop import training_batches
from histofold.train.run import start_run
from histofold.train.step import training_step

PICTURES = 12


def make_setup(folder: Path, arguments: argparse.Namespace) -> FoldSetup:
    """A fold of smooth random pictures of the wanted side."""
    for name in ("images", "masks"):
        (folder / "raw" / name).mkdir(parents=True)
    side = arguments.side
    for number in range(PICTURES):
        small = np.random.default_rng(number).integers(60, 230, (side // 8, side // 8, 3), dtype=np.uint8)
        image_HWC = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "raw" / "images" / f"p{number}.png"), image_HWC)
        cv2.imwrite(str(folder / "raw" / "masks" / f"p{number}.png"), (image_HWC[:, :, 0] > 150).astype(np.uint8) * 255)
    experiment = Experiment(
        data=DataConfig(dataset=str(folder / "dataset")),
        preprocessing=Preprocessing(scale_mode="whole", whole_size=side),
        tiles=TilesConfig(folds=2),
        model=ModelConfig(encoder=arguments.encoder),
        train=TrainConfig(steps=100_000, batch=arguments.batch, workers=arguments.workers),
    )
    build_dataset(folder / "raw", get_competition("folder"), experiment, folder / "dataset", None, 1)
    return prepare_fold(experiment, "bench", folder / "runs", 0, None)


def whole_steps(setup: FoldSetup, steps: int) -> Callable[[], None]:
    """Takes the loop's steps, and looks at the loss once, as the log does."""
    run = start_run(setup, False)
    batches = training_batches(run, setup)

    def work() -> None:
        for _ in range(steps):
            losses = training_step(run, setup, batches)
            run.step += 1
        if not np.isfinite(float(losses["loss"])):
            raise ArithmeticError("the loss is no number")

    return work


def bare_steps(setup: FoldSetup, steps: int, precision: torch.dtype, channels_last: bool = True) -> Callable[[], None]:
    """Takes steps of the same network on one fixed batch."""
    device, config = best_device(), setup.experiment
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = build_model(config.model.architecture, config.model.arguments()).to(device, memory_format=memory_format)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    side = config.preprocessing.whole_size
    images_NCHW = torch.rand(config.train.batch, 3, side, side, device=device).to(memory_format=memory_format)
    masks_NCHW = (images_NCHW[:, :1] > 0.5).float()
    model.train()

    def work() -> None:
        for _ in range(steps):
            mixed = precision is not torch.float32
            with torch.autocast(device.type, precision) if mixed else nullcontext():
                logits_NCHW = model(images_NCHW)
            loss = binary_cross_entropy_with_logits(logits_NCHW.float(), masks_NCHW)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        float(loss.detach())  # waits for the device

    return work


def interleaved(works: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and own CPU seconds of each round of each, taken turn by turn after one round that is not counted.

    The CPU seconds leave out the loader's workers and whatever else the machine does.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            started, started_cpu = time.perf_counter(), time.process_time()
            work()
            if number:
                times[name].append((time.perf_counter() - started, time.process_time() - started_cpu))
    return times


def report(times: dict[str, list[tuple[float, float]]], over: str, under: str, images: int, target: str) -> None:
    """Medians, and the median of the rounds' ratios, of both clocks."""
    for clock, what in enumerate(("wall", "own CPU")):
        for name in (over, under):
            median = statistics.median(pair[clock] for pair in times[name])
            print(f"  {name:34s} {median:8.3f} s of {what} a round, {images / median:7.1f} images/s")
        pairs = zip(times[over], times[under], strict=True)
        ratios = sorted(first[clock] / second[clock] for first, second in pairs)
        ratio = statistics.median(ratios)
        print(f"  ratio by {what} {ratio:.3f} (rounds {ratios[0]:.3f} to {ratios[-1]:.3f}); target {target}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--encoder", default="resnet34")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="steps a round")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    device = best_device()
    fast = best_precision(device)
    images = arguments.steps * arguments.batch
    with tempfile.TemporaryDirectory() as folder:
        setup = make_setup(Path(folder), arguments)
        print(f"{device}, {fast}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        works = {
            "whole step of the loop": whole_steps(setup, arguments.steps),
            "bare step": bare_steps(setup, arguments.steps, fast),
        }
        print("Training step")
        report(interleaved(works, arguments.rounds), *works, images, "at most 1.03")
        if fast is torch.float32:
            print("Neither bf16 nor fp16 is in this hardware: their gain over fp32 cannot be measured here.")
        else:
            works = {
                "bare step, fp32, NCHW": bare_steps(setup, arguments.steps, torch.float32, False),
                f"bare step, {fast}, channels last": works["bare step"],
            }
            print("Precision and memory format")
            report(interleaved(works, arguments.rounds), *works, images, "at least 3.4 on a CPU with AVX-512 bf16")
        print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
