"""One image from slide to runs at its original size."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from histofold.core.regions import keep_largest
from histofold.core.rle.runs import Masks, RunEncoder, Runs, join_classes, runs_from_mask
from histofold.core.tiles import TileGrid
from histofold.imaging.resample import RowUpsampler
from histofold.imaging.slide import Slide, open_slide
from histofold.imaging.stain import network_view
from histofold.predict.joint import JointEnsemble, Stage, mean_bands, stages_of
from histofold.predict.postprocess import clean_masks
from histofold.predict.submission.budget import OutOfTimeError
from histofold.predict.tiled import BlankTiles, Forward, predict_bands
from histofold.schema.manifest import Manifest
from histofold.schema.sample import Sample

PEAK_CELLS = 256  # the peak map is at most this many cells a side: 64k floats, whatever the slide's size
BLANK_LOGIT = -20.0  # logit of a tile that no network sees; its probability is 2e-9
EMPTY_ROWS = 1024  # rows at a time that fill up an image whose time ran out

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
        seeds: What passes the manifest's seed threshold; None where it has none.
        rows_done: Rows that the network saw; the others, for which there was no time, are empty.
    """

    shape_hw: tuple[int, int]
    runs: dict[Threshold, Masks]
    peak: Runs
    pixel_size_um: float | None
    seeds: Masks | None = None
    rows_done: int | None = None

    def masks(self, threshold: Threshold, manifest: Manifest, never_empty: bool) -> Masks:
        """The cleaned mask at a threshold that the image was predicted with; see `clean_masks`."""
        found = self.runs[threshold]
        return clean_masks(found, self.seeds, self.peak, manifest.postprocess, self.pixel_size_um, never_empty)


