"""Cutting a slide into training tiles: against the floor (read it once, store the kept tiles once) and the usual loop.

Each run is a process of its own, which works twice; printed are medians of wall time and processor time of the second
time, as a dataset of many slides has it, and of peak memory above the imports.
The floor reads the slide in bands of 512 rows and stores the tiles that ours keeps, and does nothing else: no scaling,
no masks, no tissue. The usual loop reads the whole slide, decodes the whole mask, resizes both, slices, and writes PNGs
with `cv2.imwrite`. Targets: at most 1.3 times the floor, less than 300 MB. `--store` compares file formats instead.

    python benchmarks/bench_tiles.py [--height 8000 --width 10000] [--rounds 3] [--no-loop] [--store FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile
from bench_slide import encode, peak_mb, texture

from histofold.core.regions import merge_touching, split_runs
from histofold.core.rle.runs import Runs, decode_rle, runs_from_mask, runs_to_text
from histofold.data.tiles.cut import TileJob, cut_slides
from histofold.data.tiles.files import read_tile, write_tile
from histofold.imaging.slide import open_slide
from histofold.schema.dataset import TilesConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample

COARSE = 16  # pixels of the slide for one of the maps that say where tissue and mask lie
STORED_TILE, STRIP_ROWS = 512, 16
PIXEL_SIZE_UM = 0.5
ROWS = (("tiled", "deflate", 1.6), ("tiled", "jpeg", 1.6), ("striped", "deflate", 1.6), ("tiled", "jpeg", 0.5))


def coarse_maps(shape_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where a slide has tissue (a round section) and where mask (blobs inside it), bool at 1/16 of the size."""
    height, width = (side // COARSE for side in shape_hw)
    y, x = np.mgrid[:height, :width]
    tissue_HW = ((y / height - 0.5) / 0.47) ** 2 + ((x / width - 0.5) / 0.47) ** 2 < 1
    noise_HW = cv2.GaussianBlur(np.random.default_rng(1).normal(0, 1, (height, width)), (0, 0), 8)
    return tissue_HW, tissue_HW & (noise_HW > 1.3 * noise_HW.std())


def slide_runs(mask_HW: np.ndarray, shape_hw: tuple[int, int]) -> Runs:
    """The coarse mask at the slide's size, as column-major runs, without building it."""
    pieces = split_runs(runs_from_mask(mask_HW))
    column, row = np.divmod(pieces.starts, mask_HW.shape[0])
    starts = ((column[:, None] * COARSE + np.arange(COARSE)) * shape_hw[0] + row[:, None] * COARSE).ravel()
    order = starts.argsort()
    return merge_touching(Runs(starts[order], np.repeat(pieces.lengths * COARSE, COARSE)[order], shape_hw))


def write_slide(path: Path, shape_hw: tuple[int, int], layout: str, codec: str) -> Runs:
    """Write a slide piece by piece: texture where there is tissue, glass elsewhere; gives its mask."""
    tissue_HW, mask_HW = coarse_maps(shape_hw)
    base_HWC = texture()
    side = len(base_HWC)
    glass_HWC = np.clip(np.random.default_rng(2).normal(238, 1.5, base_HWC.shape), 0, 255).astype(np.uint8)
    height, width = (STORED_TILE, STORED_TILE) if layout == "tiled" else (STRIP_ROWS, shape_hw[1])

    def pieces() -> Iterator[bytes]:
        for y in range(0, shape_hw[0], height):
            rows = np.arange(y, y + height if layout == "tiled" else min(y + height, shape_hw[0]))
            for x in range(0, shape_hw[1], width):
                columns = np.arange(x, x + width)
                place = np.ix_(np.minimum(rows // COARSE, len(tissue_HW) - 1), columns // COARSE % tissue_HW.shape[1])
                wrapped = np.ix_(rows % side, columns % side)
                yield encode(np.where(tissue_HW[place][:, :, None], base_HWC[wrapped], glass_HWC[wrapped]), codec)

    options = {"tile": (height, width)} if layout == "tiled" else {"rowsperstrip": height}
    options |= {"photometric": "ycbcr", "subsampling": (2, 2)} if codec == "jpeg" else {"photometric": "rgb"}
    tifffile.imwrite(path, pieces(), shape=(*shape_hw, 3), dtype=np.uint8, compression=codec, **options)
    return slide_runs(mask_HW, shape_hw)


def make_job(folder: Path, runs: Runs, network_um: float) -> TileJob:
    """Tiles of 512 at a stride of 384."""
    sample = Sample(id="slide", image_path=folder / "slide.tif", pixel_size_um=PIXEL_SIZE_UM)
    preprocessing = Preprocessing(target_pixel_size_um=network_um)
    return TileJob(sample, runs, 0, preprocessing, TilesConfig(size=512, stride=384), folder / "ours")


def run_ours(job: TileJob, workers: int) -> int:
    """The tile builder; gives the number of tiles."""
    return len(cut_slides([job], workers)[0])


def run_floor(job: TileJob, workers: int) -> int:
    """Read the slide once by bands and store the kept tiles once, nothing else."""
    with open_slide(job.sample.image_path) as slide:
        for y in range(0, slide.shape_hw[0], 512):
            slide.read(slice(y, min(y + 512, slide.shape_hw[0])), slice(None))
    names = sorted(path.stem for path in (job.out / "images").iterdir())
    out = job.out.parent / "floor"
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        paused = time.perf_counter(), time.process_time()
        image_HWC, mask_HW = read_tile(job.out, name)
        PAUSES.append((time.perf_counter() - paused[0], time.process_time() - paused[1]))
        write_tile(out, name, image_HWC, mask_HW, 1)
    return len(names)


def run_loop(job: TileJob, workers: int) -> int:
    """What notebooks do."""
    image_HWC = tifffile.imread(job.sample.image_path)
    mask_HW = decode_rle(runs_to_text(job.target), image_HWC.shape[:2]).astype(np.uint8)
    zoom = PIXEL_SIZE_UM / job.preprocessing.target_pixel_size_um
    if zoom != 1:
        image_HWC = cv2.resize(image_HWC, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
        mask_HW = cv2.resize(mask_HW, image_HWC.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    size, stride, out, count = job.tiles.size, job.tiles.stride, job.out.parent / "loop", 0
    out.mkdir(exist_ok=True)
    for y in range(0, image_HWC.shape[0], stride):
        for x in range(0, image_HWC.shape[1], stride):
            tile_HWC = image_HWC[y : y + size, x : x + size]
            rest = ((0, size - tile_HWC.shape[0]), (0, size - tile_HWC.shape[1]))
            tile_HWC = np.pad(tile_HWC, (*rest, (0, 0)))
            if (cv2.cvtColor(tile_HWC, cv2.COLOR_RGB2HSV)[:, :, 1] > 18).mean() < job.tiles.min_tissue:
                continue
            cv2.imwrite(str(out / f"{y}_{x}.png"), cv2.cvtColor(tile_HWC, cv2.COLOR_RGB2BGR))
            cv2.imwrite(str(out / f"{y}_{x}_mask.png"), np.pad(mask_HW[y : y + size, x : x + size], rest))
            count += 1
    return count


PAUSES: list[tuple[float, float]] = []
KINDS: dict[str, Callable[[TileJob, int], int]] = {"ours": run_ours, "floor": run_floor, "loop": run_loop}


def measure(job_path: Path, kind: str, workers: int) -> dict[str, float]:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--job", str(job_path), "--kind", kind, "--workers", str(workers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "TQDM_DISABLE": "1"})
    return json.loads(done.stdout)


def run_job(path: Path, kind: str, workers: int) -> None:
    """The process: one run from a clean start, its figures on stdout."""
    job: TileJob = pickle.loads(path.read_bytes())
    cv2.setNumThreads(1)
    before_mb = peak_mb()
    for _ in range(2):  # compiled code is loaded once a process, not once a slide
        for part in (job.out / "parts").glob("*.json"):
            if kind == "ours":
                part.unlink()
        PAUSES.clear()
        started = time.perf_counter(), time.process_time()
        tiles = KINDS[kind](job, workers)
    seconds = time.perf_counter() - started[0] - sum(wall for wall, _ in PAUSES)
    processor = time.process_time() - started[1] - sum(used for _, used in PAUSES)
    print(json.dumps({"tiles": tiles, "seconds": seconds, "processor": processor, "mb": peak_mb() - before_mb}))


def table_row(folder: Path, shape_hw: tuple[int, int], row: tuple[str, str, float], rounds: int, loop: bool) -> str:
    """Write a slide, run everything in turn, and put the medians in cells."""
    layout, codec, network_um = row
    runs = write_slide(folder / "slide.tif", shape_hw, layout, codec)
    job_path = folder / "job.pickle"
    job_path.write_bytes(pickle.dumps(make_job(folder, runs, network_um)))
    plans = [("ours", 1), ("floor", 1), ("ours", 2), *([("loop", 1)] if loop else [])]
    found = {plan: [] for plan in plans}
    for _ in range(rounds):
        for plan in plans:
            found[plan].append(measure(job_path, *plan))
    middle = {
        plan: {key: statistics.median(each[key] for each in runs) for key in runs[0]} for plan, runs in found.items()
    }
    one, floor, two = (middle[plan] for plan in plans[:3])
    cells = [layout, codec, f"{PIXEL_SIZE_UM / network_um:.4g}", f"{one['tiles']:.0f}", f"{floor['seconds']:.1f}"]
    cells += [f"{one['processor'] / floor['processor']:.2f}", f"{two['seconds'] / floor['seconds']:.2f}"]
    cells += [f"{one['mb']:.0f} / {two['mb']:.0f}"]
    if loop:
        usual = middle[plans[3]]
        rates = [each["tiles"] / each["seconds"] for each in (one, two, usual)]
        cells += [f"{rates[0]:.0f} / {rates[1]:.0f} / {rates[2]:.0f}", f"{usual['mb']:.0f}"]
    return "| " + " | ".join(cells) + " |"


def store_codecs() -> dict[str, tuple[Callable[[np.ndarray], bytes], Callable[[bytes], np.ndarray]]]:
    """File formats of a tile by name: encoder from RGB, decoder to RGB."""
    import imagecodecs

    def of_opencv(suffix: str, *options: int) -> tuple[Callable[[np.ndarray], bytes], Callable[[bytes], np.ndarray]]:
        return (
            lambda image: cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes(),
            lambda data: cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2RGB),
        )

    def zstd_back(data: bytes) -> np.ndarray:
        return np.frombuffer(imagecodecs.zstd_decode(data), np.uint8).copy()

    level, strategy = cv2.IMWRITE_PNG_COMPRESSION, cv2.IMWRITE_PNG_STRATEGY
    return {
        "PNG level 1": of_opencv(".png", level, 1),
        "PNG level 1, run lengths": of_opencv(".png", level, 1, strategy, cv2.IMWRITE_PNG_STRATEGY_RLE),
        "PNG level 6": of_opencv(".png", level, 6),
        "PNG level 1 by libspng": (lambda image: imagecodecs.spng_encode(image, level=1), imagecodecs.spng_decode),
        "WebP lossless, fastest": (
            lambda image: imagecodecs.webp_encode(image, level=0, lossless=True, method=0),
            imagecodecs.webp_decode,
        ),
        "JPEG XL lossless, fastest": (
            lambda image: imagecodecs.jpegxl_encode(image, lossless=True, effort=1),
            imagecodecs.jpegxl_decode,
        ),
        "JPEG 95": of_opencv(".jpg", cv2.IMWRITE_JPEG_QUALITY, 95),
        "zstd 1 of raw pixels (as a zarr or npz of a slide)": (
            lambda image: imagecodecs.zstd_encode(image.tobytes(), level=1),
            zstd_back,
        ),
        "raw pixels (npy, read by a memory map)": (
            lambda image: image.tobytes(),
            lambda data: np.frombuffer(data, np.uint8).copy(),
        ),
        "TIFF uncompressed": of_opencv(".tif", cv2.IMWRITE_TIFF_COMPRESSION, 1),
        "BMP": of_opencv(".bmp"),
    }


def compare_stores(folder: Path, size: int = 512, most: int = 60) -> None:
    """Write and read back tiles of a folder's TIFF images in every format, each a file of its own, in random order."""
    tiles = []
    for path in sorted(folder.glob("*.tif*")):
        image_HWC = tifffile.imread(path)
        for y in range(0, image_HWC.shape[0] - size + 1, size):
            for x in range(0, image_HWC.shape[1] - size + 1, size):
                tiles.append(np.ascontiguousarray(image_HWC[y : y + size, x : x + size]))
    tiles = tiles[:most]
    cv2.setNumThreads(1)
    print(f"{len(tiles)} tiles of {size} x {size}\n")
    print("| format | write ms | read ms | kB | lossless |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for name, (to_bytes, to_image) in store_codecs().items():
            paths = [Path(scratch) / str(number) for number in range(len(tiles))]
            started = time.process_time()
            for path, tile_HWC in zip(paths, tiles, strict=True):
                path.write_bytes(to_bytes(tile_HWC))
            writing = time.process_time() - started
            order = np.random.default_rng(0).permutation(len(tiles))
            started = time.process_time()
            back = {number: to_image(paths[number].read_bytes()) for number in order}
            reading = time.process_time() - started
            same = all(np.array_equal(back[n].ravel(), tile.ravel()) for n, tile in enumerate(tiles))
            kilobytes = sum(path.stat().st_size for path in paths) / len(tiles) / 1e3
            times = f"{writing / len(tiles) * 1e3:.1f} | {reading / len(tiles) * 1e3:.1f}"
            print(f"| {name} | {times} | {kilobytes:.0f} | {'yes' if same else 'no'} |", flush=True)


def main() -> None:
    """Print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=8000)
    parser.add_argument("--width", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the rows to run, from 0")
    parser.add_argument("--no-loop", action="store_true", help="leave the usual loop out: it needs the whole slide")
    parser.add_argument("--store", type=Path, help="compare file formats on the TIFFs of this folder")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=tuple(KINDS), help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        run_job(arguments.job, arguments.kind, arguments.workers)
        return
    if arguments.store:
        compare_stores(arguments.store)
        return
    print(f"{arguments.height} x {arguments.width}, tiles of 512 at a stride of 384\n")
    head = ["layout", "codec", "zoom", "tiles", "floor s", "processor / floor", "wall, 2 workers / floor", "MB, 1 / 2"]
    head += [] if arguments.no_loop else ["tiles/s, 1 / 2 / loop", "loop MB"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for number, row in enumerate(ROWS):
        if arguments.only is None or number in arguments.only:
            with tempfile.TemporaryDirectory() as folder:
                shape_hw = (arguments.height, arguments.width)
                print(table_row(Path(folder), shape_hw, row, arguments.rounds, not arguments.no_loop), flush=True)


if __name__ == "__main__":
    main()
