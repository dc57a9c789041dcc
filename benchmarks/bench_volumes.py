"""Volumes: components against scipy, three axes over their bare forward passes, memory at two depths, 40 GB of slices.

    python benchmarks/bench_volumes.py [--side 192] [--depth 64]

Prints ratios of one run, and peaks of memory that numpy and torch take beyond what was there before. The 40 GB are
files whose headers are there and whose pixels are holes, so that they need a disk of some MB.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import tifffile
import torch
from scipy import ndimage

from histofold.competitions.sennet_2024 import Sennet2024
from histofold.core.metrics import surface_dice
from histofold.core.metrics.surface import _surface_areas
from histofold.core.rle.runs import runs_from_mask
from histofold.core.volumes import clean_volume
from histofold.imaging.planes import GreyVolume
from histofold.imaging.slide import open_sample
from histofold.models.build import build_model
from histofold.predict.image import forward_batch
from histofold.predict.stages import Networks, Stage, stages_of
from histofold.predict.tiled import TileBatch
from histofold.predict.volumes import predict_volume
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.volumes import VOLUME_AXES

HOST_SHAPE = (1035, 1706, 1510)


def draw_vessels(shape: tuple[int, int, int], count: int = 60, seed: int = 0) -> np.ndarray:
    """Tubes that wander through a volume, bool (D, H, W)."""
    rng = np.random.default_rng(seed)
    walks = rng.normal(0, 1.5, (count, 400, 3)).cumsum(axis=1) + rng.random((count, 1, 3)) * shape
    places = np.rint(walks.reshape(-1, 3)).astype(int)
    places = places[((places >= 0) & (places < shape)).all(axis=1)]
    volume_DHW = np.zeros(shape, bool)
    volume_DHW[tuple(places.T)] = True
    return ndimage.binary_dilation(volume_DHW, iterations=2)


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of a call, the best of three, and its peak of memory in MB."""
    call()
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(seconds), peak / 1e6


def components(shape: tuple[int, int, int]) -> None:
    """The component filter on runs against labelled voxels."""
    volume_DHW = draw_vessels(shape)
    slices = [runs_from_mask(mask_HW) for mask_HW in volume_DHW]

    def by_voxels() -> np.ndarray:
        labels_DHW, _ = ndimage.label(volume_DHW, np.ones((3, 3, 3)))
        return np.asarray((np.bincount(labels_DHW.ravel()) >= 1000)[labels_DHW] & volume_DHW)

    ours, peer = timed(lambda: clean_volume(slices, None, 1000)), timed(by_voxels)
    found = np.stack([runs.to_mask() for runs in clean_volume(slices, None, 1000)])
    assert np.array_equal(found, by_voxels())
    print(f"components of {shape}: time {ours[0] / peer[0]:.2f} of scipy's, {ours[1]:.0f} MB and {peer[1]:.0f} MB")


def surface_by_arrays(first_DHW: np.ndarray, second_DHW: np.ndarray) -> float:
    """Surface Dice as it is written down: the areas of all cells of 2 x 2 x 2 voxels of the whole volumes at once."""
    areas = _surface_areas().astype(np.float32)
    area_DHW = []
    for mask_DHW in (first_DHW, second_DHW):
        padded_DHW = np.pad(mask_DHW, 1).astype(np.uint8)
        codes_DHW = np.zeros([side - 1 for side in padded_DHW.shape], np.uint8)
        for bit, place in enumerate(itertools.product((slice(None, -1), slice(1, None)), repeat=3)):
            codes_DHW |= padded_DHW[place] << (7 - bit)
        area_DHW.append(areas[codes_DHW])
    both_DHW = (area_DHW[0] > 0) & (area_DHW[1] > 0)
    return float(
        sum(area[both_DHW].sum(dtype=np.float64) for area in area_DHW)
        / sum(area.sum(dtype=np.float64) for area in area_DHW)
    )


