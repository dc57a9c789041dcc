"""Rows of images from an ensemble, within a budget of time and a ladder for memory that does not suffice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from histofold.competitions.base import Competition
from histofold.core.log import logger
from histofold.imaging.slide import Slide, open_sample
from histofold.predict.devices import all_devices, describe_device, is_out_of_memory, release_memory
from histofold.predict.members import load_ensemble
from histofold.predict.stages import Stage, full_level
from histofold.predict.submission.clock import Budget, ImagePacer, WorkAhead
from histofold.predict.submission.rows import ImageRow, MaskRows, RowMaker
from histofold.predict.tiled import grid_of
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import has_pixel_size
from histofold.schema.sample import Sample
from histofold.schema.volumes import VolumeConfig

SMALLEST_TILE = 256


@dataclass(frozen=True)
class MemoryRung:
    """One way to need less memory."""

    halved_batch: int = 0
    """How often batches are halved."""
    in_turn: bool = False
    """Whether members are loaded one at a time."""
    halved_tile: int = 0
    """How often tiles are halved."""
    on_cpu: bool = False
    """Whether the CPU takes over."""

    def apply(self, manifest: Manifest) -> Manifest:
        """The manifest with smaller batches and tiles; tiles of whole images stay what they are."""
        manifest = replace(manifest, batch=max(1, manifest.batch >> self.halved_batch))
        for _ in range(self.halved_tile):
            manifest = halved_tile(manifest) or manifest
        return manifest

    def __str__(self) -> str:
        """In words."""
        words = [f"batches {2**self.halved_batch} times smaller"] if self.halved_batch else []
        words += ["one member at a time"] if self.in_turn else []
        words += [f"tiles {2**self.halved_tile} times smaller"] if self.halved_tile else []
        words += ["on the CPU"] if self.on_cpu else []
        return ", ".join(words) or "as the manifest says"


def halved_tile(manifest: Manifest) -> Manifest | None:
    """The manifest with tiles half as large; None where they would be below 256 pixels or four halos."""
    if manifest.preprocessing.scale_mode == "whole" or manifest.tile // 2 < max(SMALLEST_TILE, 4 * manifest.halo):
        return None
    return replace(manifest, tile=manifest.tile // 64 * 32, stride=0)


def memory_rungs(manifests: Sequence[Manifest], members: int, on_gpu: bool) -> Iterator[MemoryRung]:
    """From the manifests as they are down to the least that can be done, for all stages of an ensemble at once."""
    rung = MemoryRung()
    yield rung
    while any(manifest.batch >> rung.halved_batch > 1 for manifest in manifests):
        rung = replace(rung, halved_batch=rung.halved_batch + 1)
        yield rung
    if members > 1:
        rung = replace(rung, in_turn=True)
        yield rung
    while any(halved_tile(rung.apply(manifest)) is not None for manifest in manifests):
        rung = replace(rung, halved_tile=rung.halved_tile + 1)
        yield rung
    if on_gpu:
        yield replace(rung, on_cpu=True)


Done = TypeVar("Done")
UNKNOWN_MEGAPIXELS = 1.0  # forecast of an image whose header cannot be read


@dataclass(frozen=True)
class PredictedRow:
    """What became of one image."""

    text: str
    """The host's row; of several classes a line for each."""
    shape_hw: tuple[int, int]
    """The file's own size."""
    area_px: int
    """Pixels of the mask, of all classes together."""
    passes: str
    """Forward passes of a tile, as "4 of 8"."""
    degraded: str = ""
    """What makes the row a lesser one, in words; empty where nothing does."""


