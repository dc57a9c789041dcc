"""Small masks on which code on runs goes wrong first, and scipy's view of neighbours."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import ndimage

from histofold.core.jit import HAS_NUMBA
from histofold.core.rle.runs import runs_from_mask
from histofold.imaging.resample import resample_mask_region

STRUCTURE = {4: ndimage.generate_binary_structure(2, 1), 8: ndimage.generate_binary_structure(2, 2)}
DENSITIES = (0.1, 0.35, 0.5, 0.6, 0.8)  # around the percolation threshold components are largest and strangest


def hard_masks(count: int, seed: int) -> list[np.ndarray]:
    """Masks with H != W in turn: empty, full, one pixel, all but one, the four corners, noise, and blobs twice."""
    rng = np.random.default_rng(seed)
    return [hard_mask(index % 8, rng) for index in range(count)]


def hard_mask(kind: int, rng: np.random.Generator) -> np.ndarray:
    """One of them, bool (H, W), sides below 40."""
    height, width = rng.choice(np.arange(1, 40), 2, replace=False)
    mask_HW = np.full((height, width), kind in (1, 3))
    if kind in (2, 3):
        mask_HW[rng.integers(height), rng.integers(width)] ^= True
    elif kind == 4:
        mask_HW[:: max(1, height - 1), :: max(1, width - 1)] = True
    elif kind == 5:
        mask_HW = rng.random((height, width)) < rng.choice(DENSITIES)
    elif kind > 5:
        noise_HW = cv2.GaussianBlur(rng.random((height, width)), (0, 0), rng.uniform(0.7, 3))
        mask_HW = noise_HW > np.quantile(noise_HW, rng.choice(DENSITIES))
    return mask_HW


COMPILED = ("rle.changes", "rle.scan", "rle.text", "rle.paint", "regions")


def use_implementation(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have the core's work on runs done by numba or in plain numpy; skips where there is no numba."""
    if name == "numba" and not HAS_NUMBA:
        pytest.skip("numba is not installed")
    for module in COMPILED:
        monkeypatch.setattr(f"histofold.core.{module}.HAS_NUMBA", name == "numba")
    return name


def resample_mask(mask_HW: np.ndarray, scaled_hw: tuple[int, int]) -> np.ndarray:
    """The whole of a resampled mask, bool (H', W')."""
    whole = (slice(0, scaled_hw[0]), slice(0, scaled_hw[1]))
    return resample_mask_region(runs_from_mask(mask_HW), scaled_hw, *whole)
