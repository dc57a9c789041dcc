"""Milliseconds of each colour augmentation on a crop, beside albumentations' ColorJitter; and of stain normalisation.

python benchmarks/bench_augment.py [--side 256] [--rounds 30]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import albumentations
import cv2
import numpy as np

from histoseg.core.stain import image_of_densities, lab_statistics, macenko_map, macenko_statistics, reinhard_map
from histoseg.train.augment import jitter_stains
from histoseg.train.stain_augment import HAEMATOXYLIN, SECOND_STAINS, fit_templates, shift_to_template, transfer_stain


def stained_crop(side: int) -> np.ndarray:
    """Smooth tissue of haematoxylin and DAB with some glass, uint8 (side, side, 3)."""
    rng = np.random.default_rng(0)
    noise_HW2 = cv2.GaussianBlur(rng.standard_normal((side, side, 2)), (0, 0), 3)
    amounts_HW2 = np.clip(0.3 + 0.4 * noise_HW2 / noise_HW2.std(), 0, 2)
    return image_of_densities((amounts_HW2 @ np.stack([HAEMATOXYLIN, SECOND_STAINS[0]])).astype(np.float32))


def works(image_HWC: np.ndarray) -> dict[str, Callable[[], object]]:
    """What is timed, by name; ColorJitter first."""
    rng = np.random.default_rng(0)
    jitter = albumentations.ColorJitter(
        brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.025, 0.025), p=1.0
    )
    templates = fit_templates({"crop": [image_HWC]})
    pixels_NC = image_HWC.reshape(-1, 3)
    stains, moments = macenko_statistics(pixels_NC), lab_statistics(pixels_NC)
    assert stains is not None
    assert moments is not None
    macenko, reinhard = macenko_map(stains, stains), reinhard_map(moments, moments)
    return {
        "albumentations ColorJitter": lambda: jitter(image=image_HWC),
        "stain jitter (hed)": lambda: jitter_stains(image_HWC, 0.06, rng),
        "stain transfer": lambda: transfer_stain(image_HWC, 1.0, rng),
        "stain template": lambda: shift_to_template(image_HWC, templates, 1.0, rng),
        "Macenko normalisation": lambda: macenko(image_HWC),
        "Reinhard normalisation": lambda: reinhard(image_HWC),
    }


def measure(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median processor time of each call in milliseconds; they take turns, so that other load meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            started = time.process_time()
            for _ in range(5):
                call()
            times[name].append((time.process_time() - started) / 5 * 1e3)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256, help="pixels a side of the crop")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of each")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    milliseconds = measure(works(stained_crop(arguments.side)), arguments.rounds)
    peer = milliseconds["albumentations ColorJitter"]
    print(f"uint8 crop of {arguments.side} x {arguments.side}, one thread\n")
    print("| work | ms | / ColorJitter |\n|---|---|---|")
    for name, each in milliseconds.items():
        print(f"| {name} | {each:.2f} | {each / peer:.2f} |")


if __name__ == "__main__":
    main()