class SubmissionPredictor:
    """The members of all packages with their budget and their ladder for memory.

    Args:
        competition: The adapter.
        packages: Weight folders with their checked manifests.
        budget: The clock.
        devices: Where networks run; none means every GPU, or the CPU.
        rows: What makes the rows; None: masks.

    Raises:
        InputError: If the members cannot be loaded or are not distinct.
    """

    def __init__(
        self,
        competition: Competition,
        packages: Sequence[tuple[Path, Manifest]],
        budget: Budget,
        devices: Sequence[torch.device] = (),
        rows: RowMaker | None = None,
    ) -> None:
        self.steps: list[str] = []
        self._competition, self._packages, self._budget = competition, packages, budget
        self._rows = rows or MaskRows(competition, [manifest for _, manifest in packages])
        self._manifest = packages[0][1]
        self._devices = list(devices) or all_devices()
        self._stages = load_ensemble(packages, self._devices, build=self._rows.build)
        self._in_turn = False
        self._first_rung = MemoryRung()

    @property
    def device(self) -> str:
        """The devices in words."""
        return ", ".join(map(describe_device, self._devices))

    def say(self, words: str) -> None:
        """Log a step that makes the result a lesser one, and keep it for the summary."""
        logger.warning("%s", words)
        self.steps.append(words)

    def megapixels(self, sample: Sample) -> tuple[float, ...]:
        """Megapixels of the tiles of an image for each stage, from its header where that can be read."""
        try:
            with open_sample(sample) as slide:
                seen = slide.shape_hw, sample.pixel_size_um, slide.organ
                return tuple(_tile_megapixels(stage, *seen) for stage in self._stages)
        except Exception:  # whatever is wrong with the file is reported when it is predicted
            return (UNKNOWN_MEGAPIXELS,) * len(self._stages)

    def row(self, sample: Sample, own: Sequence[float], later: WorkAhead) -> PredictedRow:
        """The row of one image; raises whatever makes it impossible.

        Args:
            sample: The image.
            own: Its megapixels.
            later: What follows it.

        Raises:
            OutOfTimeError: If there was no time for a single row of pixels.
        """
        started = time.monotonic()

        def once(stages: Sequence[Stage]) -> tuple[ImageRow, tuple[int, int], ImagePacer]:
            # A pacer for each attempt: one that is kept would keep networks that are to make room.
            pacer = ImagePacer(self._budget, stages, own, later, lambda words: self.say(f"{sample.id}: {words}"))
            begun = pacer.begin()
            with open_sample(sample) as slide:
                self._say_what_is_odd(sample, slide)
                return self._rows.predict(begun, slide, sample, pacer), slide.shape_hw, pacer

        row, shape_hw, pacer = self.with_less_memory(sample.id, once)
        self._budget.record_image(time.monotonic() - started - pacer.seconds, pacer.begun, pacer.seen)
        degraded = []
        if pacer.level != pacer.full:
            left, full = pacer.level, pacer.full
            degraded.append(f"{left.members} of {full.members} members, {left.views} of {full.views} views")
        if row.rows_done not in (None, shape_hw[0]):
            degraded.append(f"time ran out after {row.rows_done} of {shape_hw[0]} rows")
            self.say(f"{sample.id}: {degraded[-1]}; the others stay empty")
        row.keep(not degraded)
        made, all_passes = (
            sum(len(stage.passes_at(level)) for stage in self._stages) for level in (pacer.level, pacer.full)
        )
        return PredictedRow(row.text, shape_hw, row.area_px, f"{made} of {all_passes}", ", ".join(degraded))

    def forecast(self) -> str:
        """What a megapixel took so far, and what that means for the hidden test set, in words."""
        rate, images = self._budget.rate(), self._competition.hidden_test_images
        if rate is None:
            return "too few batches to measure what a megapixel takes"
        words = f"measured: {rate:.3f} s a megapixel and pass"
        if not images:
            return words
        side, pixel_size_um = self._competition.hidden_image_side, self._competition.hidden_pixel_size_um
        sizes = [_tile_megapixels(stage, (side, side), pixel_size_um) for stage in self._stages]
        volume = self._manifest.volume or VolumeConfig()
        axes = len(volume.axes) if self._competition.task == "volumes" else 1
        work = images * axes * sum(len(stage.passes) * size for stage, size in zip(self._stages, sizes, strict=True))
        hours = (rate * work + self._budget.beside_s(images, images * sum(sizes))) / 3600
        return (
            f"{words}; the hidden set, {images} images of at most {side} x {side} pixels, would take {hours:.2f} h at "
            "most with all members and views"
        )

    def _say_what_is_odd(self, sample: Sample, slide: Slide) -> None:
        if sample.shape_hw not in (None, slide.shape_hw):
            words = "image %s is %s pixels and its table says %s: the file counts"
            logger.warning(words, sample.id, slide.shape_hw, sample.shape_hw)
        if not has_pixel_size(sample.pixel_size_um) and self._manifest.preprocessing.scale_mode == "physical":
            logger.warning("image %s has no pixel size: predicted at the whole-image scale", sample.id)
        if words := self._manifest.preprocessing.clipped_words(sample.pixel_size_um, sample.organ):
            logger.warning("image %s: %s", sample.id, words)

    def with_less_memory(self, name: str, once: Callable[[Sequence[Stage]], Done]) -> Done:
        """Predict, step by step with less memory where it does not suffice.

        Smaller batches, and members loaded in turn, stay for the images that follow; the other steps are tried anew.
        """
        manifests, members = [stage.manifest for stage in self._stages], full_level(self._stages).members
        rungs = list(memory_rungs(manifests, members, self._devices[0].type != "cpu"))
        last, in_turn = "", self._in_turn
        for rung in rungs[rungs.index(self._first_rung) :]:
            if last:
                self.say(f"{name}: out of memory, tried again: {rung}")
            try:
                done = once(self._on_rung(rung))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                last = str(error)
            else:
                self._first_rung = MemoryRung(rung.halved_batch)
                return done
            release_memory()
        if self._in_turn and not in_turn:  # no rung helped: it is this image, and the others need not be slower for it
            self._stages, self._in_turn = self._load(self._devices, False), False
        raise MemoryError(f"out of memory even with the smallest tile: {last}")

    def _on_rung(self, rung: MemoryRung) -> list[Stage]:
        """The ensemble on a rung of the ladder; it is loaded anew where members come in turn or the CPU takes over."""
        if rung.in_turn and not self._in_turn:
            self._stages = self._load(self._devices, True)
            self._in_turn = True
            release_memory()
        stages = self._stages
        if rung.on_cpu:
            stages = self._load([torch.device("cpu")], self._in_turn)
        return [replace(stage, manifest=rung.apply(stage.manifest)) for stage in stages]

    def _load(self, devices: Sequence[torch.device], in_turn: bool) -> list[Stage]:
        """The ensemble once more; in turn if so asked, or where memory would be short."""
        return load_ensemble(self._packages, devices, None, in_turn or None, proven=True, build=self._rows.build)


def _tile_megapixels(stage: Stage, shape_hw: tuple[int, int], pixel_size_um: float | None, organ: str = "") -> float:
    """Megapixels of an image's tiles in a stage."""
    grid = grid_of(stage.manifest, stage.manifest.preprocessing.scaled_hw(shape_hw, pixel_size_um, organ))
    return len(grid) * grid.tile_hw[0] * grid.tile_hw[1] / 1e6
