"""Images a second of the loader: uint8 against float32 that workers normalise, and what 16 workers would give.

python benchmarks/bench_loader.py [--workers 2] [--rounds 5] [--preset medium]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import albumentations
import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from histofold.core.stain import image_of_densities
from histofold.data.tiles.files import write_tile
from histofold.imaging.shift import HAEMATOXYLIN, SECOND_STAINS
from histofold.schema.augment import AugmentConfig
from histofold.train.augment.cutmix import CutMix
from histofold.train.augment.pipeline import Augmenter
from histofold.train.dataset import TileDataset, make_loader
from histofold.train.sampler import BalancedSampler

TILES, SIDE, BATCH = 64, 512, 8
GPU_IMAGES_PER_S, GPU_WORKERS = 1500, 16


class FloatTiles(Dataset[dict[str, torch.Tensor]]):
    """The same examples as the usual script ships them: normalised float32 CHW, the mask float32 1HW."""

    def __init__(self, tiles: TileDataset) -> None:
        self._tiles, self._normalise = tiles, albumentations.Normalize()

    def __getitem__(self, draw: tuple[int, int, int]) -> dict[str, torch.Tensor]:
        example = self._tiles[draw]
        image_HWC = self._normalise(image=example["image"].numpy())["image"]
        image_CHW = torch.from_numpy(image_HWC.transpose(2, 0, 1)).contiguous()
        return {**example, "image": image_CHW, "mask": example["mask"][None].float()}


def make_tiles(folder: Path) -> pd.DataFrame:
    """Tiles of smooth tissue of two stains with a mask of one of them; gives their index, of one organ on 8 slides."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(TILES):
        noise_HW2 = cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE, 2)), (0, 0), 6)
        amounts_HW2 = np.clip(0.3 + 0.4 * noise_HW2 / noise_HW2.std(), 0, 2)
        image_HWC = image_of_densities((amounts_HW2 @ np.stack([HAEMATOXYLIN, SECOND_STAINS[0]])).astype(np.float32))
        write_tile(folder, f"t{number}", image_HWC, (amounts_HW2[..., 0] > 0.5).astype(np.uint8), 1)
    slides = [f"s{number % 8}" for number in range(TILES)]
    return pd.DataFrame({"tile_id": [f"t{n}" for n in range(TILES)], "id": slides, "organ": "lung", "bin": "some"})


def make_dataset(folder: Path, index: pd.DataFrame, crop: int, preset: str, **options: object) -> TileDataset:
    """The loader's dataset with a preset of the augmentation."""
    config = AugmentConfig(preset=preset, crop=crop, stain_template=0.0)  # type: ignore[arg-type]
    return TileDataset(folder, index, Augmenter(config, SIDE), 0, **options)  # type: ignore[arg-type]


def loader_rate(dataset: Dataset[dict[str, torch.Tensor]], bins: pd.Series, workers: int, batches: int) -> float:
    """Images a second that the main process gets, after the workers have started."""
    loader = make_loader(dataset, BalancedSampler(bins, 0, True, BATCH, 0), BATCH, workers)  # type: ignore[arg-type]
    stream = iter(loader)
    for batch in islice(stream, workers):
        assert len(batch["image"]) == BATCH
    started = time.perf_counter()
    for batch in islice(stream, batches):
        assert len(batch["image"]) == BATCH
    return batches * BATCH / (time.perf_counter() - started)


def worker_milliseconds(works: dict[str, Callable[[int], object]], rounds: int, images: int = 16) -> dict[str, float]:
    """Median processor time of an image in one process; the works take turns, so that other load meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds):
        for name, work in works.items():
            work(0)
            started = time.process_time()
            for number in range(images):
                work(turn * images + number)
            times[name].append((time.process_time() - started) / images * 1e3)
    return {name: statistics.median(each) for name, each in times.items()}


def print_loaders(folder: Path, index: pd.DataFrame, arguments: argparse.Namespace) -> None:
    """uint8 against float32 loaders, interleaved."""
    print(f"\n{arguments.workers} workers, batch {BATCH}, preset {arguments.preset}, tiles of {SIDE}\n")
    print("| crop | augmented | uint8, img/s | float32, img/s | ratio |\n|---|---|---|---|---|")
    for crop in (512, 256):
        for is_augmented in (True, False):
            plain = make_dataset(folder, index, crop, arguments.preset)
            if not is_augmented:
                off = AugmentConfig(flip=0, rotate90=0, affine=0, sharpness=0, colour=0, hed=0, crop=crop)
                plain = TileDataset(folder, index, Augmenter(off, SIDE), 0)
            peers = {"uint8": plain, "float32": FloatTiles(plain)}
            rates: dict[str, list[float]] = {name: [] for name in peers}
            for _ in range(arguments.rounds):
                for name, dataset in peers.items():
                    rates[name].append(loader_rate(dataset, index["bin"], arguments.workers, arguments.batches))
            ours, theirs = (statistics.median(rates[name]) for name in ("uint8", "float32"))
            told = "yes" if is_augmented else "no"
            print(f"| {crop} | {told} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} |")


def print_workers(folder: Path, index: pd.DataFrame, arguments: argparse.Namespace) -> None:
    """Processor time of an image in one worker, and what many workers would give if each had a core of its own."""
    cutmix = CutMix(index["organ"], index["id"], probability=0.5, area=0.5)
    plain = make_dataset(folder, index, SIDE, arguments.preset)
    works: dict[str, Callable[[int], object]] = {}
    for crop in (512, 256):
        variants = {"": {}, ", glass ignored": {"ignore_blank": True}, ", CutMix at 0.5": {"cutmix": cutmix}}
        for name, options in variants.items():
            dataset = make_dataset(folder, index, crop, arguments.preset, **options)
            works[f"{arguments.preset}, crop {crop}{name}"] = lambda n, d=dataset: d[n % TILES, 0, n]
    works["reading alone"] = lambda n: plain.read(n % TILES)
    needed = GPU_IMAGES_PER_S / GPU_WORKERS
    print(f"\n| work | ms an image | img/s a worker | {GPU_WORKERS} workers, extrapolated | of {GPU_IMAGES_PER_S} |")
    print("|---|---|---|---|---|")
    for name, each in worker_milliseconds(works, arguments.rounds).items():
        rate = 1e3 / each
        print(f"| {name} | {each:.2f} | {rate:.0f} | {rate * GPU_WORKERS:.0f} | {rate / needed:.2f} |")
    print(
        f"\nThe extrapolation multiplies one worker's processor time by {GPU_WORKERS}: it knows nothing of memory "
        "bandwidth, disks that are slower than the page cache, or the main process."
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes of each loader")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each")
    parser.add_argument("--batches", type=int, default=24, help="batches of a round")
    parser.add_argument("--preset", default="medium", help="light, medium or strong")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores; load before: {', '.join(f'{load:.1f}' for load in os.getloadavg())}")
    with tempfile.TemporaryDirectory() as name:
        index = make_tiles(Path(name))
        print_loaders(Path(name), index, arguments)
        print_workers(Path(name), index, arguments)
    print(f"\nload after: {', '.join(f'{load:.1f}' for load in os.getloadavg())}")


if __name__ == "__main__":
    main()
