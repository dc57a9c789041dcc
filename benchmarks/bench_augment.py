"""Milliseconds of the augmentation of a tile beside albumentations: step by step, and whole presets.

The usual pipeline is what many entries of the competition used: flips, a quarter turn, shift-scale-rotate, elastic or
grid deformation, brightness and contrast, hue, blur or noise, holes. All take turns in one run on one thread.

    python benchmarks/bench_augment.py [--side 512] [--rounds 30]
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import albumentations
import cv2
import numpy as np

from histofold.core.stain import image_of_densities, lab_statistics, macenko_map, macenko_statistics, reinhard_map
from histofold.imaging.shift import HAEMATOXYLIN, SECOND_STAINS
from histofold.schema.augment import AugmentConfig
from histofold.train.augment.pipeline import Augmenter
from histofold.train.augment.pixels import (
    add_noise,
    change_thickness,
    compress_jpeg,
    cut_out,
    equalise_locally,
    jitter_colours,
    jitter_stains,
    lose_detail,
    sharpen_or_blur,
)
from histofold.train.augment.stain import fit_templates, shift_to_template, transfer_stain

GPU_IMAGES_PER_S, GPU_WORKERS = 1500, 16
GEOMETRY = ("affine", "pixel_size", "elastic", "grid")
Call = Callable[[int], object]


def stained_crop(side: int) -> np.ndarray:
    """Smooth tissue of haematoxylin and DAB with some glass, uint8 (side, side, 3)."""
    rng = np.random.default_rng(0)
    noise_HW2 = cv2.GaussianBlur(rng.standard_normal((side, side, 2)), (0, 0), 3)
    amounts_HW2 = np.clip(0.3 + 0.4 * noise_HW2 / noise_HW2.std(), 0, 2)
    return image_of_densities((amounts_HW2 @ np.stack([HAEMATOXYLIN, SECOND_STAINS[0]])).astype(np.float32))


def steps_and_peers(image_HWC: np.ndarray, bits_HW: np.ndarray) -> list[tuple[str, Call, Call | None]]:
    """Each step with albumentations' own, where it has one; geometry moves the mask too."""
    rng = np.random.default_rng(0)
    templates = fit_templates({"crop": [image_HWC]})
    reflect = cv2.BORDER_REFLECT_101
    a = albumentations
    peers = {
        "affine": a.Affine(scale=(0.8, 1.2), rotate=(-20, 20), shear=(-5, 5), border_mode=reflect, p=1),
        "elastic": a.ElasticTransform(alpha=120, sigma=12, border_mode=reflect, p=1),
        "grid": a.GridDistortion(num_steps=6, distort_limit=0.3, border_mode=reflect, p=1),
    }
    rows: list[tuple[str, Call, Call | None]] = []
    for name in GEOMETRY:
        peer = peers.get(name)
        rows.append((name, _geometry(name, image_HWC, bits_HW), peer and _peer(peer, image_HWC, bits_HW)))
    pixels: dict[str, tuple[Call, object]] = {
        "colour": (
            lambda _: jitter_colours(image_HWC, 0.2, rng),
            a.ColorJitter((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.025, 0.025), p=1),
        ),
        "sharpness": (
            lambda _: sharpen_or_blur(image_HWC, rng),
            a.OneOf([a.Sharpen(p=1), a.GaussianBlur(blur_limit=(3, 5), p=1)], p=1),
        ),
        "clahe": (lambda _: equalise_locally(image_HWC, 3.0, rng), a.CLAHE(3.0, p=1)),
        "detail": (lambda _: lose_detail(image_HWC, 3.0, rng), a.Downscale((0.33, 1.0), p=1)),
        "noise": (lambda _: add_noise(image_HWC, 0.04, rng), a.GaussNoise((0.008, 0.04), p=1)),
        "jpeg": (lambda _: compress_jpeg(image_HWC, 40, rng), a.ImageCompression("jpeg", (40, 95), p=1)),
        "cutout": (
            lambda _: cut_out(image_HWC, 0.15, rng),
            a.CoarseDropout((1, 4), (0.1, 0.2), (0.1, 0.2), fill=128, p=1),
        ),
        "thickness": (lambda _: change_thickness(image_HWC, 2.0, rng), None),
        "hed": (lambda _: jitter_stains(image_HWC, 0.06, rng), a.HEStain(method="random_preset", p=1)),
        "stain transfer": (lambda _: transfer_stain(image_HWC, 1.0, rng), None),
        "stain template": (lambda _: shift_to_template(image_HWC, templates, 1.0, rng), None),
    }
    for name, (ours, peer) in pixels.items():
        rows.append((name, ours, peer and _peer(peer, image_HWC)))
    return rows


def presets_and_peers(image_HWC: np.ndarray, bits_HW: np.ndarray) -> list[tuple[str, Call, Call | None]]:
    """Each preset, and a user's pipeline beside itself alone.

    Medium stands beside the same steps in albumentations, strong beside the usual pipeline.
    """
    plain, usual = _peer(same_as_medium(), image_HWC, bits_HW), _peer(usual_pipeline(), image_HWC, bits_HW)
    peers = {"light": None, "medium": plain, "strong": usual}
    rows: list[tuple[str, Call, Call | None]] = []
    for name, peer in peers.items():
        augmenter = Augmenter(AugmentConfig(preset=name), len(image_HWC))
        rows.append((name, lambda number, a=augmenter: a(image_HWC, bits_HW, (0, 0, number)), peer))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "own.yaml"
        albumentations.save(same_as_medium(), path, data_format="yaml")
        own = Augmenter(AugmentConfig(preset="none", pipeline=str(path)), len(image_HWC))
    rows.append(("own pipeline", lambda number: own(image_HWC, bits_HW, (0, 0, number)), plain))
    return rows


