"""Streaming a large TIFF in tiles: our reader against tifffile's zarr store, time and peak memory.

Each reader runs in a process of its own, in turn with its peer; printed are the medians and their ratio, and the peak
memory of the whole process. Of smaller slides our peak alone is taken, which should not grow with the size. Targets at
20000 x 20000: at most 0.9x and 100 MB for tiled files, at most 0.15x and 300 MB for striped deflate and JPEG.

    python benchmarks/bench_slide.py [--sizes 5000 10000 20000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import tifffile

TILE = 1024  # read at a time, in pixels
STORED_TILE = 512
STRIP_ROWS = 16
LAYOUTS = ("tiled", "striped")
CODECS = (None, "deflate", "jpeg")


def texture(side: int = 2048) -> np.ndarray:
    """Stain-like colours with fine noise, uint8 (side, side, 3): compresses about as tissue does."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 1, (side // 16, side // 16)).repeat(16, 0).repeat(16, 1)
    fine_HWC = rng.normal(0, 3, (side, side, 3))
    colours = np.array([200.0, 150.0, 195.0]) + coarse[:, :, np.newaxis] * np.array([22.0, 30.0, 14.0])
    return np.clip(colours + fine_HWC, 0, 255).astype(np.uint8)


def encode(piece_HWC: np.ndarray, codec: str | None) -> bytes:
    """A strip or tile as it is stored."""
    if codec == "deflate":
        return zlib.compress(piece_HWC.tobytes(), 6)
    if codec == "jpeg":
        return cv2.imencode(".jpg", piece_HWC[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    return piece_HWC.tobytes()


def write_slide(path: Path, size: int, layout: str, codec: str | None) -> None:
    """Write a size x size slide piece by piece, so that the writer needs no memory either."""
    base_HWC = texture()
    side = base_HWC.shape[0]
    height, width = (STORED_TILE, STORED_TILE) if layout == "tiled" else (STRIP_ROWS, size)

    @lru_cache(maxsize=256)  # the texture repeats, and so do the pieces of it
    def piece(top: int, left: int, rows: int) -> bytes:
        return encode(
            base_HWC[(np.arange(top, top + rows) % side)[:, None], np.arange(left, left + width) % side], codec
        )

    def pieces() -> Iterator[bytes]:
        for y in range(0, size, height):
            rows = height if layout == "tiled" else min(height, size - y)
            for x in range(0, size, width):
                yield piece(y % side, x % side, rows)

    options = {"tile": (height, width)} if layout == "tiled" else {"rowsperstrip": height}
    options |= {"photometric": "ycbcr", "subsampling": (2, 2)} if codec == "jpeg" else {"photometric": "rgb"}
    tifffile.imwrite(path, pieces(), shape=(size, size, 3), dtype=np.uint8, compression=codec, **options)


def open_ours(path: Path) -> Callable[[slice, slice], np.ndarray]:
    """Our reader."""
    from histofold.imaging.slide import open_slide

    return open_slide(path).read


def open_zarr(path: Path) -> Callable[[slice, slice], np.ndarray]:
    """tifffile's zarr store."""
    import zarr

    array = zarr.open(tifffile.imread(path, aszarr=True), mode="r")
    return lambda y, x: array[y, x]


def stream(path: Path, reader: str) -> dict[str, float]:
    """Read a slide tile by tile; seconds, peak memory in MB and a sum of pixels."""
    started = time.perf_counter()
    read = {"ours": open_ours, "zarr": open_zarr}[reader](path)
    with tifffile.TiffFile(path) as tiff:
        height, width = tiff.pages[0].imagelength, tiff.pages[0].imagewidth
    total = 0
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            tile_HWC = read(slice(y, min(y + TILE, height)), slice(x, min(x + TILE, width)))
            total += int(tile_HWC[::97, ::89].sum())
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_mb": peak_mb(), "sum": total}


def peak_mb() -> float:
    """Peak memory of this process; Linux's ru_maxrss would count its parent's as well."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(path: Path, reader: str) -> dict[str, float]:
    """`stream` in a process of its own."""
    command = [sys.executable, __file__, "--stream", str(path), "--reader", reader]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(path: Path, rounds: int) -> tuple[str, float]:
    """The cells of one row: seconds and peaks of both readers, and the ratio; then our peak in MB."""
    ours, peer = [], []
    for _ in range(rounds):
        ours.append(measure(path, "ours"))
        peer.append(measure(path, "zarr"))
    if ours[0]["sum"] != peer[0]["sum"]:
        raise SystemExit(f"{path}: the readers disagree about the pixels")
    times = [statistics.median(run["seconds"] for run in runs) for runs in (ours, peer)]
    peaks = [max(run["peak_mb"] for run in runs) for runs in (ours, peer)]
    cells = f"{times[0]:.2f} | {times[1]:.2f} | {times[0] / times[1]:.2f}x | {peaks[0]:.0f} | {peaks[1]:.0f}"
    return cells, peaks[0]


def run_layouts(sizes: list[int], rounds: int) -> None:
    """Write the files one by one, measure, and print both tables."""
    largest = max(sizes)
    print(f"{largest} x {largest} RGB, read in tiles of {TILE}\n")
    print("| layout | codec | ours s | zarr s | ratio | ours peak MB | zarr peak MB |\n|---|---|---|---|---|---|---|")
    peaks: dict[tuple[str, str], list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        for layout in LAYOUTS:
            for codec in CODECS:
                row = peaks.setdefault((layout, codec or "none"), [])
                for size in sorted(sizes):
                    write_slide(path, size, layout, codec)
                    if size < largest:
                        row.append(f"{measure(path, 'ours')['peak_mb']:.0f}")
                cells, peak = compare(path, rounds)
                row.append(f"{peak:.0f}")
                print(f"| {layout} | {codec or 'none'} | {cells} |", flush=True)
    print(f"\nOur peak, MB\n\n| layout | codec | {' | '.join(map(str, sorted(sizes)))} |")
    print("|---|---|" + "---|" * len(sizes))
    for (layout, codec), row in peaks.items():
        print(f"| {layout} | {codec} | {' | '.join(row)} |")


def main() -> None:
    """Measure both readers and print markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[2000, 4000, 8000], help="sides of the slides in pixels"
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each reader")
    parser.add_argument("--stream", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--reader", choices=("ours", "zarr"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stream:
        print(json.dumps(stream(arguments.stream, arguments.reader)))
        return
    if importlib.util.find_spec("zarr") is None:
        print("zarr is not installed, so there is no peer to compare with: pip install zarr")
        return
    run_layouts(arguments.sizes, arguments.rounds)


if __name__ == "__main__":
    main()