def surface_by_distances(first_DHW: np.ndarray, second_DHW: np.ndarray) -> float:
    """Surface Dice at a tolerance of 0 by scipy, as packages of surface distances have it.

    Codes of cells come from a correlation; from each cell with surface the distance to the other surface is taken.
    """
    kernel = (1 << np.arange(8)[::-1]).reshape(2, 2, 2)
    areas = _surface_areas()
    codes = [ndimage.correlate(np.pad(mask_DHW, 1).astype(np.uint8), kernel) for mask_DHW in (first_DHW, second_DHW)]
    borders = [(code_DHW != 0) & (code_DHW != 255) for code_DHW in codes]
    distances = [ndimage.distance_transform_edt(~border_DHW) for border_DHW in borders]
    shared = total = 0.0
    for code_DHW, border_DHW, other_DHW in zip(codes, borders, distances[::-1], strict=True):
        area_P = areas[code_DHW[border_DHW]]
        shared += area_P[other_DHW[border_DHW] <= 0].sum()
        total += area_P.sum()
    return float(shared / total)


def surface(shape: tuple[int, int, int]) -> None:
    """Surface Dice slice by slice over two ways on whole arrays, and over reading both volumes from disk."""
    first, second = draw_vessels(shape, seed=1), draw_vessels(shape, seed=2)
    metric = timed(lambda: surface_dice(first, second))
    for way in (surface_by_arrays, surface_by_distances):
        assert abs(way(first, second) - surface_dice(first, second)) < 1e-6
        plain = timed(lambda way=way: way(first, second))
        print(f"surface Dice of {shape}: {metric[0] / plain[0]:.3f} of {way.__name__}, which takes {plain[1]:.0f} MB")
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.tif" for number in range(2 * len(first))]
        for path, mask_HW in zip(paths, [*first, *second], strict=True):
            cv2.imwrite(str(path), mask_HW.astype(np.uint8) * 255)
        reading = timed(lambda: [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths])
    print(f"surface Dice of {shape}: {metric[0] / reading[0]:.2f} of reading the slices of both, {metric[1]:.0f} MB")


def small_manifest() -> Manifest:
    """How the benchmark predicts."""
    spec = Preprocessing(target_pixel_size_um=50.0, normalise="none")
    return Manifest(competition="sennet_2024", preprocessing=spec, tile=256, halo=0, views=("identity",), batch=4)


def three_axes(shape: tuple[int, int, int]) -> None:
    """Three-axis prediction over the bare forward passes that it makes."""
    torch.manual_seed(0)
    arguments = {"encoder": "resnet18", "classes": 1}
    model = build_model("unet", arguments).eval().to(memory_format=torch.channels_last)
    calls: list[torch.Tensor] = []
    hook = model.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0]))
    volume = GreyVolume(np.random.default_rng(0).integers(0, 256, shape, np.uint8), frozenset(), 50.0, Path("volume"))
    stages = stages_of(model, small_manifest())
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        predict_volume(stages, volume, VOLUME_AXES, Path(folder))
        whole = time.perf_counter() - started
    hook.remove()
    with torch.inference_mode():
        started = time.perf_counter()
        for inputs_NCHW in calls:
            model(inputs_NCHW)
        bare = time.perf_counter() - started
    print(f"three axes of {shape}: {whole / bare:.2f} of {len(calls)} bare forward passes")


def blank_prediction(shape: tuple[int, int, int], axes: tuple[str, ...]) -> tuple[float, float]:
    """Processor seconds, and the peak of memory in MB, of a process that predicts zeros with a network of one layer."""
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import bench_volumes as b; b.predict_blank({shape}, {axes})"
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds, peak = map(float, done.stdout.split()[-2:])
    return seconds, peak


