"""From weights and samples to a submission, whatever happens to single images: `histoseg predict` and every kernel."""

from __future__ import annotations

import gc
import hashlib
import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from histoseg.competitions.base import Competition
from histoseg.competitions.classes import submission_columns
from histoseg.core.class_masks import Masks, class_runs
from histoseg.core.faults import Fault, InputError
from histoseg.core.log import logger
from histoseg.imaging.slide import open_slide
from histoseg.predict.budget import Budget
from histoseg.predict.ensemble import Ensemble, best_device, load_ensemble
from histoseg.predict.image import Threshold, clean_runs, grid_of, predict_image
from histoseg.predict.journal import SubmissionJournal
from histoseg.schema.manifest import Manifest, joined_thresholds, look_up_thresholds, manifest_json
from histoseg.schema.preprocessing import has_pixel_size
from histoseg.schema.sample import Sample

UNKNOWN_MEGAPIXELS = 1.0  # forecast of an image whose header cannot be read


@dataclass(frozen=True)
class RunSummary:
    """What became of the images.

    Attributes:
        done: Rows that the network made.
        failed: For each image that kept its fallback row, the reason.
        taken_over: Rows that an earlier, interrupted run had made.
        seconds: Wall time.
    """

    done: int
    failed: dict[str, str]
    taken_over: int
    seconds: float


def run_submission(
    competition: Competition,
    samples: Sequence[Sample],
    packages: Sequence[tuple[Path, Manifest]],
    out: Path,
    limit_s: float | None = None,
) -> RunSummary:
    """Predict samples and write the submission.

    A csv of fallback rows stands before anything is loaded; finished rows are journalled; SIGTERM writes what there is.

    Args:
        competition: The adapter.
        samples: What to predict, in the order of the rows.
        packages: Weight folders with their checked manifests; several join as one ensemble.
        out: The submission.
        limit_s: Seconds that the run may take; None means no limit.

    Raises:
        InputError: If the packages are of other classes than one another, or of several where the host takes one.
    """
    started = time.monotonic()
    classes = _agreed_classes(packages)
    columns = submission_columns(competition, classes)
    several = classes if len(classes) > 1 else ()
    fallbacks = {sample.id: "\n".join([competition.fallback_row] * len(classes)) for sample in samples}
    journal = SubmissionJournal(out, columns, fallbacks, _journal_key(packages, samples), classes=several)
    failed: dict[str, str] = {}
    late: dict[str, str] = {}
    with journal, _flush_on_sigterm(journal):
        taken_over = len(journal.done)
        waiting = [sample for sample in samples if sample.id not in journal.done]
        predictor = _Predictor(competition, packages, Budget(limit_s)) if waiting else None
        megapixels = [_network_megapixels(sample, packages[0][1]) for sample in waiting]
        for place, sample in enumerate(tqdm(waiting, desc="predict", unit="image", dynamic_ncols=True)):
            assert predictor is not None
            try:
                row, degraded = predictor.row(sample, megapixels[place:])
                journal.add(sample.id, row, final=not degraded)
            except _OutOfTimeError:
                late = {left.id: "the clock ran out" for left in waiting[place:]}
                logger.error("the clock ran out: %d images keep their fallback row", len(late))
                break
            except Exception as error:  # one image must never cost the other rows
                failed[sample.id] = f"{type(error).__name__}: {error}"
                logger.warning("image %s keeps its fallback row: %s", sample.id, failed[sample.id])
                journal.give_up(sample.id)
    done = len(waiting) - len(failed) - len(late)
    return RunSummary(done, failed | late, taken_over, time.monotonic() - started)


def _agreed_classes(packages: Sequence[tuple[Path, Manifest]]) -> tuple[str, ...]:
    """The mask classes of the ensemble."""
    classes = packages[0][1].classes
    for folder, manifest in packages:
        if manifest.classes != classes:
            rule = f"its classes are {', '.join(manifest.classes)} and those of the first {', '.join(classes)}"
            raise InputError([Fault("classes", str(folder), rule, "predict it apart")])
    return classes


def _journal_key(packages: Sequence[tuple[Path, Manifest]], samples: Sequence[Sample]) -> str:
    """Identifies weights, tables and image files: rows of an earlier run are taken over only where all are the same."""
    described = [
        [s.id, s.organ, s.source, s.pixel_size_um, str(s.image_path.name), *_file_stamp(s.image_path)] for s in samples
    ]
    text = json.dumps([[manifest_json(manifest) for _, manifest in packages], described])
    return hashlib.sha256(text.encode()).hexdigest()


def _file_stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file, zeros where it is missing."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return 0, 0
    return status.st_size, status.st_mtime_ns


