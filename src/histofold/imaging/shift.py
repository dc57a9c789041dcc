"""Slides shown as another laboratory would have made them: other stains, a thicker section, coarser pixels.

The arithmetic is that of the augmentation (`histofold.train.augment`), which draws what here is fixed. A shifted slide
has the size, the grid and the truth of the slide itself. A region depends on its place in the whole alone, so that
tiles agree at their seams: the colours change pixel by pixel, in NumPy's elementwise arithmetic, and what reaches
further, blur and loss of detail, reads a margin around the region and works in whole numbers.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from histofold.core.stain import DENSITY_OF_VALUE, image_of_densities, map_in_bands, stain_basis
from histofold.imaging.filters import triangle_resize, triangle_span
from histofold.imaging.resample import ScaledSlide, scaled_shape
from histofold.imaging.slide import Slide, SlideReader, open_sample
from histofold.imaging.stain import LEAST_TISSUE_PIXELS, sample_regions, tissue_pixels
from histofold.schema.sample import Sample

HAEMATOXYLIN = np.array([0.65, 0.704, 0.286])
SECOND_STAINS = np.array([[0.268, 0.57, 0.776], [0.07, 0.99, 0.11], [0.175, 0.95, 0.26]])
"""DAB, eosin and PAS (Schiff's magenta) as unit vectors in optical density; Ruifrok and Johnston 2001."""
STAINS = ("H-DAB", "H&E", "PAS")
"""The stains that have these as their second one, beside haematoxylin."""
BLUR_OF_DOUBLE_DENSITY_PX = 0.5
"""What lies above and below the plane of focus blurs, for each doubling of what a section absorbs, by this sigma."""
_LEAST_SIGMA_PX = 0.2
_DARKEST_GLASS = 220  # what is darker in a slide without glass is pale tissue
_THICKNESS_EXPONENT = 0.35


@dataclass(frozen=True)
class StainTransfer:
    """What becomes of two stains where other ones are shown in their place.

    Since a counterstain colours cytoplasm where eosin does not, the light part of the haematoxylin (that of cytoplasm,
    h / (1 + h / `light`)) flows to the second stain, while the dense part (nuclei) stays.
    """

    vectors_23: np.ndarray
    """Unit vectors of the new haematoxylin and second stain in optical density, (2, 3)."""
    gains_3: np.ndarray
    """Factors of haematoxylin, of the second stain and of what lies across both, (3,)."""
    light: float
    """Amount of haematoxylin that is half as dense as nuclei."""
    share: float
    """Part of the light haematoxylin that flows."""
    boost: float
    """Amount of the second stain for each amount that flows."""

    def matrices(self, own_23: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The transfer of an image as arithmetic of its optical densities.

        Args:
            own_23: Unit vectors of its own stains, (2, 3).

        Returns:
            (whole (3, 3), haematoxylin (3,), flow (3,)): new densities are densities @ whole + light @ flow, where
            light is h / (1 + h / `light`) of h = max(0, densities @ haematoxylin).
        """
        inverse_33 = np.linalg.inv(stain_basis(own_23))
        mixing_33 = stain_basis(self.vectors_23) * self.gains_3[:, None]
        # One product unmixes and mixes again; what flows is added.
        return inverse_33 @ mixing_33, inverse_33[:, 0], self.share * (self.boost * self.vectors_23[1] - mixing_33[0])


def own_stains(densities_NC: np.ndarray) -> tuple[int, np.ndarray]:
    """The second stain, by its place in `SECOND_STAINS`, that leaves the least of optical densities unexplained.

    Args:
        densities_NC: float32 (N, 3).

    Returns:
        Its place, and the unit vectors of haematoxylin and of it, (2, 3).
    """
    pairs_S23 = np.stack([np.stack([HAEMATOXYLIN, second_3 / np.linalg.norm(second_3)]) for second_3 in SECOND_STAINS])
    across_3S = np.stack([stain_basis(pair_23)[2] for pair_23 in pairs_S23], axis=1).astype(np.float32)
    place = int(np.argmin(np.abs(densities_NC @ across_3S).sum(axis=0)))
    return place, pairs_S23[place]


def usual_transfer(second: int) -> StainTransfer:
    """To haematoxylin and a pure second stain, by its place, so that cytoplasm loses its haematoxylin to that stain.

    The numbers lie within what the augmentation draws.
    """
    vectors_23 = np.stack([HAEMATOXYLIN, SECOND_STAINS[second]])
    vectors_23 /= np.linalg.norm(vectors_23, axis=1, keepdims=True)
    return StainTransfer(vectors_23, gains_3=np.array([1, 0.5, 0.5]), light=0.5, share=0.9, boost=1.8)


def absorb_more(image_HWC: np.ndarray, log2_factor: float) -> np.ndarray:
    """Show a section that absorbs more or less: optical densities by a factor, and with more a little blur.

    By Beer and Lambert's law the optical density grows with the amount of stain.

    Args:
        image_HWC: uint8 RGB, (H, W, 3).
        log2_factor: Logarithm of the factor; blur is `BLUR_OF_DOUBLE_DENSITY_PX` times it.
    """
    table_V = image_of_densities(DENSITY_OF_VALUE * np.float32(2**log2_factor))
    changed_HWC = cv2.LUT(image_HWC, table_V)
    sigma_px = BLUR_OF_DOUBLE_DENSITY_PX * log2_factor
    return changed_HWC if sigma_px < _LEAST_SIGMA_PX else cv2.GaussianBlur(changed_HWC, (0, 0), sigma_px)


def density_of_thickness(ratio: float) -> float:
    """How much more a section of so many times the usual thickness absorbs.

    Less than in proportion, since stain does not reach all of a thick one; by how much is an assumption.
    """
    return ratio**_THICKNESS_EXPONENT


@dataclass(frozen=True, kw_only=True)
class Shift:
    """How a slide is shown otherwise; nothing is drawn."""

    stain: str
    """Of `STAINS`. A slide that has it already, or shows too little tissue to tell, keeps its colours."""
    coarser: float = 1.0
    """Pixel size whose detail is left, over that of the slide; at least 1."""
    thicker: float = 1.0
    """Thickness over that of the slide."""

    def __post_init__(self) -> None:
        if self.stain not in STAINS:
            raise ValueError(f"stain={self.stain!r} is not one of {', '.join(STAINS)}")
        if not (math.isfinite(self.coarser) and self.coarser >= 1):
            raise ValueError(f"coarser={self.coarser} must be at least 1: detail that is not there cannot be shown")
        if not (math.isfinite(self.thicker) and self.thicker > 0):
            raise ValueError(f"thicker={self.thicker} must be a positive factor")


def shifted_sample(sample: Sample, shift: Shift) -> Sample:
    """The sample with its slide shifted wherever it is opened."""
    return replace(sample, opened_by=functools.partial(_open_shifted, sample, shift))


def _open_shifted(plain: Sample, shift: Shift, _: Sample) -> Slide:
    """What `Sample.opened_by` is made of."""
    return shifted_slide(open_sample(plain), shift)


def shifted_slide(slide: Slide, shift: Shift) -> Slide:
    """A slide as a shift shows it; closing it closes the slide.

    Raises:
        ImageError: If the slide's data cannot be decoded.
    """
    reader: SlideReader = _ColouredReader(slide, shift)
    if shift.coarser > 1:
        reader = _CoarseReader(Slide(slide.path, reader), shift.coarser)
    return Slide(slide.path, reader)


class _ColouredReader:
    """A slide in other stains and of another thickness, at its own pixel size."""

    def __init__(self, slide: Slide, shift: Shift) -> None:
        self.shape_hw = slide.shape_hw
        self._slide = slide
        self._log2_factor = math.log2(density_of_thickness(shift.thicker))
        # OpenCV's kernel of 8-bit images reaches three sigmas.
        self._margin = math.ceil(3 * BLUR_OF_DOUBLE_DENSITY_PX * max(0.0, self._log2_factor)) + 1
        regions = list(sample_regions(ScaledSlide(slide, slide.shape_hw)))
        tissue_NC = np.concatenate([tissue_pixels(region_HWC) for region_HWC in regions])
        brightest_3 = np.percentile(np.concatenate([region_HWC.reshape(-1, 3) for region_HWC in regions]), 99, axis=0)
        self._glass_3 = DENSITY_OF_VALUE[np.maximum(brightest_3, _DARKEST_GLASS).astype(np.uint8)]
        wanted = STAINS.index(shift.stain)
        place, self._own_23 = own_stains(DENSITY_OF_VALUE[tissue_NC] - self._glass_3)
        keeps = len(tissue_NC) < LEAST_TISSUE_PIXELS or place == wanted
        self._transfer = None if keeps else usual_transfer(wanted)

    def read_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        """As `SlideReader.read_into`."""
        rows, columns = (
            slice(max(0, start - self._margin), min(length, start + side + self._margin))
            for start, side, length in zip((y, x), canvas_HWC.shape[:2], self.shape_hw, strict=True)
        )
        shown_HWC = self._slide.read(rows, columns)
        if self._transfer is not None:
            shown_HWC = restain(shown_HWC, self._transfer, self._own_23, self._glass_3)
        shown_HWC = absorb_more(shown_HWC, self._log2_factor)
        top, left = y - rows.start, x - columns.start
        canvas_HWC[...] = shown_HWC[top : top + canvas_HWC.shape[0], left : left + canvas_HWC.shape[1]]

    def close(self) -> None:
        """As `SlideReader.close`."""
        self._slide.close()


class _CoarseReader:
    """A slide without the detail that larger pixels would not show: made coarser and brought back to its size."""

    def __init__(self, slide: Slide, coarser: float) -> None:
        self.shape_hw = slide.shape_hw
        self._coarse = ScaledSlide(slide, scaled_shape(slide.shape_hw, 1 / coarser))

    def read_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        """As `SlideReader.read_into`."""
        rows, columns = range(y, y + canvas_HWC.shape[0]), range(x, x + canvas_HWC.shape[1])
        coarse_hw = self._coarse.shape_hw
        spans = [
            triangle_span(pixels, length, scaled)
            for pixels, length, scaled in zip((rows, columns), coarse_hw, self.shape_hw, strict=True)
        ]
        canvas_HWC[...] = triangle_resize(self._coarse.read(*spans), rows, columns, coarse_hw, self.shape_hw)

    def close(self) -> None:
        """As `SlideReader.close`."""
        self._coarse.slide.close()


def restain(image_HWC: np.ndarray, transfer: StainTransfer, own_23: np.ndarray, glass_3: np.ndarray) -> np.ndarray:
    """Show an image in other stains, each pixel by itself to the last bit.

    Args:
        image_HWC: uint8 RGB, (H, W, 3).
        transfer: What becomes of its stains.
        own_23: Unit vectors of its own stains, (2, 3).
        glass_3: Optical densities of its glass, float32 (3,), which stays as it is.
    """
    whole_33, haematoxylin_3, flow_3 = (values.astype(np.float32) for values in transfer.matrices(own_23))

    def shown(band_HWC: np.ndarray) -> np.ndarray:
        # Not a matrix product: its rounding would depend on the array's shape.
        red, green, blue = (DENSITY_OF_VALUE[band_HWC[..., channel]] - glass_3[channel] for channel in range(3))
        light_HW = red * haematoxylin_3[0] + green * haematoxylin_3[1] + blue * haematoxylin_3[2]
        light_HW = np.maximum(light_HW, 0)
        light_HW /= 1 + light_HW * np.float32(1 / transfer.light)
        mixed_HWC = np.empty(band_HWC.shape, np.float32)
        for channel, weights_3 in enumerate(whole_33.T):
            mixed_HWC[..., channel] = red * weights_3[0] + green * weights_3[1] + blue * weights_3[2]
            mixed_HWC[..., channel] += light_HW * flow_3[channel] + glass_3[channel]
        return image_of_densities(mixed_HWC)

    return map_in_bands(image_HWC, shown)
