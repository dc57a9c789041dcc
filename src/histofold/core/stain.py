"""Colours of stained tissue as numbers: optical densities, stain vectors, statistics in CIELAB, and maps between them.

Every map here works pixel by pixel, in arithmetic that does not depend on a pixel's place in the array (NumPy's
elementwise operations, OpenCV's integer colour conversions). So mapping a tile gives the same bytes as cutting the tile
from the mapped whole.

Optical density is d = -ln((v + 1) / 256) for a grey level v: 0 for white, and exactly undone by v = 256 exp(-d) - 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

# Rows: haematoxylin, eosin, DAB. Source: Ruifrok and Johnston, Anal Quant Cytol Histol 23, 2001, as unit vectors.
HED_FROM_RUIFROK = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
DENSITY_OF_VALUE = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
"""Optical density of each grey level, float32 (256,)."""
LEAST_DENSITY = 0.15
"""Macenko's beta: a pixel whose channels are fainter on average tells nothing of the stains (natural logarithm). Not
each channel by itself, as some programs have it: eosin takes hardly any red, and its purest pixels would be lost."""
ANGLE_PERCENTILE = 1.0
"""Macenko's alpha: the stains are the directions at this percentile from both ends."""
STRENGTH_PERCENTILE = 99.0
"""What counts as the strongest amount of a stain, after Macenko."""
LEAST_ANGLE_DEG = 8.0
"""Two stains that lie closer are one stain and noise; haematoxylin is about 37 degrees from DAB and 39 from eosin."""
LEAST_LAB_STD = 1.0
"""A channel of 8-bit CIELAB that varies less is flat: stretching it would show noise."""
BAND_PIXELS = 8192
"""Pixels that are worked on at a time: 96 KiB of three float32 channels."""
LARGEST_GAIN = 4.0
"""No stain and no channel is stretched or shrunk further than this factor: what asks for more is no tissue."""


