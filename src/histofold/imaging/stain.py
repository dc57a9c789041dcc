"""Stain normalisation of slides, the same for training tiles and for prediction.

A slide gets one map for all its pixels, fitted on its own tissue at the network's scale. The map works pixel by pixel,
so that training tiles (normalised when they are loaded) and the tiles of prediction (normalised when they are read)
show the same colours however either is cut. A map for each tile would change with the tiling, and would stretch the
colours of tiles with little tissue.

Fitting reads at most 64 regions of 64 x 64 network pixels, spread evenly over the slide: its cost and memory do not
grow with the slide. A slide that shows too little tissue, or whose colours do not tell its stains, stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from histofold.core.log import logger
from histofold.core.stain import (
    DensityMap,
    LabMap,
    StainStatistics,
    lab_statistics,
    macenko_map,
    macenko_statistics,
    reinhard_map,
)
from histofold.imaging.resample import ScaledSlide
from histofold.imaging.slide import Slide, open_sample
from histofold.imaging.tissue import tissue_mask
from histofold.schema.preprocessing import Preprocessing, StainReference
from histofold.schema.sample import Sample

StainMap = DensityMap | LabMap
SAMPLE_REGIONS = 8
"""Regions a side that a slide's colours are sampled in."""
SAMPLE_SIDE = 64
"""Side of a region in network pixels."""
LEAST_TISSUE_PIXELS = 400
"""Fewer sampled pixels of tissue do not tell a slide's colours."""


def tissue_pixels(image_HWC: np.ndarray) -> np.ndarray:
    """The pixels of an image that show tissue, uint8 (N, 3)."""
    pixels_NC: np.ndarray = image_HWC[tissue_mask(image_HWC)]
    return pixels_NC


def sample_tissue(view: ScaledSlide) -> np.ndarray:
    """Pixels of a slide's tissue at the network's scale, uint8 (N, 3), N at most 512 x 512."""
    return np.concatenate([tissue_pixels(region_HWC) for region_HWC in sample_regions(view)])


def sample_regions(view: ScaledSlide) -> Iterator[np.ndarray]:
    """Regions that are spread evenly over a slide, uint8 RGB, at most 64 of 64 x 64 pixels."""
    axes = [_sample_starts(side) for side in view.shape_hw]
    for y, height in axes[0]:
        for x, width in axes[1]:
            yield view.read(slice(y, y + height), slice(x, x + width))


def _sample_starts(side: int) -> list[tuple[int, int]]:
    """Start and length of the regions along an axis: even, disjoint, the first and the last at the ends."""
    if side <= SAMPLE_REGIONS * SAMPLE_SIDE:
        return [(0, side)]
    starts = np.linspace(0, side - SAMPLE_SIDE, SAMPLE_REGIONS).round().astype(int)
    return [(int(start), SAMPLE_SIDE) for start in starts]


def fit_stain_map(pixels_NC: np.ndarray, preprocessing: Preprocessing) -> StainMap | None:
    """The map that brings pixels of tissue, uint8 (N, 3), to the reference.

    Returns:
        The map, or None where nothing is to be changed: no method is set, there is too little tissue, or its colours
        do not tell its stains.
    """
    reference = preprocessing.stain_reference
    if preprocessing.stain == "none" or len(pixels_NC) < LEAST_TISSUE_PIXELS:
        return None
    if preprocessing.stain == "reinhard":
        moments = lab_statistics(pixels_NC)
        wanted = np.array(reference.lab_mean), np.array(reference.lab_std)
        return None if moments is None else reinhard_map(moments, wanted)
    statistics = macenko_statistics(pixels_NC)
    vectors_23 = np.array([reference.haematoxylin, reference.second])
    target = StainStatistics(vectors_23, np.array(reference.strengths))
    return None if statistics is None else macenko_map(statistics, target)


