"""Memory of what `histofold predict` writes beside rows: a slide to masks, outlines and probabilities, or rows alone.

The network costs nothing; one that finds a blob in each of many places has as many runs as a mask can have, one that
finds a few large ones as many as usual. `python benchmarks/bench_results.py --help` for sizes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_tiled import RepeatedImage, parse_side, peak_mb

from histofold.predict.image import predict_image
from histofold.predict.stages import Stage
from histofold.report.results.files import ResultFiles
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample

TILE = 512
KINDS = ("masks", "geojson", "probabilities")
WAVES_PX = {"a blob in every 125 x 125": 20.0, "one in every 500 x 500": 80.0}
"""What the masks look like, and the length of their waves over 2 pi."""
FEW = 0.85  # threshold: a tenth of the image is mask


class WavesNetwork:
    """A network that costs nothing and finds smooth blobs."""

    def __init__(self, wave_px: float) -> None:
        import torch

        self.device = torch.device("cpu")
        waves = np.sin(np.arange(TILE) / wave_px)
        self._probs_HW = (0.5 + 0.5 * np.outer(waves, waves)).astype(np.float32)

    def __call__(self, images_NHWC: np.ndarray, passes: object, manifest: Manifest) -> np.ndarray:
        return np.broadcast_to(self._probs_HW, (len(images_NHWC), 1, TILE, TILE))


def predict(side: tuple[int, int], wave_px: float, kinds: tuple[str, ...], folder: Path) -> int:
    """A whole prediction from slide to the files of these kinds; gives the number of runs."""
    manifest = Manifest(competition="folder", preprocessing=Preprocessing(target_pixel_size_um=1.0), tile=TILE, halo=64)
    stage = Stage((WavesNetwork(wave_px),), manifest, ())  # type: ignore[arg-type]
    sample = Sample(id="slide", image_path=Path("slide.tiff"), pixel_size_um=1.0)
    files = ResultFiles({kind: folder / kind for kind in kinds})
    files.open([sample], manifest, folder / "rows.csv")
    files.begin(sample, side, FEW)
    prediction = predict_image([stage], RepeatedImage(side), 1.0, [FEW], sink=files)  # type: ignore[arg-type]
    masks = prediction.masks(FEW, manifest, never_empty=False)
    files.finish(masks, is_final=True)
    assert not files.faults, files.faults
    return len(masks)


def probe(side: tuple[int, int], wave_px: float, kinds: tuple[str, ...]) -> None:
    """Run in a process of its own: print the runs, the growth of its peak memory in MB, seconds, and MB written."""
    with tempfile.TemporaryDirectory() as root:
        predict((1024, 1024), wave_px, kinds, Path(root))
        before, started = peak_mb(), time.perf_counter()
        runs = predict(side, wave_px, kinds, Path(root))
        seconds = time.perf_counter() - started
        written = sum(path.stat().st_size for path in Path(root).rglob("*") if path.is_file()) / 2**20
    print(runs, peak_mb() - before, seconds, written)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", type=parse_side, default=[(12000, 12000), (30000, 40000)])
    parser.add_argument("--probe", type=parse_side, help=argparse.SUPPRESS)
    parser.add_argument("--wave", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--kinds", nargs="*", default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        probe(options.probe, options.wave, tuple(options.kinds))
        return
    print("| slide | mask | runs | what is made | peak memory above the start | time | files |")
    print("|---|---|---|---|---|---|---|")
    for side in options.sizes:
        for words, wave_px in WAVES_PX.items():
            for kinds in ((), *((kind,) for kind in KINDS), KINDS):
                command = [sys.executable, __file__, "--probe", f"{side[0]}x{side[1]}", "--wave", str(wave_px)]
                done = subprocess.run([*command, "--kinds", *kinds], capture_output=True, text=True, check=True)
                runs, memory, seconds, written = (float(word) for word in done.stdout.split()[-4:])
                name = ", ".join(kinds) or "rows alone"
                cells = f"{runs:,.0f} | {name} | {memory:.0f} MB | {seconds:.0f} s | {written:.0f} MB"
                print(f"| {side[0]} x {side[1]} | {words} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