def grid_of(manifest: Manifest, scaled_hw: tuple[int, int]) -> TileGrid:
    """The tiles of an image at the network's scale, as the manifest says."""
    if manifest.preprocessing.scale_mode == "whole":
        return TileGrid(scaled_hw, manifest.preprocessing.whole_size)
    stride = manifest.stride or (manifest.tile // 2 if manifest.blend else 0)
    return TileGrid(scaled_hw, manifest.tile, stride, 0 if manifest.blend else manifest.halo)


def predict_image(
    forward: Forward | JointEnsemble | Sequence[Stage],
    slide: Slide,
    pixel_size_um: float | None,
    manifest: Manifest,
    thresholds: Sequence[Threshold],
) -> ImagePrediction:
    """Predict a slide in memory that does not grow with its probabilities: one tile row, and the runs of each class.

    Args:
        forward: The ensemble, or any function of uint8 tiles NHWC to float32 probabilities NKHW.
        slide: The opened slide.
        pixel_size_um: Its pixel size; None (unknown) means the whole-image scale.
        manifest: Scale, tiles, batch and classes; the parts of a joint ensemble have their own.
        thresholds: One mask (of each class) is made for each; a pixel is mask where its probability is at least the
            threshold.

    Raises:
        ValueError: If the network gives another number of classes than the manifest names.
        OutOfTimeError: If time ran out before there was a single row.
    """
    wanted: list[Threshold] = [*thresholds, *([manifest.seed_threshold] if manifest.seed_threshold > 0 else [])]
    encoders = {
        threshold: [(cut, RunEncoder(slide.shape_hw, order="F", axis="rows")) for cut in cuts]
        for threshold, cuts in _class_cuts(wanted, len(manifest.classes)).items()
    }
    bands = _ImageBands(stages_of(forward, manifest), slide, pixel_size_um)
    rows = 0
    try:
        for y, probs_KHW in bands:
            for of_classes in encoders.values():
                for probs_HW, (cut, encoder) in zip(probs_KHW, of_classes, strict=True):
                    encoder.add(probs_HW >= cut)
            rows = y + probs_KHW.shape[1]
    except OutOfTimeError:
        if rows == 0:
            raise
        for start in range(rows, slide.shape_hw[0], EMPTY_ROWS):
            empty_HW = np.zeros((min(EMPTY_ROWS, slide.shape_hw[0] - start), slide.shape_hw[1]), bool)
            for of_classes in encoders.values():
                for _, encoder in of_classes:
                    encoder.add(empty_HW)
    runs = {key: join_classes([encoder.runs() for _, encoder in of_classes]) for key, of_classes in encoders.items()}
    seeds = runs[manifest.seed_threshold] if manifest.seed_threshold > 0 else None
    return ImagePrediction(slide.shape_hw, runs, bands.peak_runs(), pixel_size_um, seeds, rows)


def _class_cuts(thresholds: Sequence[Threshold], classes: int) -> dict[Threshold, tuple[float, ...]]:
    """Where each threshold cuts each class."""
    return {cut: cut if isinstance(cut, tuple) else (cut,) * classes for cut in thresholds}


class _ImageBands:
    """The probabilities of an image at its original size, band by band, and the peak of what has passed.

    One stage is upsampled once; several meet at the original size.
    """

    def __init__(self, stages: Sequence[Stage], slide: Slide, pixel_size_um: float | None) -> None:
        self._stages, self._slide, self._pixel_size_um = stages, slide, pixel_size_um
        self._logits = stages[0].manifest.average == "logits"
        self._peak: PeakMap | None = None

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Bands (y, float32 (K, h, W)) that partition the rows, each valid until the next is asked for."""
        if len(self._stages) == 1:
            yield from self._one_stage()
            return
        self._peak = PeakMap(self._slide.shape_hw)
        parts = [(stage.share, self._stage_bands(stage, peak_here=False)) for stage in self._stages]
        try:
            for y, values_KHW in mean_bands(parts):
                probs_KHW = self._probs(values_KHW)
                self._peak.add(y, probs_KHW[0])
                yield y, probs_KHW
        finally:
            for _, bands in parts:  # readers end before the slide is closed
                bands.close()

    def _one_stage(self) -> Iterator[tuple[int, np.ndarray]]:
        bands = self._stage_bands(self._stages[0], peak_here=True)
        try:
            for y, values_KHW in bands:
                yield y, self._probs(values_KHW)
        finally:
            bands.close()

    def _stage_bands(self, stage: Stage, peak_here: bool) -> Generator[tuple[int, np.ndarray], None, None]:
        """What a stage says of the image, at the original size."""
        manifest = stage.manifest
        scaled = network_view(self._slide, manifest.preprocessing, self._pixel_size_um)
        if peak_here:
            self._peak = PeakMap(scaled.shape_hw)
        upsampler = RowUpsampler(scaled.shape_hw, self._slide.shape_hw)
        blank = BlankTiles(len(manifest.classes), BLANK_LOGIT if self._logits else 0.0)
        grid = grid_of(manifest, scaled.shape_hw)
        skipping = blank if manifest.skip_blank else None
        for y, values_KHW in predict_bands(stage.forward, scaled, grid, manifest.batch, manifest.blend, skipping):
            if peak_here and self._peak is not None:
                self._peak.add(y, self._probs(values_KHW[:1])[0])
            yield from upsampler.push(values_KHW)
        yield from upsampler.finish()

    def _probs(self, values_KHW: np.ndarray) -> np.ndarray:
        """Probabilities of what the stages average."""
        if not self._logits:
            return values_KHW
        return 1 / (1 + np.exp(-np.clip(values_KHW, -30, 30)))

    def peak_runs(self) -> Runs:
        """The most probable place so far."""
        assert self._peak is not None
        return self._peak.runs(self._slide.shape_hw)


def predict_masks(
    forward: Forward | JointEnsemble,
    sample: Sample,
    manifest: Manifest,
    thresholds: Sequence[Threshold],
    never_empty: bool,
) -> list[Masks]:
    """The cleaned masks of a sample, one for each threshold; raises ImageError where it cannot be read."""
    with open_slide(sample.image_path) as slide:
        prediction = predict_image(forward, slide, sample.pixel_size_um, manifest, thresholds)
    return [prediction.masks(threshold, manifest, never_empty) for threshold in thresholds]


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
        # Each pixel takes all cells up to the next pixel's: of an enlarged image none may fall between two.
        wide_HW = np.logical_or.reduceat(largest_HW, columns, axis=1)
        stops = np.maximum(np.append(rows[1:], len(wide_HW)), rows + 1)
        encoder = RunEncoder(original_hw, order="F", axis="rows")
        for start in range(0, original_hw[0], 1024):
            chosen = rows[start : start + 1024]
            encoder.add(np.logical_or.reduceat(wide_HW[: stops[start + len(chosen) - 1]], chosen, axis=0))
        return encoder.runs()