def predict_blank(shape: tuple[int, int, int], axes: tuple[str, ...]) -> None:
    """Predict a volume of zeros; print processor seconds and the peak of memory in MB that is not of mapped files."""
    model, peak = torch.nn.Conv2d(3, 1, 3, padding=1).eval(), 0.0

    def watched(stage: Stage, networks: Networks, batch: TileBatch) -> np.ndarray:
        nonlocal peak
        peak = max(peak, own_memory())
        return forward_batch(stage, networks, batch)

    with TemporaryDirectory() as folder:
        path = Path(folder)
        values = np.memmap(path / "grey.bin", np.uint8, "w+", shape=shape)
        volume = GreyVolume(values, frozenset(), 50.0, path)
        started = time.process_time()
        predict_volume(stages_of(model, small_manifest()), volume, axes, path, watched)
        seconds = time.process_time() - started
    print(seconds, peak)


def own_memory() -> float:
    """Resident memory of this process in MB without the pages of files, which the system takes back (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


def memory_of_depth(depth: int, side: int) -> None:
    """What a volume four times as deep costs."""
    axes, depths = ("xy", "zy"), (depth, 4 * depth)
    peaks = [blank_prediction((each, side, side), axes)[1] for each in depths]
    print(f"depth {depths[0]} and {depths[1]} of {side} x {side}: peaks of {peaks[0]:.0f} MB and {peaks[1]:.0f} MB")


def whole_kidney(slices: tuple[int, int] = (16, 48)) -> None:
    """Memory of a part of a volume of the host's size, and what its time says of the whole one."""
    depth, height, width = HOST_SHAPE
    (few_s, few_mb), (many_s, many_mb) = (blank_prediction((each, height, width), ("xy",)) for each in slices)
    each_s = (many_s - few_s) / (slices[1] - slices[0])
    print(f"{slices[0]} and {slices[1]} slices of {height} x {width}: peaks of {few_mb:.0f} MB and {many_mb:.0f} MB")
    whole = each_s * depth / 60
    print(f"{each_s:.2f} s of a processor a slice with a network of one layer: {whole:.0f} minutes for {depth} of them")


def write_hole(path: Path, shape_hw: tuple[int, int]) -> None:
    """Write a TIFF slice of 16 bits whose header is whole and whose pixels are a hole in the file."""
    tifffile.imwrite(path, None, shape=shape_hw, dtype=np.uint16, photometric="minisblack", metadata=None)


def folder_of_holes(counts: tuple[int, int] = (750, 7500)) -> None:
    """What it takes to list test folders of so many slices of the host's size, and to open and read one of them."""
    for count in counts:
        with TemporaryDirectory() as folder:
            for volume in range(5):
                images = Path(folder) / "test" / f"kidney_{volume + 5}" / "images"
                images.mkdir(parents=True)
                for number in range(count // 5):
                    write_hole(images / f"{number:04d}.tif", HOST_SHAPE[1:])
            files = [path.stat() for path in Path(folder).rglob("*.tif")]
            apparent, real = sum(file.st_size for file in files), sum(512 * file.st_blocks for file in files)
            tracemalloc.start()
            started = time.perf_counter()
            samples = Sennet2024().samples(Path(folder), "test")
            listed = time.perf_counter() - started
            with open_sample(samples[count // 2]) as slide:
                assert slide.shape_hw == HOST_SHAPE[1:]
            opened = time.perf_counter() - started - listed
            peak = tracemalloc.get_traced_memory()[1] / 1e6
            tracemalloc.stop()
            assert len(samples) == count
        words = f"listed in {listed:.1f} s, one opened in {opened * 1000:.0f} ms, peak {peak:.1f} MB"
        print(f"{count} slices, {apparent / 1e9:.0f} GB of which {real / 1e6:.0f} MB are on the disk: {words}")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--depth", type=int, default=64)
    options = parser.parse_args()
    components((options.depth, 2 * options.side, 2 * options.side))
    surface((options.depth, 2 * options.side, 2 * options.side))
    three_axes((options.depth // 4, options.side, options.side))
    memory_of_depth(options.depth, 2 * options.side)
    whole_kidney()
    folder_of_holes()


if __name__ == "__main__":
    main()
