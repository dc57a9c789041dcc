"""Run-length codes against their peers, measured in turns in one process: prints ratios, never bare times.

    python benchmarks/bench_rle.py [--sizes 3000 10000 30000x40000] [--repeats 5]

Peers: careful numpy (one flat copy, one comparison, join), pycocotools where it is installed (its own compressed
format, so less work), and a plain numba loop over the transposed mask. Peak memory is that of a process of its own.
Noise is left out above 200 megapixels, and a peer where it would need more than MAX_PEER_BYTES.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numba
import numpy as np

from histofold.core.rle.runs import decode_rle, decode_rle_window, encode_rle, parse_rle, runs_to_window

try:
    from pycocotools import mask as coco_mask
except ImportError:
    coco_mask = None

MAX_PEER_BYTES = 8e9
NOISE_MAX_PX = 2e8
KINDS = ("blobs", "empty", "full", "noise")
PEERS = ("careful numpy", "pycocotools", "plain numba")
WINDOW_PX = 1024


def make_mask(kind: str, shape_hw: tuple[int, int]) -> np.ndarray:
    """A mask, bool (H, W); blobs are ellipses of some hundred pixels, about a tenth of the area."""
    rng = np.random.default_rng(0)
    if kind == "noise":
        return rng.integers(0, 2, shape_hw, dtype=bool)
    mask_HW = np.full(shape_hw, kind == "full", np.uint8)
    height, width = shape_hw
    for _ in range(height * width // 150_000 if kind == "blobs" else 0):
        centre = int(rng.integers(width)), int(rng.integers(height))
        axes = int(rng.integers(30, 130)), int(rng.integers(30, 130))
        cv2.ellipse(mask_HW, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return mask_HW.view(bool)


def encode_numpy(mask_HW: np.ndarray) -> str:
    """The careful numpy way: pad the column-major copy, compare neighbours, join."""
    padded = np.zeros(mask_HW.size + 2, bool)
    padded[1:-1] = mask_HW.flatten(order="F")
    bounds = np.flatnonzero(padded[1:] != padded[:-1]) + 1
    bounds[1::2] -= bounds[::2]
    return " ".join(map(str, bounds.tolist()))


@numba.njit(nogil=True)
def list_runs_plainly(flat: np.ndarray) -> list[int]:
    """Start, length, start, length...: one pixel after the other."""
    numbers = [np.int64(0) for _ in range(0)]
    length = 0
    for position in range(flat.size):
        if flat[position]:
            length += 1
        elif length:
            numbers.append(position - length + 1)
            numbers.append(length)
            length = 0
    if length:
        numbers.append(flat.size - length + 1)
        numbers.append(length)
    return numbers


def encode_numba(mask_HW: np.ndarray) -> str:
    """The plain numba way: transpose, loop, join."""
    return " ".join(map(str, list_runs_plainly(mask_HW.flatten(order="F"))))


def encode_coco(mask_HW: np.ndarray) -> Any:
    """The pycocotools way, which wants a column-major mask."""
    return coco_mask.encode(np.asfortranarray(mask_HW.view(np.uint8)))


def decode_numpy(text: str, shape_hw: tuple[int, int]) -> np.ndarray:
    """The careful numpy way: fill slices of a flat mask, then bring it to C order."""
    numbers = np.array(text.split(), np.int64)
    flat = np.zeros(shape_hw[0] * shape_hw[1], bool)
    starts = numbers[::2] - 1
    for start, end in zip(starts.tolist(), (starts + numbers[1::2]).tolist(), strict=True):
        flat[start:end] = True
    return np.ascontiguousarray(flat.reshape(shape_hw, order="F"))


def medians(contenders: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each contender, run in turns after one run to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, run in contenders.items():
            gc.collect()
            started = time.perf_counter()
            run()
            if turn or repeats == 1:
                seconds[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def encode_ratios(mask_HW: np.ndarray, runs: int, repeats: int) -> dict[str, float]:
    """Our time over each peer's."""
    contenders: dict[str, Callable[[], Any]] = {"ours": lambda: encode_rle(mask_HW)}
    if peer_bytes(mask_HW.size, runs) < MAX_PEER_BYTES:
        contenders["careful numpy"] = lambda: encode_numpy(mask_HW)
        contenders["plain numba"] = lambda: encode_numba(mask_HW)
    if coco_mask is not None:
        contenders["pycocotools"] = lambda: encode_coco(mask_HW)
    return over_peers(medians(contenders, repeats), "ours")