def fit_slide_reference(samples: Sequence[Sample], preprocessing: Preprocessing) -> StainReference:
    """The reference of some slides, from a bounded sample of each one's tissue at the network's scale.

    Raises:
        ImageError: If a slide's data cannot be decoded.
    """
    pixels = {}
    for sample in samples:
        with open_sample(sample) as slide:
            view = ScaledSlide(slide, preprocessing.scaled_hw(slide.shape_hw, sample.pixel_size_um, sample.organ))
            pixels[sample.id] = sample_tissue(view)
    return mean_reference(pixels)


def mean_reference(pixels: Mapping[str, np.ndarray]) -> StainReference:
    """The average of the statistics of several images, so that there is one aim for all.

    Args:
        pixels: uint8 RGB of each image's tissue, (N, 3), at the network's scale.

    Returns:
        The reference; the statistics of a method that none of the images allows are left empty.
    """
    pixels = {name: pixels_NC for name, pixels_NC in pixels.items() if len(pixels_NC) >= LEAST_TISSUE_PIXELS}
    moments = [found for found in map(lab_statistics, pixels.values()) if found is not None]
    stains = [found for found in map(macenko_statistics, pixels.values()) if found is not None]
    fitted: dict[str, np.ndarray] = {}
    if moments:
        fitted["lab_mean"], fitted["lab_std"] = np.mean(moments, axis=0)
    if stains:
        vectors_23 = np.mean([found.vectors_23 for found in stains], axis=0)
        vectors_23 /= np.linalg.norm(vectors_23, axis=1, keepdims=True)
        fitted["haematoxylin"], fitted["second"] = vectors_23
        fitted["strengths"] = np.mean([found.strengths_2 for found in stains], axis=0)
    numbers = {name: tuple(float(round(value, 6)) for value in values) for name, values in fitted.items()}
    return StainReference(images=tuple(pixels), **numbers)


class NormalisedSlide:
    """A slide at the network's scale in the colours of the reference."""

    shape_hw: tuple[int, int]
    """Height and width of the view in pixels."""
    stain_map: StainMap
    """What each pixel goes through."""

    def __init__(self, view: ScaledSlide, stain_map: StainMap) -> None:
        self.shape_hw = view.shape_hw
        self._view = view
        self.stain_map = stain_map

    def read(self, y: slice, x: slice) -> np.ndarray:
        """Read a region, as `ScaledSlide.read`."""
        return self.stain_map(self._view.read(y, x))


def network_view(
    slide: Slide, preprocessing: Preprocessing, pixel_size_um: float | None
) -> ScaledSlide | NormalisedSlide:
    """A slide as the network sees it: scaled, and normalised where the preprocessing says so.

    Raises:
        ImageError: If the slide's data cannot be decoded.
    """
    scaled_hw = preprocessing.scaled_hw(slide.shape_hw, pixel_size_um, slide.organ)
    view = ScaledSlide(slide, scaled_hw, preprocessing.channels)
    if preprocessing.stain == "none":
        return view
    stain_map = fit_stain_map(sample_tissue(view), preprocessing)
    if stain_map is None:
        logger.warning("stain %s: a slide with too little tissue or one stain stays as it is", preprocessing.stain)
        return view
    return NormalisedSlide(view, stain_map)


def slide_stain_maps(samples: Sequence[Sample], preprocessing: Preprocessing) -> dict[str, StainMap]:
    """The map of each slide, as `network_view` uses it; those that stay as they are, are left out, counted and logged.

    Raises:
        ImageError: If a slide's data cannot be decoded.
    """
    if preprocessing.stain == "none":
        return {}
    maps: dict[str, StainMap] = {}
    for sample in samples:
        with open_sample(sample) as slide:
            view = network_view(slide, preprocessing, sample.pixel_size_um)
        if isinstance(view, NormalisedSlide):
            maps[sample.id] = view.stain_map
    unchanged = len(samples) - len(maps)
    logger.info("stain %s: %d of %d slides stay as they are", preprocessing.stain, unchanged, len(samples))
    return maps
