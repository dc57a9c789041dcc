"""The masks of a folder, read once all of them have been looked at: what their values mean is one decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from histofold.competitions.base import image_error_fault
from histofold.competitions.tables import header_shape_of
from histofold.competitions.truth.found import FoundTruth
from histofold.competitions.truth.masks.facts import (
    MaskFacts,
    Transparency,
    alpha_facts,
    mask_brightness,
    mask_facts,
    mask_transparency,
)
from histofold.competitions.truth.masks.files import MaskFile, decode_mask
from histofold.competitions.truth.masks.values import MaskReading, MaskSettings, decide_reading, read_class_labels
from histofold.core.faults import Fault, ImageError, InputError, InputNotice
from histofold.core.rle.runs import Masks, Runs, join_classes, runs_from_mask
from histofold.core.rle.sets import subtract_runs, union_runs
from histofold.imaging.slide import open_sample
from histofold.schema.sample import Sample

Files = Mapping[str, Sequence[Sequence[Path]]]
"""Of each id the files of each class; objects of a class may have a file each."""
_VALUES_REMEDY = (
    "write mask_values = [...], and ignore_value = ... for void, in folder.toml beside the images, or export the masks "
    "anew with 0 as background"
)


class MaskReader:
    """Reads masks; the first one that is asked for makes all of them be looked at.

    Args:
        folder: Where they lie, for the words.
        files: Of each image.
        samples: The images.
        settings: What folder.toml says.
        labels: Number of classes in one file; 0 where a file is of one class.
        truth: Receives ignored pixels, and a notice of what was decided.
    """

    def __init__(
        self,
        folder: Path,
        files: Files,
        samples: Sequence[Sample],
        settings: MaskSettings,
        labels: int,
        truth: FoundTruth,
    ) -> None:
        self._folder, self._files, self._settings, self._labels, self._truth = folder, files, settings, labels, truth
        self._images = {sample.id: sample.image_path for sample in samples}
        self._reading: MaskReading | None = None
        self._is_refused = False
        self._kept: dict[Path, Runs] = {}  # what was read already while all masks were looked at

    def read(self, sample: Sample) -> Masks:
        """The masks of a sample, of each class where there are several.

        Raises:
            InputError: If a mask cannot be read or differs in size from the image; or if what the values mean cannot
                be known, the first time with that fault and then without.
        """
        if self._reading is None and not self._labels:
            self._reading = self._decided()
        path = self._files[sample.id][0][0]
        ignored: list[Runs] = []
        try:
            with open_sample(sample) as slide:
                shape_hw = slide.shape_hw
            if self._labels:
                parts = self._read_labels(path, shape_hw, ignored)
            else:
                parts = []
                for paths in self._files[sample.id]:
                    objects = [self._read_one(path := each, shape_hw, ignored) for each in paths]
                    parts.append(objects[0] if len(objects) == 1 else union_runs(objects))
        except ImageError as error:
            raise InputError([image_error_fault(sample.id, path, error)]) from error
        if ignored:
            self._truth.ignored[sample.id] = subtract_runs(union_runs(ignored), union_runs(parts))
        return join_classes(parts)

    def _read_labels(self, path: Path, shape_hw: tuple[int, int], ignored: list[Runs]) -> list[Runs]:
        masks_KHW, ignored_HW = read_class_labels(decode_mask(path, shape_hw), self._labels, self._settings)
        ignored += [] if ignored_HW is None else [runs_from_mask(ignored_HW)]
        return [runs_from_mask(mask_HW) for mask_HW in masks_KHW]

    def _read_one(self, path: Path, shape_hw: tuple[int, int], ignored: list[Runs]) -> Runs:
        """A mask file of one class, by the reading of the folder."""
        if path in self._kept and self._kept[path].shape_hw == tuple(shape_hw):
            return self._kept[path]
        assert self._reading is not None
        mask_HW, ignored_HW = self._reading.read(decode_mask(path, shape_hw))
        ignored += [] if ignored_HW is None else [runs_from_mask(ignored_HW)]
        return runs_from_mask(mask_HW)

    def _decided(self) -> MaskReading:
        """Look at all masks and decide what their values mean; raises as `read`."""
        if self._is_refused:
            raise InputError(f"{self._folder}: what the values of the masks mean is not known: check the dataset first")
        facts, transparency = self._look()
        reading, rule = decide_reading(list(facts.values()), self._settings, transparency)
        if rule:
            self._is_refused = True
            raise InputError([Fault("masks", str(self._folder), rule, _VALUES_REMEDY)])
        if reading.is_soft:
            self._kept = {path: runs for path, runs in self._kept.items() if facts[path].is_hard}
        if reading.words:
            remedy = "write mask_values in folder.toml if they mean something else"
            self._truth.notices.append(InputNotice("masks", str(self._folder), reading.words, remedy))
        return reading

    def _look(self) -> tuple[dict[Path, MaskFacts], Transparency]:
        """The facts of every mask that can be decoded, and what their alpha means."""
        if self._settings.mask_values:
            return {}, ""
        facts: dict[Path, MaskFacts] = {}
        alphas = {}
        shapes = {key: header_shape_of(self._images[key]) for key in self._files}
        places = [(key, path) for key, classes in self._files.items() for paths in classes for path in paths]
        for key, path in tqdm(places, desc="look at masks", unit="mask", leave=False, dynamic_ncols=True):
            mask = self._decoded(path, shapes[key])
            if mask is None:
                continue
            facts[path] = mask_facts(mask, "", self._settings.ignore_value)
            alpha = alpha_facts(mask)
            if alpha is not None:
                alphas[key, path] = alpha
            elif self._settings.ignore_value is None:
                self._kept[path] = runs_from_mask(mask_brightness(mask) > 0)
        transparency = mask_transparency(list(alphas.values()))
        for key, path in alphas if transparency else ():
            mask = self._decoded(path, shapes[key])
            assert mask is not None  # it was decoded before
            facts[path] = mask_facts(mask, transparency, self._settings.ignore_value)
        return facts, transparency

    def _decoded(self, path: Path, shape_hw: tuple[int, int] | None) -> MaskFile | None:
        """A mask that can be used; what is wrong with another one, or with its image, is said when it is read."""
        if shape_hw is None:
            return None
        try:
            mask = decode_mask(path, shape_hw)
            mask.planes()
            if self._settings.ignore_value is not None:
                mask.numbers()
        except ImageError:
            return None
        return mask
