"""Masks of a folder: which file is whose, and of which class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from histofold.competitions.base import IMAGE_SUFFIXES, image_error_fault
from histofold.competitions.truth.found import ONE_CLASS, FoundTruth
from histofold.competitions.truth.mask_files import MASK_SUFFIXES, read_labels, read_mask
from histofold.competitions.truth.names import listed_files
from histofold.core.faults import Fault, ImageError, InputError
from histofold.core.rle.runs import Masks, join_classes, runs_from_mask
from histofold.imaging.slide import open_slide
from histofold.schema.sample import Sample


def find_masks(root: Path, samples: Sequence[Sample]) -> FoundTruth:
    """Find out the classes, by sub-folders of masks/ or classes.txt, and the masks of each; nothing is decoded yet."""
    folder, names = root / "masks", root / "classes.txt"
    found = [
        path.name
        for path in sorted(folder.glob("[!.]*"))
        if path.is_dir() and listed_files(path, MASK_SUFFIXES, deep=False)
    ]
    listed, faults = (_read_class_names(names) if names.is_file() else (), [])
    if len(set(listed)) < len(listed):
        faults.append(Fault("classes", str(names), "a class stands there twice", "name each class once"))
    if found and listed_files(folder, MASK_SUFFIXES, deep=False):
        rule = f"masks beside the folders of classes ({', '.join(found)})"
        faults.append(Fault("masks", str(folder), rule, "move them into the folder of their class"))
    if found and listed and set(found) != set(listed):
        rule = f"classes {', '.join(listed)} and folders {', '.join(found)} differ"
        faults.append(Fault("classes", str(names), rule, "name the folders of masks/, in the order you want"))
    if faults:
        return FoundTruth(faults=faults)
    classes = listed or tuple(found) or ONE_CLASS
    paths: dict[str, list[Path]] = {}
    for each in [folder / name for name in classes] if found else [folder]:
        faults += _find_class_masks(each, samples, paths)
    labels = len(classes) if not found and len(classes) > 1 else 0
    readers = {key: partial(_read_masks, paths=each, labels=labels) for key, each in paths.items()}
    return FoundTruth(classes=classes, readers=readers, faults=faults)


def _find_class_masks(folder: Path, samples: Sequence[Sample], paths: dict[str, list[Path]]) -> list[Fault]:
    """Add the mask of each sample in one folder to its paths; gives the faults."""
    faults = []
    masks = listed_files(folder, MASK_SUFFIXES, deep=False)
    others = listed_files(folder, tuple(suffix for suffix in IMAGE_SUFFIXES if suffix not in MASK_SUFFIXES), deep=False)
    for sample in samples:
        found = masks.get(sample.id, [])
        if len(found) == 1:
            paths.setdefault(sample.id, []).append(found[0])
        elif found:
            faults.append(Fault(sample.id, str(folder), "two masks of this name", "keep one"))
        elif sample.id in others:
            rule = "a JPEG as mask: its edges are smeared"
            faults.append(Fault(sample.id, str(others[sample.id][0]), rule, "export it as PNG or TIFF"))
        else:
            rule = f"image {sample.image_path.name} has no mask"
            faults.append(Fault(sample.id, str(folder), rule, "add a mask of the same name, or drop the image"))
    return faults


def _read_masks(sample: Sample, paths: Sequence[Path], labels: int) -> Masks:
    """The masks of a sample: one file a class, or one of this many labels.

    Raises:
        InputError: If a mask cannot be read or differs in size from the image.
    """
    try:
        with open_slide(sample.image_path) as slide:
            shape_hw = slide.shape_hw
        if labels:
            labels_HW = read_labels(paths[0], shape_hw, labels)
            return tuple(runs_from_mask(labels_HW == number + 1) for number in range(labels))
        return join_classes([runs_from_mask(read_mask(path, shape_hw)) for path in paths])
    except ImageError as error:
        raise InputError([image_error_fault(sample.id, paths[0], error)]) from error


def _read_class_names(path: Path) -> tuple[str, ...]:
    """The lines of a text file that are not empty."""
    return tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
