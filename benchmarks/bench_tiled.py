"""Tiled prediction against MONAI's sliding_window_inference and a naive loop, interleaved in one run; prints ratios.

Four questions: what the orchestration costs a tile when the network costs nothing; how far the whole is from the bare
forward passes with a real network; how much memory a whole prediction takes, from slide to runs; and how many pixels go
through the network for each pixel of the image. `python benchmarks/bench_tiled.py --help` for sizes.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from histofold.core.rle.runs import Runs
from histofold.core.tiles import TileGrid
from histofold.predict.devices import best_precision
from histofold.predict.image import predict_image
from histofold.predict.stages import Stage, stages_of
from histofold.predict.tiled import Tiling, predict_bands
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing

TILE = 512
MONAI_BYTES_A_PIXEL = 24  # float32 RGB input, one class of sum and of weights, and a copy


class RepeatedImage:
    """An image of any size that repeats one block of noise: it costs no memory and little time."""

    def __init__(self, shape_hw: tuple[int, int]) -> None:
        self.shape_hw = shape_hw
        self._block = np.random.default_rng(0).integers(0, 256, (2 * TILE, 2 * TILE, 3), np.uint8)

    def read(self, y: slice, x: slice) -> np.ndarray:
        top, left = y.start % TILE, x.start % TILE
        return self._block[top : top + y.stop - y.start, left : left + x.stop - x.start]

    def tensor(self) -> torch.Tensor:
        height, width = self.shape_hw
        repeats = -(-height // (2 * TILE)), -(-width // (2 * TILE)), 1
        image_HWC = np.tile(self._block, repeats)[:height, :width]
        return torch.from_numpy(image_HWC).permute(2, 0, 1)[None].float() / 255


class NullNet(torch.nn.Module):
    """A network that costs nothing: one channel of its input."""

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return images_NCHW[:, :1]


def ours(forward: Callable, image: RepeatedImage, overlap: float, blend: bool) -> int:
    """Consume all bands; gives the number of tiles."""
    stride = round(TILE * (1 - overlap))
    grid = TileGrid(image.shape_hw, TILE, stride, 0 if blend else (TILE - stride) // 2)
    for _, band_KHW in predict_bands([lambda batch: forward(batch.images)], image, Tiling(grid, 4, blend)):
        assert band_KHW.dtype == np.float32
    return len(grid)


def null_forward(images_NHWC: np.ndarray) -> np.ndarray:
    """The null network as our tiler calls it: uint8 tiles in, one channel as float32 out."""
    return images_NHWC[:, None, :, :, 0].astype(np.float32)


def monai(net: Callable, image_NCHW: torch.Tensor, overlap: float) -> None:
    from monai.inferers import sliding_window_inference

    with torch.inference_mode():
        sliding_window_inference(image_NCHW, (TILE, TILE), 4, net, overlap, mode="gaussian")


def naive(net: Callable, image_NCHW: torch.Tensor, overlap: float) -> None:
    """The loop of most notebooks: sum and count over the whole image."""
    height, width = image_NCHW.shape[2:]
    total, count = torch.zeros(1, 1, height, width), torch.zeros(1, 1, height, width)
    with torch.inference_mode():
        for tile in TileGrid((height, width), TILE, round(TILE * (1 - overlap))):
            place = (slice(None), slice(None), *tile.read)
            total[place] += net(image_NCHW[place])
            count[place] += 1
    total /= count


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def interleaved(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken turn by turn so that all see the same machine."""
    if repeats > 1:
        for work in works.values():
            work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(seconds(work))
    return {name: statistics.median(values) for name, values in times.items()}


def fitting(side: tuple[int, int], limit_gb: float = 8.0) -> bool:
    return side[0] * side[1] * MONAI_BYTES_A_PIXEL / 1e9 < limit_gb


def orchestration_table(sides: list[tuple[int, int]], repeats: int) -> None:
    """Milliseconds a tile with a network that costs nothing."""
    print("\n| null network | overlap | tiles | ours / MONAI | ours / naive |\n|---|---|---|---|---|")
    net = NullNet()
    for side in sides:
        image = RepeatedImage(side)
        for overlap, blend in ((0.25, False), (0.5, True)):
            works: dict[str, Callable[[], object]] = {
                "ours": lambda i=image, o=overlap, b=blend: ours(null_forward, i, o, b)
            }
            if fitting(side):
                whole = image.tensor()
                works["monai"] = lambda w=whole, o=overlap: monai(net, w, o)
                works["naive"] = lambda w=whole, o=overlap: naive(net, w, o)
            times = interleaved(works, repeats if fitting(side) else 1)
            ratios = [
                f"{times['ours'] / times[name]:.2f}" if name in times else "peer left out: over 8 GB"
                for name in ("monai", "naive")
            ]
            tiles = len(TileGrid(side, TILE, round(TILE * (1 - overlap))))
            print(f"| {side[0]} x {side[1]} | {overlap} | {tiles} | {ratios[0]} | {ratios[1]} |", flush=True)