def decode_ratios(mask_HW: np.ndarray, text: str, repeats: int) -> dict[str, dict[str, float]]:
    """Our times over each peer's full decode: of a full decode, and of one window from the text and from runs."""
    shape_hw = mask_HW.shape
    top, left = (side // 3 for side in shape_hw)
    window = (top, left, min(top + WINDOW_PX, shape_hw[0]), min(left + WINDOW_PX, shape_hw[1]))
    runs = parse_rle(text, shape_hw)
    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: decode_rle(text, shape_hw),
        "window": lambda: decode_rle_window(text, shape_hw, window),
        "window of runs": lambda: runs_to_window(runs, window),
    }
    if peer_bytes(mask_HW.size, len(runs)) < MAX_PEER_BYTES:
        contenders["careful numpy"] = lambda: decode_numpy(text, shape_hw)
    if coco_mask is not None:
        compressed = encode_coco(mask_HW)
        contenders["pycocotools"] = lambda: np.ascontiguousarray(coco_mask.decode(compressed))
    seconds = medians(contenders, repeats)
    ratios = {name: over_peers(seconds, name) for name in ("ours", "window", "window of runs")}
    for name in ("window", "window of runs"):
        ratios[name]["our full decode"] = seconds[name] / seconds["ours"]
    return ratios


def over_peers(seconds: dict[str, float], name: str) -> dict[str, float]:
    """One contender's time over that of every peer that was measured."""
    return {peer: seconds[name] / seconds[peer] for peer in PEERS if peer in seconds}


def peer_bytes(pixels: int, runs: int) -> float:
    """About what careful numpy and plain numba need: flat copies, and Python's integers and strings."""
    return 4 * pixels + 2 * runs * 110


def extra_memory(encoder: str, kind: str, shape_hw: tuple[int, int]) -> float:
    """Peak memory of encoding beyond what was in use before, in masks; measured in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", encoder, kind, *map(str, shape_hw)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def reset_peak() -> None:
    """Forget the peak so far, where Linux allows it; elsewhere the peak of imports may hide a small one."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as control:
        control.write("5")


def peak_bytes() -> int:
    """Peak memory of this process; on Linux not by getrusage, which counts what the parent had at the fork."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def report_memory(encoder: str, kind: str, height: str, width: str) -> None:
    """The child process of `extra_memory`: prints one number."""
    encode = {"ours": encode_rle, "numpy": encode_numpy}[encoder]
    encode(np.eye(300, 400, dtype=bool))
    encode(np.random.default_rng(0).random((300, 400)) < 0.5)
    mask_HW = make_mask(kind, (int(height), int(width)))
    reset_peak()
    before = peak_bytes()
    encode(mask_HW)
    print((peak_bytes() - before) / mask_HW.size)


def print_row(shape_hw: tuple[int, int], kind: str, work: str, ratios: dict[str, float], target: str) -> None:
    """One row of the table."""
    cells = [f"{ratios[peer]:.3f}" if peer in ratios else "-" for peer in (*PEERS, "our full decode")]
    print(f"| {shape_hw[0]}x{shape_hw[1]} | {kind} | {work} | {' | '.join(cells)} | {target} |", flush=True)


def bench(shape_hw: tuple[int, int], kind: str, repeats: int) -> None:
    """Print all rows of one mask."""
    pixels = shape_hw[0] * shape_hw[1]
    mask_HW = make_mask(kind, shape_hw)
    text = encode_rle(mask_HW)
    runs = len(parse_rle(text, shape_hw))
    if kind == "noise":
        target = "0.10 of plain numba"
    else:
        target = "0.12" if pixels < 5e7 else "0.05" if pixels < 5e8 else "0.04"
    print_row(shape_hw, kind, "encode", encode_ratios(mask_HW, runs, repeats), target)
    decoded = decode_ratios(mask_HW, text, repeats)
    stated = kind != "noise" and pixels >= 5e7
    print_row(shape_hw, kind, "decode to C order", decoded["ours"], "0.10" if stated else "")
    for name in ("window", "window of runs"):
        print_row(shape_hw, kind, f"{name}, {WINDOW_PX}, / full decode", decoded[name], "0.05" if stated else "")
    del mask_HW, text
    memory = f"ours {extra_memory('ours', kind, shape_hw):.3f} masks"
    if peer_bytes(pixels, runs) < MAX_PEER_BYTES:
        memory += f", careful numpy {extra_memory('numpy', kind, shape_hw):.3f}"
    limit = "" if kind == "noise" else "0.10 masks"
    print(
        f"| {shape_hw[0]}x{shape_hw[1]} | {kind} | encode, peak extra memory: {memory} | | | | | {limit} |", flush=True
    )


def parse_size(text: str) -> tuple[int, int]:
    """A size: 3000, or 30000x40000 (H x W)."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=parse_size, nargs="+", default=[(3000, 3000), (10000, 10000)])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        report_memory(*arguments.memory_of)
        return
    print(f"| size | mask | work | {' | '.join(f'over {peer}' for peer in (*PEERS, 'our full decode'))} | target |")
    print("|---" * 8 + "|")
    for shape_hw in arguments.sizes:
        for kind in arguments.kinds:
            if kind == "noise" and shape_hw[0] * shape_hw[1] > NOISE_MAX_PX:
                print(f"| {shape_hw[0]}x{shape_hw[1]} | noise | left out: its text alone takes gigabytes | | | | | |")
                continue
            bench(shape_hw, kind, arguments.repeats)


if __name__ == "__main__":
    main()
