"""Synthetic slides: drawing speed of each organ on one core, and peak memory of a large slide read by bands.

Speed is that of the whole chain from plan to pixels, in megapixels a second of processor time, compilation left out.
Memory is what a process of its own needs above the interpreter with its imports. Targets: at least 4 MP/s, printed as a
ratio to it, and at most 300 MB for 30000 x 40000.

    python benchmarks/bench_synth.py [--side 2048] [--rounds 3] [--bands 6 | --bands 0 for the whole slide]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import cv2
import numpy as np
from bench_slide import peak_mb

from histofold.synth.drawing.slide import ARTEFACTS, ORGANS, SlideSpec, SyntheticSlide
from histofold.synth.drawing.tissue import draw_stain

TARGET_MP_S = 4.0
TARGET_MB = 300
LARGE_HW = (30000, 40000)


def spec_of(organ: str, second: str, shape_hw: tuple[int, int], **extra) -> SlideSpec:
    """A slide at 0.4 um with objects of real size."""
    stain = draw_stain(np.random.default_rng(1), second)
    return SlideSpec(key=(1,), organ=organ, stain=stain, shape_hw=shape_hw, pixel_size_um=0.4, **extra)


def megapixels_a_second(spec: SlideSpec, rows: int = 512) -> float:
    """Speed of planning a slide and reading it by bands."""
    started = time.process_time()
    pixels = sum(picture.mask_HW.size for _, picture in SyntheticSlide(spec).bands(rows))
    return pixels * 1e-6 / (time.process_time() - started)


def stream(rows: int, bands: int) -> dict[str, float]:
    """Read a large kidney by bands, all of them if `bands` is 0."""
    before = peak_mb()
    slide = SyntheticSlide(spec_of("kidney", "pas", LARGE_HW, artefacts=ARTEFACTS, jpeg_quality=80))
    started, pixels, share = time.process_time(), 0, 0
    for index, (_, picture) in enumerate(slide.bands(rows), start=1):
        pixels += picture.mask_HW.size
        share += int(picture.mask_HW.sum())
        if index == bands:
            break
    seconds = time.process_time() - started
    return {"mb": peak_mb() - before, "mp": pixels * 1e-6, "mp_s": pixels * 1e-6 / seconds, "share": share / pixels}


def main() -> None:
    """Print a table of speeds and one of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2048, help="side of the slides for speed in pixels")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each organ")
    parser.add_argument("--bands", type=int, default=6, help="bands of the large slide that are read; 0: all")
    parser.add_argument("--stream", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.stream:
        print(json.dumps(stream(arguments.stream, arguments.bands)))
        return
    print(f"{arguments.side} x {arguments.side} at 0.4 um, one core\n")
    print(f"| organ | stain | MP/s | over the target of {TARGET_MP_S:.0f} |\n|---|---|---|---|")
    for organ in ORGANS:
        megapixels_a_second(spec_of(organ, "pas", (300, 300)))
        for second in ("dab", "eosin", "pas"):
            spec = spec_of(organ, second, (arguments.side, arguments.side))
            speed = statistics.median(megapixels_a_second(spec) for _ in range(arguments.rounds))
            print(f"| {organ} | {second} | {speed:.1f} | {speed / TARGET_MP_S:.2f}x |", flush=True)
    print("\n| slide | rows a band | MP read | peak MB above start | of 300 MB | MP/s |\n|---|---|---|---|---|---|")
    for rows in (256, 512):
        command = [sys.executable, __file__, "--stream", str(rows), "--bands", str(arguments.bands)]
        run = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        ratio = run["mb"] / TARGET_MB
        shape = f"{LARGE_HW[0]} x {LARGE_HW[1]}"
        print(
            f"| {shape} | {rows} | {run['mp']:.0f} | {run['mb']:.0f} | {ratio:.2f}x | {run['mp_s']:.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
