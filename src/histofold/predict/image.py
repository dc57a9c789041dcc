"""One image from slide to runs at its original size."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from histofold.core.rle.runs import Masks, RunEncoder, Runs, join_classes
from histofold.imaging.resample import RowUpsampler
from histofold.imaging.slide import Slide, open_sample
from histofold.imaging.stain import network_view
from histofold.models.film import organs_seen
from histofold.predict.postprocess import PeakMap, clean_masks
from histofold.predict.stages import Networks, OutOfTimeError, Stage
from histofold.predict.tiled import BlankTiles, TileBatch, Tiling, dense_values, grid_of, predict_bands
from histofold.schema.manifest import Manifest
from histofold.schema.sample import Sample

BLANK_LOGIT = -20.0  # logit of a tile that no network sees; its probability is 2e-9
EMPTY_ROWS = 1024  # rows at a time that fill up an image whose time ran out

Threshold = float | tuple[float, ...]
"""A probability that all classes are cut at, or one for each class."""
StageForward = Callable[[Stage, Networks, TileBatch], np.ndarray]
"""Takes a batch through a stage on one device: float32 values NKHW."""


class ImageSink(Protocol):
    """Is given what there is of each image besides its row; no kernel has one.

    An image may begin anew, where memory did not suffice. Bands are the first row and float32 (K, h, W) at the original
    size, from top to bottom, valid until `add` returns; the masks are those of the row.
    """

    def begin(self, sample: Sample, shape_hw: tuple[int, int], threshold: Threshold) -> None: ...  # noqa: D102

    def add(self, y: int, probs_KHW: np.ndarray) -> None: ...  # noqa: D102

    def finish(self, masks: Masks, is_final: bool) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class ImagePrediction:
    """What an ensemble says of one image, at its original size."""

    shape_hw: tuple[int, int]
    """The file's own height and width."""
    runs: dict[Threshold, Masks]
    """For each threshold the runs of the mask, column-major, before any cleaning; of each class where there are
    several."""
    peak: Runs
    """The most probable place of the first class, as a small mask: the last resort where nothing passes the
    threshold."""
    pixel_size_um: float | None
    """Pixel size of the file, None where unknown."""
    seeds: Masks | None = None
    """What passes the manifest's seed threshold; None where it has none."""
    rows_done: int | None = None
    """Rows that the network saw; the others, for which there was no time, are empty."""

    def masks(self, threshold: Threshold, manifest: Manifest, never_empty: bool) -> Masks:
        """The cleaned mask at a threshold that the image was predicted with; see `clean_masks`."""
        found = self.runs[threshold]
        return clean_masks(found, self.seeds, self.peak, manifest, self.pixel_size_um, never_empty)


def forward_batch(stage: Stage, networks: Networks, batch: TileBatch) -> np.ndarray:
    """A batch through all passes of a stage, however long it takes; of blank tiles alone there are no values."""
    return dense_values(networks(batch.images, stage.passes, stage.manifest) if batch.places else None)


def of_organ(forward: Callable[[TileBatch], np.ndarray], organ: str, batch: TileBatch) -> np.ndarray:
    """A batch through networks that are told, in their own thread, what the slide shows."""
    with organs_seen((organ,)):
        return forward(batch)


def predict_image(
    stages: Sequence[Stage],
    slide: Slide,
    pixel_size_um: float | None,
    thresholds: Sequence[Threshold],
    forward: StageForward = forward_batch,
    sink: ImageSink | None = None,
) -> ImagePrediction:
    """Predict a slide in memory that does not grow with its probabilities: one tile row, and the runs of each class.

    Args:
        stages: The ensemble; classes and seed threshold are those of the first stage.
        slide: The opened slide.
        pixel_size_um: Its pixel size; None (unknown) means the whole-image scale.
        thresholds: One mask (of each class) is made for each; a pixel is mask where its probability is at least the
            threshold.
        forward: Takes each batch through a stage; it may leave passes out where time is short.
        sink: Given each band.

    Raises:
        ValueError: If the network gives another number of classes than the manifest names.
        OutOfTimeError: If time ran out before there was a single row.
    """
    manifest = stages[0].manifest
    wanted: list[Threshold] = [*thresholds, *([manifest.seed_threshold] if manifest.seed_threshold > 0 else [])]
    cuts = {key: key if isinstance(key, tuple) else (key,) * len(manifest.classes) for key in wanted}
    encoders = {key: [(cut, RunEncoder(slide.shape_hw)) for cut in of_classes] for key, of_classes in cuts.items()}
    bands = ImageBands(stages, slide, pixel_size_um, forward)
    rows = 0
    try:
        for y, probs_KHW in bands:
            for of_classes in encoders.values():
                for probs_HW, (cut, encoder) in zip(probs_KHW, of_classes, strict=True):
                    encoder.add(probs_HW >= cut)
            if sink is not None:
                sink.add(y, probs_KHW)
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


