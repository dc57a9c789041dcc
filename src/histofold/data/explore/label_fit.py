"""How well labels fit their image, without a model: as they stand, shifted, mirrored, or read in another order.

The labels are regressed on what the pixels look like: optical densities at three scales and their spread at two. The
share of explained variance, R2, is high where the labels follow the image, and drops as soon as they are moved. All
shifts are had at once by masked normalised correlation (Padfield, "Masked object registration in the Fourier domain",
IEEE TIP 21, 2012), summed over decorrelated features, whose squared correlations add up to R2.

A few objects in one image fit something by chance, in every stain. What labels look like in the other images of the
folder does not: `likeness` predicts those of each image from all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from scipy import fft

from histofold.competitions.base import runs_dice
from histofold.core.rle.runs import Runs

FIT_SIDE = 256
"""Longer side of the thumbnail that labels are fitted to, in pixels."""
LEAST_FIT_SIDE = 32
"""Images of which less is to be seen have nothing to fit."""
MAX_FIT_SHIFT = 0.2
"""Largest shift that is looked at, as a share of the longer side."""
MAX_LOST, MAX_MORE_GLASS = 0.1, 0.02
"""A shift that moves more of the labels out of the image, or more of them onto bare glass, mends nothing."""
_DENSITY_SIGMAS = (0.0, 2.0, 5.0)  # pixels of the thumbnail
_SPREAD_SIGMAS = (1.5, 4.0)
_RIDGE = 1e-4  # of the mean variance: keeps features that hardly vary from being blown up
_POOLED_RIDGE = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelFit:
    """How labels fit their image."""

    r2: float
    """Share of the labels' variance that the image explains, 0 to 1."""
    best_r2: float
    """The same at the best shift, times the share of the image that is left to compare."""
    shift_yx: tuple[float, float]
    """The best shift of the labels as shares of height and width; positive moves them down and right."""
    other_r2: Mapping[str, float] = field(default_factory=dict)
    """The same for other readings of the labels, by name."""
    moments: tuple[np.ndarray, np.ndarray]
    """Of the image's features, (C, C): their covariances; and with the labels, (C,); in units of the mean deviation."""


