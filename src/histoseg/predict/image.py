"""One image from slide to runs at its original size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from histoseg.core.class_masks import Masks, class_runs, join_classes
from histoseg.core.components import keep_largest, remove_small
from histoseg.core.rle import RunEncoder, Runs, runs_from_mask
from histoseg.core.tiles import TileGrid
from histoseg.imaging.resample import RowUpsampler
from histoseg.imaging.slide import Slide, open_slide
from histoseg.imaging.stain import network_view
from histoseg.predict.tiled import predict_bands
from histoseg.schema.manifest import Manifest
from histoseg.schema.preprocessing import has_pixel_size
from histoseg.schema.sample import Sample

PEAK_CELLS = 256  # the peak map is at most this many cells a side: 64k floats, whatever the slide's size

Threshold = float | tuple[float, ...]
"""A probability that all classes are cut at, or one for each class."""


@dataclass(frozen=True)
class ImagePrediction:
    """What the network says of one image, at its original size.

    Attributes:
        shape_hw: The file's own height and width.
        runs: For each threshold the runs of the mask, column-major, before any cleaning; of each class where there are
            several.
        peak: The most probable place of the first class, as a small mask: the last resort where nothing passes the
            threshold.
        pixel_size_um: Pixel size of the file, None where unknown.
    """

    shape_hw: tuple[int, int]
    runs: dict[Threshold, Masks]
    peak: Runs
    pixel_size_um: float | None


def grid_of(manifest: Manifest, scaled_hw: tuple[int, int]) -> TileGrid:
    """The tiles of an image at the network's scale, as the manifest says."""
    if manifest.preprocessing.scale_mode == "whole":
        return TileGrid(scaled_hw, manifest.preprocessing.whole_size)
    stride = manifest.stride or (manifest.tile // 2 if manifest.blend else 0)
    return TileGrid(scaled_hw, manifest.tile, stride, 0 if manifest.blend else manifest.halo)


def predict_image(
    forward: Callable[[np.ndarray], np.ndarray],
    slide: Slide,
    pixel_size_um: float | None,
    manifest: Manifest,
    thresholds: Sequence[Threshold],
) -> ImagePrediction:
    """Predict a slide in memory that does not grow with its probabilities: one tile row, and the runs of each class.

    Args:
        forward: The ensemble: uint8 tiles NHWC to float32 probabilities NKHW.
        slide: The opened slide.
        pixel_size_um: Its pixel size; None (unknown) means the whole-image scale.
        manifest: Scale, tiles, batch and classes.
        thresholds: One mask (of each class) is made for each; a pixel is mask where its probability is at least the
            threshold.

    Raises:
        ValueError: If the network gives another number of classes than the manifest names.
    """
    scaled = network_view(slide, manifest.preprocessing, pixel_size_um)
    grid = grid_of(manifest, scaled.shape_hw)
    encoders = {
        threshold: [(cut, RunEncoder(slide.shape_hw, order="F", axis="rows")) for cut in cuts]
        for threshold, cuts in _class_cuts(thresholds, len(manifest.classes)).items()
    }
    upsampler = RowUpsampler(scaled.shape_hw, slide.shape_hw)
    peak = PeakMap(scaled.shape_hw)

    def encode(bands: Iterable[tuple[int, np.ndarray]]) -> None:
        for _, probs_KHW in bands:
            for of_classes in encoders.values():
                for probs_HW, (cut, encoder) in zip(probs_KHW, of_classes, strict=True):
                    encoder.add(probs_HW >= cut)

    for y, probs_KHW in predict_bands(forward, scaled, grid, manifest.batch, manifest.blend):
        peak.add(y, probs_KHW[0])
        encode(upsampler.push(probs_KHW))
    encode(upsampler.finish())
    runs = {cut: join_classes([encoder.runs() for _, encoder in of_classes]) for cut, of_classes in encoders.items()}
    return ImagePrediction(slide.shape_hw, runs, peak.runs(slide.shape_hw), pixel_size_um)


def _class_cuts(thresholds: Sequence[Threshold], classes: int) -> dict[Threshold, tuple[float, ...]]:
    """Where each threshold cuts each class."""
    return {cut: cut if isinstance(cut, tuple) else (cut,) * classes for cut in thresholds}


def predict_masks(
    forward: Callable[[np.ndarray], np.ndarray],
    sample: Sample,
    manifest: Manifest,
    thresholds: Sequence[Threshold],
    never_empty: bool,
) -> list[Masks]:
    """The cleaned masks of a sample, one for each threshold; raises ImageError where it cannot be read."""
    with open_slide(sample.image_path) as slide:
        prediction = predict_image(forward, slide, sample.pixel_size_um, manifest, thresholds)
    return [clean_runs(prediction, threshold, manifest.min_area_um2, never_empty) for threshold in thresholds]


class PeakMap:
    """The highest probability in each cell of a coarse grid, gathered band by band."""

    def __init__(self, shape_hw: tuple[int, int]) -> None:
        self._cell = max(1, -(-max(shape_hw) // PEAK_CELLS))
        self._shape_hw = shape_hw
        self._cells_HW = np.full([-(-side // self._cell) for side in shape_hw], -np.inf, np.float32)

    def add(self, y: int, probs_HW: np.ndarray) -> None:
        """Take the next band, whose first row is row y of the scaled image."""
        columns_HC = np.maximum.reduceat(probs_HW, np.arange(0, probs_HW.shape[1], self._cell), axis=1)
        np.maximum.at(self._cells_HW, (y + np.arange(len(probs_HW))) // self._cell, columns_HC)

    def runs(self, original_hw: tuple[int, int]) -> Runs:
        """Mask of the region around the highest cell, at the original size: cells of at least 0.9 of it, connected.

        A network that is sure of nothing still has a place that it likes best; where an empty row is never right,
        this is the row's best guess.
        """
        top = float(self._cells_HW.max())
        cells = runs_from_mask(self._cells_HW >= (0.9 * top if top > 0 else top))
        largest_HW = keep_largest(cells).to_mask()
        rows, columns = (
            np.minimum((np.arange(original) * scaled // original) // self._cell, count - 1)
            for original, scaled, count in zip(original_hw, self._shape_hw, largest_HW.shape, strict=True)
        )
        encoder = RunEncoder(original_hw, order="F", axis="rows")
        for start in range(0, original_hw[0], 1024):
            encoder.add(largest_HW[rows[start : start + 1024]][:, columns])
        return encoder.runs()


def clean_runs(prediction: ImagePrediction, threshold: Threshold, min_area_um2: float, never_empty: bool) -> Masks:
    """The mask of an image at a threshold, of each class where there are several, small components dropped.

    Args:
        prediction: What the network says.
        threshold: One of the thresholds that it was predicted with.
        min_area_um2: Smallest component in square micrometres; without a pixel size nothing is dropped.
        never_empty: Where nothing is left, keep the largest component, else the most probable place. Of several classes
            each may be absent, so it is for a single one alone.
    """
    found = class_runs(prediction.runs[threshold])
    cleaned = [_without_small(runs, min_area_um2, prediction.pixel_size_um) for runs in found]
    if len(cleaned) > 1 or cleaned[0].area or not never_empty:
        return join_classes(cleaned)
    return keep_largest(found[0]) if found[0].area else prediction.peak


def _without_small(runs: Runs, min_area_um2: float, pixel_size_um: float | None) -> Runs:
    """Runs without their small components; without a pixel size nothing is dropped."""
    if min_area_um2 > 0 and has_pixel_size(pixel_size_um) and runs.area:
        return remove_small(runs, min_area_um2 / float(pixel_size_um or 1) ** 2)
    return runs