@contextmanager
def _flush_on_sigterm(journal: SubmissionJournal) -> Iterator[None]:
    """On SIGTERM write the csv, then leave with the usual status 143. Only the main thread may install handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        journal.flush()
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _network_megapixels(sample: Sample, manifest: Manifest) -> float:
    """Megapixels that one pass over the image forwards, for the forecast; from its header where that can be read."""
    try:
        with open_slide(sample.image_path) as slide:
            scaled_hw = manifest.preprocessing.scaled_hw(slide.shape_hw, sample.pixel_size_um)
    except Exception:  # whatever is wrong with the file is told when it is predicted
        return UNKNOWN_MEGAPIXELS
    grid = grid_of(manifest, scaled_hw)
    return len(grid) * grid.size**2 / 1e6


class _OutOfTimeError(Exception):
    """The budget allows no further image."""


class _Predictor:
    """The ensemble with its budget and its ladder for memory that does not suffice."""

    def __init__(self, competition: Competition, packages: Sequence[tuple[Path, Manifest]], budget: Budget) -> None:
        self._competition = competition
        self._manifest = packages[0][1]
        self._ensemble = load_ensemble(packages, best_device())
        self._thresholds = joined_thresholds([manifest.thresholds for _, manifest in packages])
        self._budget = budget

    def row(self, sample: Sample, megapixels_left: Sequence[float]) -> tuple[str, bool]:
        """The row of one image, and whether the clock made it a lesser one; raises whatever makes it impossible.

        Of several classes it is a line for each.

        Args:
            sample: The image.
            megapixels_left: Network megapixels of this image and of those after it.
        """
        members, views = len(self._ensemble.models), len(self._manifest.views)
        count, affordable_views = self._budget.affordable(sum(megapixels_left), members, views)
        if count == 0:
            raise _OutOfTimeError
        ensemble = self._ensemble.first_members(count).with_views(self._manifest.views[:affordable_views])
        started = time.monotonic()
        masks = self._masks(ensemble, sample)
        seconds = time.monotonic() - started
        self._budget.record(seconds, megapixels_left[0], count * affordable_views)
        text = "\n".join(self._competition.row(runs) for runs in class_runs(masks))
        return text, (count, affordable_views) != (members, views)

    def _masks(self, ensemble: Ensemble, sample: Sample) -> Masks:
        """Predict one image, with smaller batches, smaller tiles, then the CPU, as memory asks for it."""
        threshold = look_up_thresholds(self._thresholds, sample.organ, sample.source, self._manifest.classes)
        for manifest, device in _memory_ladder(self._manifest, ensemble.device):
            on_device = ensemble if device == ensemble.device else ensemble.on(device)
            try:
                return self._masks_once(on_device, manifest, sample, threshold)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning(
                    "image %s: out of memory with batch %d, tile %d on %s",
                    sample.id,
                    manifest.batch,
                    manifest.tile,
                    device,
                )
                last = str(error)
            finally:
                if on_device is not ensemble:
                    ensemble.on(ensemble.device)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        raise MemoryError(f"out of memory even with the smallest tile: {last}")

    def _masks_once(self, ensemble: Ensemble, manifest: Manifest, sample: Sample, threshold: Threshold) -> Masks:
        with open_slide(sample.image_path) as slide:
            if sample.shape_hw not in (None, slide.shape_hw):
                logger.warning(
                    "image %s is %s pixels and its table says %s: the file counts",
                    sample.id,
                    slide.shape_hw,
                    sample.shape_hw,
                )
            if not has_pixel_size(sample.pixel_size_um) and manifest.preprocessing.scale_mode == "physical":
                logger.warning("image %s has no pixel size: predicted at the whole-image scale", sample.id)
            prediction = predict_image(ensemble, slide, sample.pixel_size_um, manifest, [threshold])
        return clean_runs(prediction, threshold, manifest.min_area_um2, self._competition.never_empty)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice; only CUDA and Python have types of their own for it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "Insufficient memory")
    return any(word in str(error) for word in words)


def _memory_ladder(manifest: Manifest, device: torch.device) -> Iterator[tuple[Manifest, torch.device]]:
    """Halve the batch down to 1, then the tile (not below 256 or four halos), then take the CPU."""
    yield manifest, device
    while manifest.batch > 1:
        manifest = replace(manifest, batch=manifest.batch // 2)
        yield manifest, device
    while manifest.preprocessing.scale_mode == "physical" and manifest.tile // 2 >= max(256, 4 * manifest.halo):
        manifest = replace(manifest, tile=manifest.tile // 64 * 32, stride=0)
        yield manifest, device
    if device.type != "cpu":
        yield manifest, torch.device("cpu")