def fit_labels(
    image_HWC: np.ndarray,
    mask_HW: np.ndarray,
    row_major_HW: np.ndarray | None = None,
    glass_HW: np.ndarray | None = None,
) -> LabelFit | None:
    """Fit labels to their image.

    Args:
        image_HWC: Thumbnail, uint8 RGB (H, W, 3), about `FIT_SIDE` pixels long.
        mask_HW: The labels at that size, bool (H, W).
        row_major_HW: The labels as they are when their runs go by rows instead of columns; None where not known.
        glass_HW: The bare glass around the tissue, bool (H, W); None where there is none.

    Returns:
        The fit; None where there is nothing to fit: labels all or nothing, or an image of a few pixels.
    """
    if min(mask_HW.shape) < LEAST_FIT_SIDE or mask_HW.all() or not mask_HW.any():
        return None
    raw_CHW = _pixel_features(image_HWC)
    features_CHW = _decorrelated(raw_CHW)
    if not len(features_CHW):
        return None
    reach = min(round(MAX_FIT_SHIFT * max(mask_HW.shape)), min(mask_HW.shape) // 2)
    surface, weighed = _r2_by_shift(features_CHW, mask_HW, reach, glass_HW)
    middle = surface.shape[0] // 2
    y, x = np.unravel_index(int(weighed.argmax()), weighed.shape)
    others = _other_readings(mask_HW)
    if row_major_HW is not None:
        others["row by row"] = row_major_HW
    return LabelFit(
        r2=float(surface[middle, middle]),
        best_r2=float(weighed[y, x]),
        shift_yx=((int(y) - middle) / mask_HW.shape[0], (int(x) - middle) / mask_HW.shape[1]),
        other_r2={name: _r2(features_CHW, other_HW) for name, other_HW in others.items()},
        moments=_moments(raw_CHW, mask_HW),
    )


def likeness(fits: Sequence[LabelFit]) -> np.ndarray:
    """How the labels of each image correlate with what those of all others predict from their pixels, (len(fits),).

    One regression on the pooled moments of the others: unlike R2, which fits each image anew, it is near 0 for labels
    of another image, and as high in an image of one object as in one of many.
    """
    covariances_NCC = np.stack([fit.moments[0] for fit in fits])
    covariances_NC = np.stack([fit.moments[1] for fit in fits])
    all_CC, all_C = covariances_NCC.sum(axis=0), covariances_NC.sum(axis=0)
    found = np.zeros(len(fits))
    for number, (own_CC, own_C) in enumerate(zip(covariances_NCC, covariances_NC, strict=True)):
        pooled_CC = all_CC - own_CC
        ridge_CC = _POOLED_RIDGE * np.trace(pooled_CC) / len(pooled_CC) * np.eye(len(pooled_CC))
        weights_C = np.linalg.solve(pooled_CC + ridge_CC, all_C - own_C)
        found[number] = weights_C @ own_C / np.sqrt(max(float(weights_C @ own_CC @ weights_C), 1e-12))
    return found


def line_continuity(runs: Runs) -> tuple[float, float]:
    """How alike neighbouring lines of a mask are, read as it is and read in the other order.

    It is the Dice of the mask and itself moved by one line. Labels of the wrong order are torn from line to line, which
    shows without the image wherever height and width differ.

    Returns:
        (as it is, in the other order), 0 to 1.
    """
    height, width = runs.shape_hw
    lines = (height, width) if runs.order == "F" else (width, height)
    return _self_dice(runs, lines[0]), _self_dice(runs, lines[1])


def other_order(runs: Runs) -> Runs:
    """The same numbers read row by row instead of column by column, or the other way round."""
    return Runs(runs.starts, runs.lengths, runs.shape_hw, "C" if runs.order == "F" else "F")


def _self_dice(runs: Runs, step: int) -> float:
    """Dice of a mask and itself moved by `step` pixels of its numbering."""
    total = runs.shape_hw[0] * runs.shape_hw[1]
    inside = runs.starts + step < total
    starts = runs.starts[inside] + step
    lengths = np.minimum(runs.lengths[inside], total - starts)
    return runs_dice(Runs(starts, lengths, runs.shape_hw, runs.order), runs)


def _other_readings(mask_HW: np.ndarray) -> dict[str, np.ndarray]:
    """Mistakes of a whole mask, undone: mirrored, turned, rows taken for columns."""
    turned = mask_HW.T[: mask_HW.shape[0], : mask_HW.shape[1]]
    transposed_HW = np.zeros_like(mask_HW)
    transposed_HW[: turned.shape[0], : turned.shape[1]] = turned
    return {
        "transposed": transposed_HW,
        "upside down": mask_HW[::-1],
        "mirrored": mask_HW[:, ::-1],
        "turned by 180 degrees": mask_HW[::-1, ::-1],
    }


def _pixel_features(image_HWC: np.ndarray) -> np.ndarray:
    """Optical densities at several scales and their local spread, float32 (C, H, W)."""
    density_HWC = -np.log((image_HWC.astype(np.float32) + 1) / 256)
    planes = []
    for sigma in _DENSITY_SIGMAS:
        blurred_HWC = cv2.GaussianBlur(density_HWC, (0, 0), sigma) if sigma else density_HWC
        planes += [blurred_HWC[..., channel] for channel in range(3)]
    mean_HW = density_HWC.mean(axis=2)
    for sigma in _SPREAD_SIGMAS:
        local_HW = cv2.GaussianBlur(mean_HW, (0, 0), sigma)
        spread_HW = cv2.GaussianBlur(mean_HW * mean_HW, (0, 0), sigma) - local_HW * local_HW
        planes.append(np.sqrt(np.maximum(spread_HW, 0)))
    return np.stack(planes)


def _decorrelated(features_CHW: np.ndarray) -> np.ndarray:
    """Features turned so that they do not correlate, each of mean 0 and variance 1; none for an even image."""
    flat_CP = features_CHW.reshape(len(features_CHW), -1).astype(np.float64)
    flat_CP -= flat_CP.mean(axis=1, keepdims=True)
    covariance = flat_CP @ flat_CP.T / flat_CP.shape[1]
    mean_variance = np.trace(covariance) / len(covariance)
    if mean_variance < 1e-9:
        return np.zeros((0, *features_CHW.shape[1:]), np.float32)
    values, vectors = np.linalg.eigh(covariance + _RIDGE * mean_variance * np.eye(len(covariance)))
    turned_CP = (vectors / np.sqrt(values)).T @ flat_CP
    return turned_CP.reshape(features_CHW.shape).astype(np.float32)


def _moments(features_CHW: np.ndarray, mask_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariances of the features and with the labels, scaled to a mean variance of 1 of either: (C, C) and (C,)."""
    flat_CP = features_CHW.reshape(len(features_CHW), -1).astype(np.float64)
    flat_CP -= flat_CP.mean(axis=1, keepdims=True)
    covariances_CC = flat_CP @ flat_CP.T / flat_CP.shape[1]
    with_labels_C = flat_CP @ (mask_HW.reshape(-1) - mask_HW.mean()) / flat_CP.shape[1]
    variance = float(np.trace(covariances_CC)) / len(covariances_CC)
    return covariances_CC / variance, with_labels_C / np.sqrt(variance * float(mask_HW.var()))


def _r2(features_CHW: np.ndarray, mask_HW: np.ndarray) -> float:
    """R2 of labels as they stand; 0 for labels all or nothing."""
    centred_P = mask_HW.reshape(-1) - mask_HW.mean()
    variance = float((centred_P**2).mean())
    if variance == 0:
        return 0.0
    covariances_C = features_CHW.reshape(len(features_CHW), -1) @ centred_P / centred_P.size
    return float((covariances_C**2).sum() / variance)


def _r2_by_shift(
    features_CHW: np.ndarray, mask_HW: np.ndarray, reach: int, glass_HW: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """R2 of the labels moved by up to `reach` pixels, and the same times the share of the image that is compared.

    The latter is 0 for shifts that lose labels beyond the border or move them onto glass. Both are float (2 reach + 1,
    2 reach + 1); the middle is no shift, further down is labels moved down.
    """
    size = [fft.next_fast_len(side + reach, real=True) for side in mask_HW.shape]

    def transform(plane_HW: np.ndarray) -> np.ndarray:
        return np.asarray(fft.rfft2(plane_HW, size))

    def by_shift(spectrum: np.ndarray) -> np.ndarray:
        near = np.r_[-reach : reach + 1]
        return np.asarray(fft.irfft2(spectrum, size)[np.ix_(near, near)], dtype=np.float64)

    mask_spectrum = np.conj(transform(mask_HW.astype(np.float32)))
    frame = transform(np.ones(mask_HW.shape, np.float32))
    count = by_shift(np.conj(frame) * frame)
    labelled = by_shift(mask_spectrum * frame) / count
    label_variance = np.maximum(labelled - labelled**2, 1e-4)
    r2 = np.zeros_like(count)
    for feature_HW in features_CHW:
        spectrum = transform(feature_HW)
        mean = by_shift(np.conj(frame) * spectrum) / count
        variance = by_shift(np.conj(frame) * transform(feature_HW**2)) / count - mean**2
        covariance = by_shift(mask_spectrum * spectrum) / count - labelled * mean
        r2 += covariance**2 / (label_variance * np.maximum(variance, 1e-4))
    is_sound = labelled * count >= (1 - MAX_LOST) * mask_HW.sum()
    if glass_HW is not None and glass_HW.any():
        on_glass = by_shift(mask_spectrum * transform(glass_HW.astype(np.float32)))
        is_sound &= on_glass <= on_glass[reach, reach] + MAX_MORE_GLASS * mask_HW.sum()
    is_sound[reach, reach] = True
    return r2, r2 * is_sound * count / mask_HW.size
