"""Packaged weights as a Python object, for code of others: `histofold.load("weights").predict("slide.tif")`.

It answers as `histofold predict` does: the same members, views, thresholds, cleaning, and steps down where memory is
short.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from histofold.competitions.base import Competition
from histofold.competitions.objects import covered_pixels
from histofold.competitions.registry import get_competition
from histofold.core.log import logger
from histofold.core.objects.detections import Detections
from histofold.core.rle.runs import Masks, Runs, class_runs
from histofold.imaging.formats.door import use_formats
from histofold.imaging.formats.stated import stated_pixel_size_um
from histofold.imaging.samples import paste_rgb
from histofold.imaging.slide import Slide, open_slide
from histofold.predict.image import ImagePrediction, ImageSink, Threshold, predict_image, predict_probabilities
from histofold.predict.objects.image import predict_detections
from histofold.predict.stages import Stage
from histofold.predict.submission.clock import Budget
from histofold.predict.submission.predictor import SubmissionPredictor
from histofold.predict.submission.shards import rows_of
from histofold.report.results.objects import object_features
from histofold.report.results.outlines import ColumnSums, outline_features
from histofold.schema.kinds import require_kind
from histofold.schema.manifest import Manifest, load_manifest, look_up_thresholds
from histofold.schema.network import is_detector
from histofold.schema.preprocessing import has_pixel_size
from histofold.schema.sample import Sample

ImageLike = str | os.PathLike[str] | np.ndarray | Slide
"""A file, an opened slide, or pixels (H, W), (H, W, 1) to (H, W, 4): grey, RGB, with or without alpha."""

Answer = TypeVar("Answer")


def load(weights: str | os.PathLike[str], competition: str = "", device: str = "") -> Model:
    """Load packaged weights.

    Args:
        weights: Folder that `histofold package` has written.
        competition: Name of the adapter whose rule for empty masks holds (hubmap_2022 never gives one); empty: that of
            the weights. `histofold predict` takes `folder` where its folder is no competition's.
        device: Where to predict, as torch names it ("cpu", "cuda:1"); empty: every GPU, or the CPU.

    Raises:
        InputError: If the folder holds no weights, or they are not what its manifest says, with all faults.

    Example:
        >>> model = load("weights")  # doctest: +SKIP
        >>> model.predict("slide.tif", organ="kidney").shape  # doctest: +SKIP
        (3000, 2000)
    """
    folder = Path(weights)
    require_kind(folder, "weights")
    manifest = load_manifest(folder)
    devices = [torch.device(device)] if device else []
    return Model(folder, manifest, get_competition(competition or manifest.competition), devices)


class Model:
    """Weights that are loaded once and predict any number of images.

    Args:
        folder: The weights.
        manifest: Their manifest, checked.
        competition: The adapter.
        devices: Where networks run; none means every GPU, or the CPU.

    Raises:
        InputError: If the members cannot be loaded or are not distinct.
    """

    manifest: Manifest
    """Classes, thresholds, scale and all else that travels with the weights."""

    def __init__(
        self, folder: Path, manifest: Manifest, competition: Competition, devices: Sequence[torch.device] = ()
    ) -> None:
        self.manifest = manifest
        self._never_empty = competition.never_empty
        rows = rows_of(manifest)(competition, [manifest])
        self._predictor = SubmissionPredictor(competition, [(folder, manifest)], Budget(None), devices, rows)

    def predict(
        self, image: ImageLike, pixel_size_um: float | None = None, organ: str = "", source: str = ""
    ) -> np.ndarray:
        """The mask of an image at its own size, as `histofold predict` writes it: `encode_rle` gives its row.

        Weights of single objects give the pixels of all of them.

        Args:
            image: A file, an opened slide, or pixels: uint8, uint16 and uint32 of their whole range, floats of 0 to 1.
            pixel_size_um: Micrometres per pixel; None: what the file states. Without either the image is read at the
                whole-image scale.
            organ: Its organ, where the weights have thresholds or scales of their own for organs.
            source: Its data source, likewise.

        Returns:
            bool (H, W); of several classes (K, H, W), in the order of `manifest.classes`.

        Raises:
            ImageError: If the image cannot be read.
            ValueError: If an array is no image, or the pixel size no positive number.
            MemoryError: If even the smallest tile does not fit.
        """
        if self.manifest.objects is not None:
            return covered_pixels(self.objects(image, pixel_size_um, organ).objects).to_mask()
        _, of_classes = self._masks(image, pixel_size_um, (organ, source))
        masks_KHW = np.stack([runs.to_mask() for runs in of_classes])
        return masks_KHW[0] if len(masks_KHW) == 1 else masks_KHW

    def objects(self, image: ImageLike, pixel_size_um: float | None = None, organ: str = "") -> Detections:
        """The single objects of an image, the best first, as `histofold predict` writes them.

        Args:
            image: As for `predict`.
            pixel_size_um: As for `predict`.
            organ: As for `predict`.

        Returns:
            Objects as runs, each with its score: `detections.objects[0].to_mask()` is the first one's mask.

        Raises:
            ValueError: If the weights find masks and no single objects; else as `predict`.
        """
        if self.manifest.objects is None:
            raise ValueError(f"weights of {self.manifest.competition} find masks: take predict, or polygons")
        return self._answer(image, pixel_size_um, organ, predict_detections)

    def polygons(
        self, image: ImageLike, pixel_size_um: float | None = None, organ: str = "", source: str = ""
    ) -> dict[str, Any]:
        """The components of the mask, or single objects, as GeoJSON, as `histofold predict --geojson` writes them.

        Args:
            image: As for `predict`, as are the others.
            pixel_size_um: Micrometres per pixel.
            organ: Its organ.
            source: Its data source.

        Returns:
            A FeatureCollection of polygons with holes, x and y in pixels; their properties are those of annotations of
            QuPath, with class, mean probability, and area in pixels and, where a pixel size is known, in um2.

        Raises:
            As `predict`.
        """
        if self.manifest.objects is not None:
            found = self._answer(image, pixel_size_um, organ, lambda *seen: (predict_detections(*seen), seen[2]))
            named = object_features(found[0], self.manifest.classes[0], found[1])
            return {"type": "FeatureCollection", "features": list(named)}
        gathered = _GatheredSums()
        size_um, of_classes = self._masks(image, pixel_size_um, (organ, source), gathered)
        features = outline_features(of_classes, self.manifest.classes, size_um, gathered.sums)
        return {"type": "FeatureCollection", "features": list(features)}

    def probabilities(self, image: ImageLike, pixel_size_um: float | None = None, organ: str = "") -> np.ndarray:
        """The probabilities that masks are cut from, all of them in memory: 4 bytes a pixel and class.

        Args:
            image: As for `predict`.
            pixel_size_um: As for `predict`.
            organ: Its organ, where the weights see organs at scales of their own.

        Returns:
            float32 (H, W), 0 to 1; of several classes (K, H, W).

        Raises:
            ValueError: If the weights are of a detector, which has none; else as `predict`.
        """
        if is_detector(self.manifest.members[0].architecture):
            raise ValueError("detectors have no probability of each pixel: take objects")
        probs_KHW = self._answer(image, pixel_size_um, organ, predict_probabilities)
        return probs_KHW[0] if len(probs_KHW) == 1 else probs_KHW

    def _masks(
        self, image: ImageLike, pixel_size_um: float | None, of: tuple[str, str], sink: ImageSink | None = None
    ) -> tuple[float | None, tuple[Runs, ...]]:
        """The pixel size that an image, `of` an organ and a source, was read at, and the cleaned mask of each class."""
        threshold = look_up_thresholds(self.manifest.thresholds, *of, self.manifest.classes)

        def once(stages: Sequence[Stage], slide: Slide, size_um: float | None) -> ImagePrediction:
            if sink is not None:  # anew with each attempt: one that memory ended has left something
                sink.begin(Sample(id=str(slide.path), image_path=slide.path), slide.shape_hw, threshold)
            return predict_image(stages, slide, size_um, [threshold], sink=sink)

        found = self._answer(image, pixel_size_um, of[0], once)
        return found.pixel_size_um, class_runs(found.masks(threshold, self.manifest, self._never_empty))

    def _answer(
        self,
        image: ImageLike,
        pixel_size_um: float | None,
        organ: str,
        once: Callable[[Sequence[Stage], Slide, float | None], Answer],
    ) -> Answer:
        """What is asked of an image, with less memory where it does not suffice."""
        if pixel_size_um is not None and not has_pixel_size(pixel_size_um):
            raise ValueError(f"pixel_size_um={pixel_size_um} must be positive micrometres; leave it out where unknown")
        with _opened(image) as (slide, stated_um):
            size_um = stated_um if pixel_size_um is None else pixel_size_um
            slide.organ = organ or slide.organ
            if size_um is None and self.manifest.preprocessing.scale_mode == "physical":
                logger.warning("%s has no pixel size: read at the whole-image scale; give pixel_size_um", slide.path)
            return self._predictor.with_less_memory(str(slide.path), lambda stages: once(stages, slide, size_um))


@contextmanager
def _opened(image: ImageLike) -> Iterator[tuple[Slide, float | None]]:
    """An image as a slide, and the pixel size that its file states; a slide that the caller has opened stays open."""
    if isinstance(image, Slide):
        yield image, stated_pixel_size_um(image.path)
    elif isinstance(image, (str, os.PathLike)):
        use_formats()
        with open_slide(image) as slide:
            yield slide, stated_pixel_size_um(slide.path)
    else:
        yield Slide(Path("array"), ArrayReader(np.asarray(image))), None


class _GatheredSums:
    """An `ImageSink` that gathers what the mean probabilities of components are made of, for each class."""

    sums: list[ColumnSums]

    def begin(self, sample: Sample, shape_hw: tuple[int, int], threshold: Threshold) -> None:
        cuts = threshold if isinstance(threshold, tuple) else (threshold,)
        self.sums = [ColumnSums(shape_hw, cut) for cut in cuts]

    def add(self, y: int, probs_KHW: np.ndarray) -> None:
        for sums, probs_HW in zip(self.sums, probs_KHW, strict=True):
            sums.add(probs_HW)

    def finish(self, masks: Masks, is_final: bool) -> None:
        """Nothing is kept but the sums."""


class ArrayReader:
    """Pixels in memory, read as those of a file are.

    Args:
        image: uint8, uint16, uint32 or floating (0 to 1), (H, W) or (H, W, 1 to 4).

    Raises:
        ValueError: If it is no such image.
    """

    shape_hw: tuple[int, int]
    """Height and width in pixels."""

    def __init__(self, image: np.ndarray) -> None:
        pixels_HWC = image[:, :, None] if image.ndim == 2 else image
        known = image.dtype.kind == "f" or image.dtype in (np.uint8, np.uint16, np.uint32)
        if pixels_HWC.ndim != 3 or not 1 <= pixels_HWC.shape[2] <= 4 or pixels_HWC.size == 0 or not known:
            raise ValueError(
                f"an array of {image.dtype}{image.shape} is no image: give (H, W, 3), uint8 RGB, uint16 or uint32 of "
                "their whole range, or floats of 0 to 1"
            )
        self._pixels_HWC = pixels_HWC
        self.shape_hw = (pixels_HWC.shape[0], pixels_HWC.shape[1])

    def read_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        """Fill a uint8 (h, w, 3) canvas with the region whose first pixel is (y, x)."""
        height, width = canvas_HWC.shape[:2]
        paste_rgb(canvas_HWC, self._pixels_HWC[y : y + height, x : x + width])

    def close(self) -> None:
        """Nothing to give back: the pixels are the caller's."""