def same_as_medium() -> albumentations.Compose:
    """What `medium` does, but for its stain jitter, which albumentations lacks."""
    a = albumentations
    return a.Compose(
        [
            a.Affine(scale=(0.8, 1.2), rotate=(-20, 20), shear=(-5, 5), border_mode=cv2.BORDER_REFLECT_101, p=0.5),
            a.HorizontalFlip(p=0.5),
            a.VerticalFlip(p=0.5),
            a.RandomRotate90(p=1),
            a.OneOf([a.Sharpen(p=1), a.GaussianBlur(blur_limit=(3, 5), p=1)], p=0.2),
            a.ColorJitter((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.025, 0.025), p=0.5),
        ],
        seed=0,
    )


def usual_pipeline() -> albumentations.Compose:
    """A pipeline as entries of the competition had it."""
    a = albumentations
    reflect = cv2.BORDER_REFLECT_101
    return a.Compose(
        [
            a.HorizontalFlip(p=0.5),
            a.VerticalFlip(p=0.5),
            a.RandomRotate90(p=0.5),
            a.Affine(scale=(0.8, 1.2), rotate=(-45, 45), translate_percent=0.06, border_mode=reflect, p=0.5),
            a.OneOf(
                [
                    a.ElasticTransform(alpha=120, sigma=12, border_mode=reflect, p=1),
                    a.GridDistortion(border_mode=reflect, p=1),
                    a.OpticalDistortion(border_mode=reflect, p=1),
                ],
                p=0.3,
            ),
            a.OneOf([a.RandomBrightnessContrast(p=1), a.RandomGamma(p=1), a.CLAHE(p=1)], p=0.5),
            a.HueSaturationValue(p=0.5),
            a.OneOf([a.GaussNoise(p=1), a.GaussianBlur(p=1), a.MotionBlur(p=1)], p=0.3),
            a.CoarseDropout(p=0.3),
        ],
        seed=0,
    )


def _peer(transform: albumentations.BasicTransform, image_HWC: np.ndarray, bits_HW: np.ndarray | None = None) -> Call:
    given = {"image": image_HWC} if bits_HW is None else {"image": image_HWC, "mask": bits_HW}

    def call(number: int) -> object:
        transform.set_random_state(np.random.default_rng(number), random.Random(number))
        return transform(**given)

    return call


def _geometry(name: str, image_HWC: np.ndarray, bits_HW: np.ndarray) -> Call:
    """The augmenter with one geometric step alone."""
    augmenter = Augmenter(AugmentConfig(preset="none", **{name: 1.0}), len(image_HWC))
    return lambda number: augmenter(image_HWC, bits_HW, (0, 0, number))


def normalisations(image_HWC: np.ndarray) -> list[tuple[str, Call, Call | None]]:
    """Stain normalisation, done to each tile before all else where it is wanted."""
    pixels_NC = image_HWC.reshape(-1, 3)
    stains, moments = macenko_statistics(pixels_NC), lab_statistics(pixels_NC)
    assert stains is not None
    assert moments is not None
    macenko, reinhard = macenko_map(stains, stains), reinhard_map(moments, moments)
    return [("Macenko", lambda _: macenko(image_HWC), None), ("Reinhard", lambda _: reinhard(image_HWC), None)]


def measure(rows: list[tuple[str, Call, Call | None]], rounds: int) -> dict[str, tuple[float, float | None]]:
    """Mean processor time of each call and of its peer in milliseconds; all take turns, so that load meets all alike.

    Each time is the least of three calls, which other work on the machine disturbs least; the mean is over draws, since
    the median of what happens at a probability would leave it out.
    """
    times: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds):
        for name, *calls in rows:
            for place, call in enumerate(calls):
                if call is not None:
                    times.setdefault((name, place), []).append(least_time_ms(call, number))
    return {
        name: (statistics.mean(times[name, 0]), statistics.mean(times[name, 1]) if peer else None)
        for name, _, peer in rows
    }


def least_time_ms(call: Call, number: int) -> float:
    """The least processor time of three calls with the same draw."""
    times = []
    for _ in range(3):
        started = time.process_time()
        call(number)
        times.append((time.process_time() - started) * 1e3)
    return min(times)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512, help="pixels a side of the tile")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of each step; five times as many of presets")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    image_HWC = stained_crop(arguments.side)
    bits_HW = (image_HWC[..., 0] < 128).astype(np.uint8)
    print(f"uint8 tile of {arguments.side} x {arguments.side} and its mask, one thread, mean processor time")
    steps = measure(steps_and_peers(image_HWC, bits_HW) + normalisations(image_HWC), arguments.rounds)
    presets = measure(presets_and_peers(image_HWC, bits_HW), 5 * arguments.rounds)
    for table in (steps, presets):
        print("\n| work | ms | albumentations | ratio |\n|---|---|---|---|")
        for name, (ours, peer) in table.items():
            print(f"| {name} | {ours:.2f} | " + (f"{peer:.2f} | {ours / peer:.2f} |" if peer else "| |"))
    allowed = 1e3 * GPU_WORKERS / GPU_IMAGES_PER_S
    print(f"\n{GPU_WORKERS} workers feed a GPU of {GPU_IMAGES_PER_S} images a second with {allowed:.1f} ms an image.")
    print(f"Extrapolated from one core, strong reaches {1e3 * GPU_WORKERS / presets['strong'][0]:.0f} images a second.")


if __name__ == "__main__":
    main()
