"""Cleaning of masks as runs against scipy and OpenCV on pixels, in turns in one process: prints ratios, no bare times.

    python benchmarks/bench_cleaning.py [--sizes 3000 10000] [--repeats 3]

Both sides begin with runs and end with runs, as between a prediction and its row: the peers build the mask, work on its
pixels and encode it. Each result is compared with the peer's. Peak memory is that of a process of its own, as Linux
tells it. A mask beyond PEER_MAX_PX has no peer.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import subprocess
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np
from scipy import ndimage

from histofold.core.regions import fill_holes, keep_seeded, remove_small
from histofold.core.rle.runs import RunEncoder, Runs, runs_from_mask

STEPS = ("components", "hysteresis", "holes")
MIN_AREA_PX = 4000.0
MAX_HOLE_PX = 500.0
PX_A_BLOB = 25_000  # a 10000 x 10000 mask holds 4000 blobs
BAND_ROWS = 512
PEER_MAX_PX = 2e8
EVERYWHERE = np.ones((3, 3), bool)


def blob_runs(shape_hw: tuple[int, int]) -> Runs:
    """Ellipses with holes and rough edges, painted band by band, so that even a large mask is never whole."""
    rng = np.random.default_rng(0)
    height, width = shape_hw
    count = height * width // PX_A_BLOB
    centres = np.column_stack([rng.integers(0, width, count), rng.integers(0, height, count)])
    axes, angles = rng.integers(10, 90, (count, 2)), rng.uniform(0, 180, count)
    specks_HW = rng.random((BAND_ROWS, width), np.float32) < 0.001
    encoder = RunEncoder(shape_hw)
    for top in range(0, height, BAND_ROWS):
        band_HW = np.zeros((min(BAND_ROWS, height - top), width), np.uint8)
        near = np.abs(centres[:, 1] - top - BAND_ROWS // 2) < BAND_ROWS // 2 + 90
        for (x, y), (a, b), angle in zip(centres[near], axes[near], angles[near], strict=True):
            cv2.ellipse(band_HW, (int(x), int(y) - top), (int(a), int(b)), float(angle), 0, 360, 1, -1)
            cv2.ellipse(band_HW, (int(x), int(y) - top), (int(a) // 5, int(b) // 5), 0, 0, 360, 0, -1)
        encoder.add(band_HW.view(bool) ^ specks_HW[: len(band_HW)])
    return encoder.runs()


def sure_part(runs: Runs) -> Runs:
    """Seeds in about half of the blobs: every second stretch of columns."""
    return Runs(
        *(values[runs.starts // runs.line_length // 100 % 2 == 0] for values in (runs.starts, runs.lengths)),
        runs.shape_hw,
        runs.order,
    )


def clean_as_runs(step: str, runs: Runs, seeds: Runs) -> Runs:
    return {
        "components": lambda: remove_small(runs, MIN_AREA_PX),
        "hysteresis": lambda: keep_seeded(runs, seeds),
        "holes": lambda: fill_holes(runs, MAX_HOLE_PX),
    }[step]()


def clean_as_pixels(step: str, runs: Runs, seeds: Runs) -> Runs:
    """The usual way: labels by OpenCV, holes by scipy; every step decodes and encodes."""
    mask_HW = runs.to_mask()
    if step == "holes":
        holes_HW = ndimage.binary_fill_holes(mask_HW) & ~mask_HW
        labels_HW, _ = ndimage.label(holes_HW)
        return runs_from_mask(mask_HW | (holes_HW & (np.bincount(labels_HW.ravel()) <= MAX_HOLE_PX)[labels_HW]))
    _, labels_HW, stats, _ = cv2.connectedComponentsWithStats(mask_HW.view(np.uint8), connectivity=8)
    if step == "components":
        chosen = stats[:, cv2.CC_STAT_AREA] >= MIN_AREA_PX
    else:
        chosen = np.bincount(labels_HW[seeds.to_mask()], minlength=len(stats)) > 0
    chosen[0] = False
    return runs_from_mask(chosen[labels_HW])


CLEANERS = {"runs": clean_as_runs, "pixels": clean_as_pixels}


def medians(contenders: dict[str, Callable[[], Runs]], repeats: int) -> dict[str, float]:
    """Median processor seconds of each contender, in turns after one to warm up, whose results must agree."""
    first, *others = (work() for work in contenders.values())
    if any(other != first for other in others):
        raise RuntimeError("the contenders' masks differ: a ratio would mean nothing")
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            gc.collect()
            started = time.process_time()
            work()
            seconds[name].append(time.process_time() - started)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def extra_megabytes(cleaner: str, step: str, shape_hw: tuple[int, int]) -> float:
    """Peak memory of a step beyond what was in use before, in MB; measured in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", cleaner, step, *map(str, shape_hw)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def report_memory(cleaner: str, step: str, height: str, width: str) -> None:
    """The child process of `extra_megabytes`: prints one number."""
    small = blob_runs((600, 700))
    CLEANERS[cleaner](step, small, sure_part(small))
    runs = blob_runs((int(height), int(width)))
    seeds = sure_part(runs)
    gc.collect()
    # Memory that the painting of blobs gave back is returned, or it would hide what the step takes.
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as control:
        control.write("5")
    before = peak_bytes()
    CLEANERS[cleaner](step, runs, seeds)
    print((peak_bytes() - before) / 1e6)


def peak_bytes() -> int:
    """Peak memory of this process, in bytes."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def bench(shape_hw: tuple[int, int], step: str, repeats: int) -> None:
    """Print a row."""
    runs = blob_runs(shape_hw)
    seeds, pixels = sure_part(runs), shape_hw[0] * shape_hw[1]
    megabytes = extra_megabytes("runs", step, shape_hw)
    cells = f"{shape_hw[0]}x{shape_hw[1]} | {len(runs)} | {step} | "
    if pixels > PEER_MAX_PX:
        print(f"| {cells}no peer: too large | {megabytes:.0f} MB | - | {megabytes * 1e6 / pixels:.2f} |", flush=True)
        return
    times = medians({name: lambda c=clean: c(step, runs, seeds) for name, clean in CLEANERS.items()}, repeats)
    of_peer = extra_megabytes("pixels", step, shape_hw)
    ratio = times["runs"] / times["pixels"]
    print(
        f"| {cells}{ratio:.3f} | {megabytes:.0f} MB | {of_peer:.0f} MB | {megabytes * 1e6 / pixels:.2f} |", flush=True
    )


def parse_size(text: str) -> tuple[int, int]:
    """A size: 3000, or 30000x40000 (H x W)."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=parse_size, nargs="+", default=[(3000, 3000), (10000, 10000)])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        report_memory(*arguments.memory_of)
        return
    cv2.setNumThreads(1)
    print("| size | runs | step | time over pixels | extra memory | pixels' | masks |\n" + "|---" * 7 + "|")
    for shape_hw in arguments.sizes:
        for step in arguments.steps:
            bench(shape_hw, step, arguments.repeats)


if __name__ == "__main__":
    main()