def total_over_forward(side: tuple[int, int], repeats: int) -> None:
    """The whole prediction over its own bare forward passes, with U-Net ResNet-18 in the machine's best precision."""
    import segmentation_models_pytorch as smp

    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    precision = best_precision(device)
    net = smp.Unet("resnet18", encoder_weights=None).eval().to(device).to(memory_format=torch.channels_last)
    (stage,) = stages_of(net, Manifest(competition="folder", preprocessing=Preprocessing()))
    image = RepeatedImage(side)
    tiles = len(TileGrid(side, TILE, 448, 32))
    batch_NCHW = torch.rand(4, 3, TILE, TILE, device=device).contiguous(memory_format=torch.channels_last)

    def bare() -> None:
        with torch.inference_mode(), torch.autocast(device.type, precision, enabled=precision != torch.float32):
            for start in range(0, tiles, 4):
                net(batch_NCHW[: min(4, tiles - start)])
        if device.type == "cuda":
            torch.cuda.synchronize()

    def cast(images_NCHW: torch.Tensor) -> torch.Tensor:
        inputs = images_NCHW.to(device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            return net(inputs).float().sigmoid().cpu()

    whole = image.tensor()
    times = interleaved(
        {
            "bare": bare,
            "ours": lambda: ours(
                lambda tiles: stage.networks[0](tiles, stage.passes, stage.manifest), image, 0.125, blend=False
            ),
            "monai": lambda: monai(cast, whole, 0.125),
        },
        repeats,
    )
    print(f"\n| {side[0]} x {side[1]}, U-Net ResNet-18, {precision} | total / bare forward |\n|---|---|")
    print(f"| ours | {times['ours'] / times['bare']:.3f} |")
    print(f"| MONAI, gaussian | {times['monai'] / times['bare']:.3f} |")


def peak_mb() -> float:
    """Peak memory of this process alone (Linux); ru_maxrss would inherit the peak of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


class BlobsNetwork:
    """A network that costs nothing and finds blobs: as many runs as a real mask has, and soft values between."""

    device = torch.device("cpu")

    def __call__(self, images_NHWC: np.ndarray, passes: object, manifest: Manifest) -> np.ndarray:
        height, width = images_NHWC.shape[1:3]
        waves_HW = np.outer(np.sin(np.arange(height) / 20), np.sin(np.arange(width) / 20))
        probs_HW = (0.5 + 0.5 * waves_HW).astype(np.float32)
        return np.broadcast_to(probs_HW, (len(images_NHWC), 1, height, width))


def to_runs(side: tuple[int, int], blend: bool) -> int:
    """A whole prediction, from slide to cleaned runs, its pixel size the network's; gives the mask's area."""
    manifest = Manifest(
        competition="folder",
        preprocessing=Preprocessing(target_pixel_size_um=1.0),
        tile=TILE,
        halo=0 if blend else 64,
        blend=blend,
        min_area_um2=10.0,
    )
    stage = Stage((BlobsNetwork(),), manifest, ())  # type: ignore[arg-type]
    prediction = predict_image([stage], RepeatedImage(side), 1.0, [0.5])  # type: ignore[arg-type]
    masks = prediction.masks(0.5, manifest, never_empty=True)
    assert isinstance(masks, Runs)
    return masks.area


def memory_probe(side: tuple[int, int], work: str) -> None:
    """Run in a process of its own: print the growth of its peak memory in MB."""
    net = NullNet()
    image = RepeatedImage((1024, 1024))
    works: dict[str, Callable[[RepeatedImage], object]] = {
        "ours": lambda image: ours(null_forward, image, 0.25, blend=False),
        "runs": lambda image: to_runs(image.shape_hw, blend=False),
        "blended": lambda image: to_runs(image.shape_hw, blend=True),
        "monai": lambda image: monai(net, image.tensor(), 0.25),
    }
    works[work](image)
    before = peak_mb()
    works[work](RepeatedImage(side))
    print(peak_mb() - before)


def memory_table(sides: list[tuple[int, int]]) -> None:
    print("\n| peak memory above the start | the mask alone | bands | to runs | blended | MONAI |")
    print("|---|---|---|---|---|---|")
    for side in sides:
        row = [f"{side[0] * side[1] / 2**20:.0f} MB"]
        for work in ("ours", "runs", "blended", "monai"):
            if work == "monai" and not fitting(side):
                row.append("left out: over 8 GB")
                continue
            command = [sys.executable, __file__, "--probe", f"{side[0]}x{side[1]}", "--work", work]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row.append(f"{float(done.stdout.split()[-1]):.0f} MB")
        print(f"| {side[0]} x {side[1]} | {' | '.join(row)} |", flush=True)


def forwarded_table(sides: list[tuple[int, int]]) -> None:
    """Pixels through the network for each pixel of the image."""
    settings = [(size, halo, 0) for size in (512, 1024) for halo in (32, 64)] + [(512, 0, 256), (1024, 0, 512)]
    names = [f"{size}, halo {halo}" if halo else f"{size}, blend {stride}" for size, halo, stride in settings]
    print(f"\n| pixels forwarded, tile | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for side in sides:
        forwarded = [len(TileGrid(side, size, stride, halo)) * size**2 for size, halo, stride in settings]
        cells = [f"{pixels / (side[0] * side[1]):.2f}" for pixels in forwarded]
        print(f"| {side[0]} x {side[1]} | {' | '.join(cells)} |")


def parse_side(text: str) -> tuple[int, int]:
    parts = [int(part) for part in text.lower().split("x")]
    return parts[0], parts[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", type=parse_side, default=[(3000, 3000), (10000, 10000)])
    parser.add_argument("--model-size", type=parse_side, default=(3000, 3000))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--probe", type=parse_side, help=argparse.SUPPRESS)
    parser.add_argument("--work", default="ours", help=argparse.SUPPRESS)
    parser.add_argument("--memory-sizes", nargs="+", type=parse_side, default=[(12000, 12000), (30000, 40000)])
    options = parser.parse_args()
    if options.probe:
        memory_probe(options.probe, options.work)
        return
    orchestration_table(options.sizes, options.repeats)
    memory_table(options.memory_sizes)
    forwarded_table([*options.sizes, *options.memory_sizes])
    total_over_forward(options.model_size, options.repeats)


if __name__ == "__main__":
    main()
