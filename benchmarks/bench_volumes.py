"""Volumes: components against scipy, three axes over their bare forward passes, memory at two depths.

    python benchmarks/bench_volumes.py [--side 192] [--depth 64]

Prints ratios of one run, and peaks of memory that numpy and torch take beyond what was there before.
"""

from __future__ import annotations

import argparse
import resource
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
import torch
from scipy import ndimage

from histofold.core.metrics import surface_dice
from histofold.core.rle.runs import runs_from_mask
from histofold.core.volumes import clean_volume
from histofold.imaging.planes import GreyVolume
from histofold.models.build import build_model
from histofold.predict.stages import stages_of
from histofold.predict.volumes import predict_volume
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.volumes import VOLUME_AXES


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


def surface(shape: tuple[int, int, int]) -> None:
    """Surface Dice slice by slice over reading both volumes from disk."""
    first, second = draw_vessels(shape, seed=1), draw_vessels(shape, seed=2)
    metric = timed(lambda: surface_dice(first, second))
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


def memory_of_depth(depth: int, side: int) -> float:
    """Peak of resident memory in MB of a process that predicts a volume of so many slices with a tiny network."""
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import bench_volumes as b; b.predict_blank({depth}, {side})"
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


def predict_blank(depth: int, side: int) -> None:
    """Predict a volume of zeros and print the peak of resident memory in MB."""
    model = torch.nn.Conv2d(3, 1, 3, padding=1).eval()
    with TemporaryDirectory() as folder:
        path = Path(folder)
        values = np.memmap(path / "grey.bin", np.uint8, "w+", shape=(depth, side, side))
        volume = GreyVolume(values, frozenset(), 50.0, path)
        predict_volume(stages_of(model, small_manifest()), volume, ("xy", "zy"), path)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--depth", type=int, default=64)
    options = parser.parse_args()
    components((options.depth, 2 * options.side, 2 * options.side))
    surface((options.depth, 2 * options.side, 2 * options.side))
    three_axes((options.depth // 4, options.side, options.side))
    peaks = [memory_of_depth(depth, 2 * options.side) for depth in (options.depth, 4 * options.depth)]
    voxels = 3 * options.depth * (2 * options.side) ** 2 / 1e6
    words = f"peak of resident memory {peaks[0]:.0f} MB and {peaks[1]:.0f} MB, of mapped files among it"
    print(f"depth {options.depth} and {4 * options.depth} ({voxels:.0f} million voxels more): {words}")


if __name__ == "__main__":
    main()