def stain_jitter_map(scales: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The affine map of optical densities that scales and shifts the amounts of three stains.

    Amounts c and densities d satisfy d = c S with the stain matrix S, so c' = c diag(scales) + shifts gives
    d' = d (S^-1 diag(scales) S) + shifts S: one 3 x 3 product a pixel. After Tellez et al., IEEE TMI 37, 2018.

    Args:
        scales: Factor of each stain, shape (3,).
        shifts: Added amount of each stain, shape (3,).

    Returns:
        (matrix 3 x 3, offset 3) with densities' = densities @ matrix + offset.
    """
    stains = HED_FROM_RUIFROK / np.linalg.norm(HED_FROM_RUIFROK, axis=1, keepdims=True)
    return np.linalg.inv(stains) @ np.diag(scales) @ stains, shifts @ stains


def image_of_densities(densities_HWC: np.ndarray) -> np.ndarray:
    """Grey levels of optical densities: float32 in, uint8 out, clipped."""
    values_HWC = np.exp(-densities_HWC) * np.float32(256) - np.float32(1)
    return np.clip(np.rint(values_HWC), 0, 255).astype(np.uint8)


def map_in_bands(image_HWC: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply a change that works pixel by pixel to a few rows at a time.

    What it needs in between then stays in the processor's cache and is not asked of the system anew for each image,
    which would take longer than the arithmetic.

    Args:
        image_HWC: uint8, (H, W, 3).
        change: Gives uint8 (h, W, 3) of uint8 (h, W, 3).
    """
    changed_HWC = np.empty(image_HWC.shape, np.uint8)
    rows = max(1, BAND_PIXELS // max(1, image_HWC.shape[1]))
    for start in range(0, len(image_HWC), rows):
        changed_HWC[start : start + rows] = change(image_HWC[start : start + rows])
    return changed_HWC


def stain_basis(vectors_23: np.ndarray) -> np.ndarray:
    """Two stain vectors and, as the third row, the unit vector across both: an invertible (3, 3) float64.

    The third amount holds what neither stain explains (pen, blood, noise), so that a decomposition loses nothing.

    Args:
        vectors_23: Unit stain vectors as rows, (2, 3).
    """
    across_3 = np.cross(vectors_23[0], vectors_23[1])
    return np.vstack([vectors_23, across_3 / np.linalg.norm(across_3)])


@dataclass(frozen=True)
class StainStatistics:
    """What is known of the stains of a slide or an image."""

    vectors_23: np.ndarray
    """Unit vectors of haematoxylin and the second stain in optical density, (2, 3)."""
    strengths_2: np.ndarray
    """Strongest amounts of both, (2,)."""


def macenko_statistics(pixels_NC: np.ndarray) -> StainStatistics | None:
    """Find the two stains of an image: the extreme directions in the plane of its optical densities.

    After Macenko et al., ISBI 2009: the plane of the densities' two principal axes, and in it robust percentiles of the
    angle; the amounts by least squares. The vector that takes more of the red is haematoxylin.

    Args:
        pixels_NC: uint8 RGB of tissue, (N, 3).

    Returns:
        The statistics, or None where the pixels do not tell: too few are dense, or there is but one direction.
    """
    densities_NC = DENSITY_OF_VALUE[pixels_NC].astype(np.float64)
    densities_NC = densities_NC[densities_NC.mean(axis=1) >= LEAST_DENSITY]
    if len(densities_NC) < 3:
        return None
    values_3, axes_33 = np.linalg.eigh(np.cov(densities_NC, rowvar=False))
    plane_32 = axes_33[:, [2, 1]]
    plane_32 = plane_32 * np.where(plane_32.sum(axis=0) < 0, -1, 1)
    if not np.isfinite(values_3).all() or values_3[1] <= 0:
        return None
    across_N2 = densities_NC @ plane_32
    angles_N = np.arctan2(across_N2[:, 1], across_N2[:, 0])
    ends_2 = np.percentile(angles_N, [ANGLE_PERCENTILE, 100 - ANGLE_PERCENTILE])
    vectors_23 = np.stack([np.cos(ends_2), np.sin(ends_2)], axis=1) @ plane_32.T
    if np.degrees(ends_2[1] - ends_2[0]) < LEAST_ANGLE_DEG or (vectors_23.sum(axis=1) <= 0).any():
        return None
    if vectors_23[0, 0] < vectors_23[1, 0]:
        vectors_23 = vectors_23[::-1]
    amounts_N2 = densities_NC @ np.linalg.pinv(vectors_23)
    strengths_2 = np.percentile(amounts_N2, STRENGTH_PERCENTILE, axis=0)
    return StainStatistics(vectors_23, strengths_2) if (strengths_2 > LEAST_DENSITY).all() else None


def lab_statistics(pixels_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and standard deviation of pixels in 8-bit CIELAB, (3,) each; None where a channel is flat.

    Args:
        pixels_NC: uint8 RGB of tissue, (N, 3).
    """
    if not len(pixels_NC):
        return None
    lab_NC = cv2.cvtColor(np.ascontiguousarray(pixels_NC)[None], cv2.COLOR_RGB2LAB)[0]
    mean_3, std_3 = lab_NC.mean(axis=0, dtype=np.float64), lab_NC.std(axis=0, dtype=np.float64)
    return (mean_3, std_3) if std_3.min() >= LEAST_LAB_STD else None


@dataclass(frozen=True)
class DensityMap:
    """A linear map of optical densities: densities' = densities @ matrix. Clear glass stays as it is."""

    matrix_33: np.ndarray
    """(3, 3) float64."""

    def __call__(self, image_HWC: np.ndarray) -> np.ndarray:
        """Map uint8 RGB (H, W, 3) to uint8 RGB of the same shape."""
        return map_in_bands(image_HWC, self._mapped)

    def _mapped(self, image_HWC: np.ndarray) -> np.ndarray:
        matrix = self.matrix_33.astype(np.float32)
        red, green, blue = (DENSITY_OF_VALUE[image_HWC[..., channel]] for channel in range(3))
        mapped_HWC = np.empty(image_HWC.shape, np.float32)
        for channel in range(3):
            # Not a matrix product: its rounding would depend on the array's shape.
            mapped_HWC[..., channel] = red * matrix[0, channel] + green * matrix[1, channel] + blue * matrix[2, channel]
        return image_of_densities(mapped_HWC)


@dataclass(frozen=True)
class LabMap:
    """Each channel of 8-bit CIELAB through a table; glass stays glass.

    The change that the table makes is added to the pixel, so that a table that changes nothing returns the image
    itself, whatever a round trip through CIELAB would round. Towards white the change fades out: the statistics are
    those of tissue, and glass would be tinted by them.
    """

    table_CV: np.ndarray  # noqa: N815
    """New value of each value of each channel, (3, 256) uint8."""

    def __call__(self, image_HWC: np.ndarray) -> np.ndarray:
        """Map uint8 RGB (H, W, 3) to uint8 RGB of the same shape."""
        return map_in_bands(np.ascontiguousarray(image_HWC), self._mapped)

    def _mapped(self, image_HWC: np.ndarray) -> np.ndarray:
        lab_HWC = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2LAB)
        mapped_HWC = cv2.LUT(lab_HWC, np.ascontiguousarray(self.table_CV.T[None]))
        before_HWC, after_HWC = (cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) for lab in (lab_HWC, mapped_HWC))
        changes_HWC = cv2.subtract(after_HWC, before_HWC, dtype=cv2.CV_16S)
        # Full change up to 216, none at 248 and above, in 32nds: whole numbers keep tiles equal to the whole.
        palest_HW = functools.reduce(cv2.min, cv2.split(image_HWC))
        share_HW = np.clip(248 - palest_HW.astype(np.int16), 0, 32)
        changes_HWC *= cv2.merge([share_HW] * 3)
        changes_HWC += 16
        changes_HWC >>= 5
        mapped: np.ndarray = cv2.add(image_HWC, changes_HWC, dtype=cv2.CV_8U)
        return mapped


def macenko_map(own: StainStatistics, reference: StainStatistics) -> DensityMap:
    """The map that gives an image the stain vectors and strengths of a reference.

    What lies across the stain plane is kept, where Macenko et al. drop it: an image mapped onto its own statistics is
    then the image itself.
    """
    gains_2 = np.clip(reference.strengths_2 / own.strengths_2, 1 / LARGEST_GAIN, LARGEST_GAIN)
    scaled_33 = np.diag([*gains_2, 1.0]) @ stain_basis(reference.vectors_23)
    return DensityMap(np.linalg.inv(stain_basis(own.vectors_23)) @ scaled_33)


def reinhard_map(own: tuple[np.ndarray, np.ndarray], reference: tuple[np.ndarray, np.ndarray]) -> LabMap:
    """The map that gives an image the CIELAB means and standard deviations of a reference.

    After Reinhard et al., IEEE CG&A 21, 2001, in CIELAB instead of their l-alpha-beta, as is usual in histology.

    Args:
        own: Mean and standard deviation of the image's tissue in 8-bit CIELAB, (3,) each.
        reference: Those wanted.
    """
    gains_3 = np.clip(reference[1] / own[1], 1 / LARGEST_GAIN, LARGEST_GAIN)
    values_V = np.arange(256, dtype=np.float64)
    table_3V = (values_V - own[0][:, None]) * gains_3[:, None] + reference[0][:, None]
    return LabMap(np.clip(np.rint(table_3V), 0, 255).astype(np.uint8))
