"""What `histofold predict` writes besides rows, image by image as they are predicted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from histofold.competitions.truth.layout import IMAGE_FOLDERS
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.core.objects.detections import Detections
from histofold.predict.image import Threshold
from histofold.predict.submission.journal import inputs_digest
from histofold.predict.submission.results import Found, ResultRecord
from histofold.report.results.masks import write_mask
from histofold.report.results.objects import write_labels, write_object_outlines
from histofold.report.results.outlines import ColumnSums, write_outlines
from histofold.report.results.probabilities import ProbabilityFile
from histofold.schema.files import disk_fault, remove_leftovers
from histofold.schema.manifest import Manifest
from histofold.schema.network import is_detector
from histofold.schema.sample import Sample, id_file_name

RESULT_SUFFIXES = {"masks": ".png", "geojson": ".geojson", "probabilities": ".ome.tif", "overlays": ".png"}
"""The kinds of files, and how their names end; they begin with the id."""


class ResultFiles:
    """Writes the files that are asked for; what fails costs these files of one image, never its row.

    Args:
        folders: The folder of each kind that is wanted.
    """

    faults: list[Fault]
    """What could not be written so far."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.faults = []
        self._folders = dict(folders)
        self._classes: tuple[str, ...] = ()
        self._of_objects = False
        self._image: _ImageFiles | None = None

    def paths(self, sample_id: str) -> dict[str, Path]:
        """The files of an image by their kind."""
        name = id_file_name(sample_id)
        return {kind: folder / f"{name}{RESULT_SUFFIXES[kind]}" for kind, folder in self._folders.items()}

    def open(self, samples: Sequence[Sample], manifest: Manifest, out: Path) -> list[str]:
        """Make the folders, and give the ids of images whose files are missing; see `ResultSink`.

        Raises:
            InputError: If the images that are predicted lie in one of them, or files beside these images would be lost.
        """
        image_folders = {sample.image_path.parent.resolve() for sample in samples}
        taken = {kind: folder for kind, folder in self._folders.items() if folder.resolve() in image_folders}
        if taken:
            rule, remedy = "the images that are predicted lie there", "give another folder"
            raise InputError([Fault(f"--{kind}", str(folder), rule, remedy) for kind, folder in taken.items()])
        if "probabilities" in self._folders and is_detector(manifest.members[0].architecture):
            rule, remedy = "detectors have no probability of each pixel", "leave it out, or take --masks or --geojson"
            raise InputError([Fault("--probabilities", str(self._folders["probabilities"]), rule, remedy)])
        self._record = ResultRecord(out)
        roots = {each.parent if each.name.lower().endswith(IMAGE_FOLDERS) else each for each in image_folders}
        self._refuse_others_files(samples, roots)
        for folder in self._folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(*self._folders.values())
        self._classes, self._of_objects = manifest.classes, manifest.objects is not None
        self._record.start(inputs_digest([manifest], samples))
        return [each.id for each in samples if not self._record.is_made(each.id, self.paths(each.id).values())]

    def _refuse_others_files(self, samples: Sequence[Sample], roots: Collection[Path]) -> None:
        """Raise InputError where files below the folders of images would be lost: they may be the truth of these."""
        near = [kind for kind, folder in self._folders.items() if any(map(folder.resolve().is_relative_to, roots))]
        paths = [(each.id, self.paths(each.id)[kind]) for each in samples for kind in near]
        rule, remedy = "lies beside the images, and no run of this submission has written it", "give another folder"
        lost = [pair for pair in paths if pair[1].is_file() and str(pair[1].resolve()) not in self._record.own]
        if lost:
            raise InputError([Fault(sample_id, str(path), rule, remedy) for sample_id, path in lost])

    def begin(self, sample: Sample, shape_hw: tuple[int, int], threshold: Threshold) -> None:
        """Begin an image, perhaps anew."""
        self._give_up()
        cuts = threshold if isinstance(threshold, tuple) else (threshold,) * len(self._classes)
        cuts = () if self._of_objects else cuts  # they have scores of their own
        try:
            self._image = _ImageFiles(sample, self.paths(sample.id), shape_hw, self._classes, cuts)
        except Exception as error:
            self._fail(sample.id, error)

    def add(self, y: int, probs_KHW: np.ndarray) -> None:
        """Take the next band of the image."""
        if self._image is not None:
            try:
                self._image.add(probs_KHW)
            except Exception as error:
                self._fail(self._image.sample.id, error)

    def finish(self, found: Found, is_final: bool) -> None:
        """Write the files of the image; those of one that is not final are made again by a later run."""
        if self._image is None:
            return
        sample = self._image.sample
        try:
            self._record.claim(self.paths(sample.id).values())
            self._image.write(found)
            if is_final:
                self._record.add(sample.id, self.paths(sample.id).values())
        except Exception as error:
            self._fail(sample.id, error)
        self._give_up()

    def discard(self, sample_ids: Collection[str]) -> None:
        """Take away the files of images that could not be predicted."""
        self._give_up()
        for sample_id in sample_ids:
            for path in self.paths(sample_id).values():
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def _give_up(self) -> None:
        if self._image is not None:
            self._image.close()
        self._image = None

    def _fail(self, sample_id: str, error: Exception) -> None:
        logger.warning("image %s: its row stands, what else was asked for cannot be written: %s", sample_id, error)
        folders = ", ".join(map(str, self._folders.values()))
        rule = f"cannot be written ({type(error).__name__}: {error})"
        self.faults.append(disk_fault(error) or Fault(sample_id, folders, rule, "predict it again"))
        self._give_up()
        self.discard([sample_id])


class _ImageFiles:
    """The files of one image: what is gathered from its bands, and what is written at its end."""

    def __init__(
        self,
        sample: Sample,
        paths: Mapping[str, Path],
        shape_hw: tuple[int, int],
        classes: tuple[str, ...],
        cuts: Sequence[float],
    ) -> None:
        self.sample, self._paths, self._classes = sample, paths, classes
        self._sums = [ColumnSums(shape_hw, cut) for cut in cuts] if "geojson" in paths else []
        self._probabilities: ProbabilityFile | None = None
        if "probabilities" in paths:
            self._probabilities = ProbabilityFile(paths["probabilities"], classes, shape_hw, sample.pixel_size_um)

    def add(self, probs_KHW: np.ndarray) -> None:
        for sums, probs_HW in zip(self._sums, probs_KHW, strict=bool(self._sums)):
            sums.add(probs_HW)
        if self._probabilities is not None:
            self._probabilities.add(probs_KHW)

    def write(self, found: Found) -> None:
        if self._probabilities is not None:
            self._probabilities.write()
        if "masks" in self._paths:
            if isinstance(found, Detections):
                write_labels(self._paths["masks"], found)
            else:
                write_mask(self._paths["masks"], found)
        if "geojson" in self._paths:
            self._write_outlines(self._paths["geojson"], found)
        if "overlays" in self._paths:
            from histofold.report.results.overlays import write_overlay

            write_overlay(self._paths["overlays"], self.sample, found, self._classes)

    def _write_outlines(self, path: Path, found: Found) -> None:
        pixel_size_um = self.sample.pixel_size_um
        if isinstance(found, Detections):
            write_object_outlines(path, found, self._classes[0], pixel_size_um)
        else:
            write_outlines(path, found, self._classes, pixel_size_um, self._sums)

    def close(self) -> None:
        if self._probabilities is not None:
            self._probabilities.close()
