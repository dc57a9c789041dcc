"""The single objects of a plain folder: what its truth keeps apart is an object.

- masks of single objects, a file each: one object a file (`truth/masks/objects`);
- label images: one object a number; an image of one number alone, or with mask_values in folder.toml, has its connected
  pieces as objects, so that objects that touch are one there;
- outlines (GeoJSON, labelme, Aperio XML): one object an outline, less the outlines that are holes;
- COCO: one object an annotation, the parts of its segmentation together; crowds are unsure.

Run lengths of rles.csv are masks, and are refused. Objects without a pixel are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from histofold.competitions.base import image_error_fault
from histofold.competitions.objects import TruthReader
from histofold.competitions.tables import header_shape_of
from histofold.competitions.truth.coco import coco_objects, coco_truth
from histofold.competitions.truth.find import kinds_of_truth
from histofold.competitions.truth.layout import ImageFiles
from histofold.competitions.truth.masks.files import MASK_SUFFIXES, decode_mask
from histofold.competitions.truth.masks.folder import find_masks, object_masks, one_file_each
from histofold.competitions.truth.masks.objects import read_object_masks
from histofold.competitions.truth.masks.values import MaskSettings
from histofold.competitions.truth.names import ImageNames, listed_files
from histofold.competitions.truth.outlines.files import IGNORED_CLASS, read_outline_file
from histofold.competitions.truth.outlines.folder import find_outlines
from histofold.core.faults import Fault, ImageError, InputError
from histofold.core.objects.instances import Objects
from histofold.core.objects.morphology import mask_components
from histofold.core.rle.runs import Runs, runs_from_mask
from histofold.core.rle.sets import fill_rings, subtract_runs, union_runs
from histofold.schema.sample import Sample

FrameReader = Callable[[Sample, tuple[int, int]], tuple[Objects, Objects]]
"""Gives the objects and the unsure ones of an image of a height and width."""


def find_objects(root: Path, images: ImageFiles, samples: Sequence[Sample]) -> TruthReader:
    """What reads the objects of a folder's samples, whose truth `find_truth` has found to be without fault.

    Raises:
        InputError: If the folder's truth keeps no objects apart, or there is none.
    """
    kinds = kinds_of_truth(root, images, samples)
    makers: dict[Callable[..., object], Callable[..., FrameReader]] = {
        object_masks: _of_object_masks,
        find_masks: _of_label_images,
        find_outlines: _of_outlines,
        coco_truth: _of_coco,
    }
    for name, reader in kinds.items():
        maker = makers.get(reader.func)
        if maker is None or len(kinds) > 1:
            rule = f"single objects are wanted, and {name} is not read as objects, or not alone"
            remedy = 'give label images, masks of single objects, outlines or COCO annotations; or task = "masks"'
            raise InputError([Fault("folder.toml", str(root / "folder.toml"), rule, remedy)])
        return _WithFrames(maker(*reader.args))
    raise InputError([Fault("masks", str(root), "no truth of the images", "add label images or outlines")])


class _WithFrames:
    """Reads the header of an image before its objects."""

    def __init__(self, read: FrameReader) -> None:
        self._read = read

    def __call__(self, sample: Sample) -> tuple[Objects, Objects]:
        """The objects of a sample, and the unsure ones, as a `TruthReader`."""
        shape_hw = header_shape_of(sample.image_path)
        if shape_hw is None:
            raise InputError(f"{sample.id}: its image cannot be read: check the dataset first")
        objects, unsure = self._read(sample, shape_hw)
        return objects.select(objects.areas > 0), unsure.select(unsure.areas > 0)


def _of_object_masks(images: ImageFiles, samples: Sequence[Sample], settings: MaskSettings) -> FrameReader:
    def read(sample: Sample, shape_hw: tuple[int, int]) -> tuple[Objects, Objects]:
        objects, _ = read_object_masks(sample.id, images.objects[sample.id], shape_hw)
        return objects, Objects.from_runs([], shape_hw)

    return read


def _of_label_images(folder: Path, samples: Sequence[Sample], names: ImageNames, settings: MaskSettings) -> FrameReader:
    paths = [path for group in listed_files(folder, MASK_SUFFIXES).values() for path in group]
    own, _ = one_file_each(folder, paths, samples, names)

    def read(sample: Sample, shape_hw: tuple[int, int]) -> tuple[Objects, Objects]:
        try:
            numbers_HW = np.asarray(decode_mask(own[sample.id], shape_hw).numbers())
        except ImageError as error:
            raise InputError([image_error_fault(sample.id, own[sample.id], error)]) from error
        unsure_HW = numbers_HW == settings.ignore_value  # of None nothing
        labels_HW = np.where(unsure_HW, 0, numbers_HW.clip(min=0)).astype(np.int64)
        return _numbered(labels_HW, settings.mask_values), mask_components(
            runs_from_mask(unsure_HW | np.zeros(shape_hw, bool))
        )

    return read


def _numbered(labels_HW: np.ndarray, values: Sequence[float]) -> Objects:
    """One object a number; of a single one, or of values that are mask, the connected pieces."""
    if values:
        return mask_components(runs_from_mask(np.isin(labels_HW, values)))
    largest = labels_HW.max()
    is_single = bool(((labels_HW == 0) | (labels_HW == largest)).all())
    return mask_components(runs_from_mask(labels_HW)) if is_single else Objects.from_labels(labels_HW)


def _of_outlines(folder: Path, paths: Sequence[Path], samples: Sequence[Sample], names: ImageNames) -> FrameReader:
    own, _ = one_file_each(folder, paths, samples, names)

    def read(sample: Sample, shape_hw: tuple[int, int]) -> tuple[Objects, Objects]:
        outlines, _ = read_outline_file(own[sample.id])
        drawn = [(each, fill_rings(each.rings, shape_hw)) for each in outlines]
        holes = union_runs([fill_rings([], shape_hw), *(runs for each, runs in drawn if each.is_hole)])
        kinds: dict[bool, list[Runs]] = {False: [], True: []}
        for each, runs in drawn:
            if not each.is_hole:
                kinds[each.label == IGNORED_CLASS].append(subtract_runs(runs, holes) if holes.area else runs)
        return Objects.from_runs(kinds[False], shape_hw), Objects.from_runs(kinds[True], shape_hw)

    return read


def _of_coco(path: Path, samples: Sequence[Sample], names: ImageNames) -> FrameReader:
    shapes = {sample.id: header_shape_of(sample.image_path) for sample in samples}
    found: Mapping[str, tuple[list[Runs], list[Runs]]] = coco_objects(path, shapes, names)

    def read(sample: Sample, shape_hw: tuple[int, int]) -> tuple[Objects, Objects]:
        objects, crowds = found[sample.id]
        return Objects.from_runs(objects, shape_hw), Objects.from_runs(crowds, shape_hw)

    return read