class ImageBands:
    """The probabilities of an image at its original size, band by band, and the peak of what has passed.

    One stage is upsampled once; several meet at the original size.
    """

    def __init__(
        self, stages: Sequence[Stage], slide: Slide, pixel_size_um: float | None, forward: StageForward
    ) -> None:
        self._stages, self._slide, self._pixel_size_um, self._forward = stages, slide, pixel_size_um, forward
        self._logits = stages[0].manifest.average == "logits"
        self._peak: PeakMap | None = None

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Bands (y, float32 (K, h, W)) that partition the rows, each valid until the next is asked for."""
        alone = len(self._stages) == 1
        self._peak = None if alone else PeakMap(self._slide.shape_hw)
        parts = [(stage.share, self._stage_bands(stage, peak_here=alone)) for stage in self._stages]
        try:
            for y, values_KHW in parts[0][1] if alone else mean_bands(parts):
                probs_KHW = self._probs(values_KHW)
                if not alone and self._peak is not None:
                    self._peak.add(y, probs_KHW[0])
                yield y, probs_KHW
        finally:
            for _, bands in parts:  # readers end before the slide is closed
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
        channels = manifest.preprocessing.channels
        tiling = Tiling(grid, manifest.batch, manifest.blend, blank if manifest.skip_blank else None, channels)
        organ = self._slide.organ
        forwards = [partial(of_organ, partial(self._forward, stage, networks), organ) for networks in stage.networks]
        for y, values_KHW in predict_bands(forwards, scaled, tiling, stage.threaded):
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
    stages: Sequence[Stage],
    sample: Sample,
    thresholds: Sequence[Threshold],
    never_empty: bool,
    forward: StageForward = forward_batch,
) -> list[Masks]:
    """The cleaned masks of a sample, one for each threshold.

    Raises:
        ImageError: If it cannot be read.
    """
    with open_sample(sample) as slide:
        prediction = predict_image(stages, slide, sample.pixel_size_um, thresholds, forward)
    return [prediction.masks(threshold, stages[0].manifest, never_empty) for threshold in thresholds]


def predict_probabilities(
    stages: Sequence[Stage], slide: Slide, pixel_size_um: float | None, forward: StageForward = forward_batch
) -> np.ndarray:
    """The probabilities that `predict_image` cuts, float32 (K, H, W) at the slide's size, all of them in memory."""
    probs_KHW = np.empty((len(stages[0].manifest.classes), *slide.shape_hw), np.float32)
    for y, band_KHW in ImageBands(stages, slide, pixel_size_um, forward):
        probs_KHW[:, y : y + band_KHW.shape[1]] = band_KHW
    return probs_KHW


def mean_bands(
    streams: Sequence[tuple[float, Iterator[tuple[int, np.ndarray]]]],
) -> Iterator[tuple[int, np.ndarray]]:
    """The weighted mean of streams of row bands of one image, as `aligned_bands` cuts them: no map is ever held.

    Args:
        streams: (share, bands) each, as there.

    Yields:
        (first row, float32 (K, h, W)), valid until the next is asked for.

    Raises:
        ValueError: As there.
    """
    shares = [np.float32(share) for share, _ in streams]
    for row, parts in aligned_bands([bands for _, bands in streams]):
        mean_KHW = np.zeros(parts[0].shape, np.float32)
        for share, part in zip(shares, parts, strict=True):
            mean_KHW += share * part
        yield row, mean_KHW


def aligned_bands(streams: Sequence[Iterator[tuple[int, np.ndarray]]]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Streams of row bands of one image, cut where any of them is cut.

    Args:
        streams: Bands each, which partition the same rows from top to bottom, values float32 (K, h, W).

    Yields:
        (first row, the rows of each stream), valid until the next is asked for.

    Raises:
        ValueError: If the streams give different numbers of classes, or end at different rows.
    """
    held: list[np.ndarray | None] = [None] * len(streams)
    row = 0
    while True:
        for place, bands in enumerate(streams):
            rest = held[place]
            while rest is None or rest.shape[1] == 0:
                following = next(bands, None)
                if following is None:
                    break
                rest = following[1]
            held[place] = rest
        parts = [part for part in held if part is not None and part.shape[1]]
        if not parts:
            return
        if len(parts) < len(streams) or len({len(part) for part in parts}) > 1:
            raise ValueError("the parts of the ensemble give different classes or different rows")
        height = min(part.shape[1] for part in parts)
        yield row, [part[:, :height] for part in parts]
        row += height
        held = [part[:, height:] for part in parts]
