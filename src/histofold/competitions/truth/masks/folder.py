"""Masks of a folder: which file is whose, and of which class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from histofold.competitions.ids import broken_links, meet_ids
from histofold.competitions.tables import read_names
from histofold.competitions.truth.found import ONE_CLASS, FoundTruth
from histofold.competitions.truth.layout import ImageFiles
from histofold.competitions.truth.masks.files import MASK_SUFFIXES
from histofold.competitions.truth.masks.reader import Files, MaskReader
from histofold.competitions.truth.masks.values import MaskSettings
from histofold.competitions.truth.names import (
    ImageNames,
    bare_name,
    class_name_faults,
    files_of_images,
    is_hidden,
    listed_files,
    without_suffix,
)
from histofold.core.faults import Fault, InputNotice, listed_ids
from histofold.schema.sample import Sample

_MOST_NAMED = 10
_NUMBERED = re.compile(r"(\d+)[\s:=,;.)\t-]+\S")


def find_masks(folder: Path, samples: Sequence[Sample], names: ImageNames, settings: MaskSettings) -> FoundTruth:
    """Find out the classes, by sub-folders or classes.txt, and the masks of each; nothing is decoded yet.

    Args:
        folder: The masks; classes.txt may stand beside it.
        samples: The images.
        names: Finds the image of a file.
        settings: What folder.toml says.
    """
    classes_path = folder.parent / "classes.txt"
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not is_hidden(path.name)]
    found = [path.name for path in inside if listed_files(path, MASK_SUFFIXES)]
    found = [] if set(found) <= names.folders else found  # sub-folders of images have masks in folders of their name
    listed, faults = (read_names(classes_path) if classes_path.is_file() else (), [])
    faults += _class_faults(classes_path, listed) + class_name_faults(folder, found)
    if found and listed_files(folder, MASK_SUFFIXES, deep=False):
        rule = f"masks beside the folders of classes ({', '.join(found)})"
        faults.append(Fault("masks", str(folder), rule, "move them into the folder of their class"))
    if found and listed and set(found) != set(listed):
        rule = f"classes {', '.join(listed)} and folders {', '.join(found)} differ"
        faults.append(Fault("classes", str(classes_path), rule, "name the folders of masks/, in the order you want"))
    if faults:
        return FoundTruth(faults=faults)
    classes = listed or tuple(found) or ONE_CLASS
    files: dict[str, list[list[Path]]] = {}
    for each in [folder / name for name in classes] if found else [folder]:
        paths = [path for group in listed_files(each, MASK_SUFFIXES).values() for path in group]
        of_class, class_faults = one_file_each(each, paths, samples, names)
        faults += class_faults
        for key, path in of_class.items():
            files.setdefault(key, []).append([path])
    truth = masks_as_truth(folder, files, samples, settings, classes, has_labels=not found)
    truth.faults = faults
    return truth


def _class_faults(path: Path, names: Sequence[str]) -> list[Fault]:
    """Faults of the names in classes.txt."""
    faults = []
    if len(set(names)) < len(names):
        faults.append(Fault("classes", str(path), "a class stands there twice", "name each class once"))
    numbers = [int(match[1]) for name in names if (match := _NUMBERED.match(name))]
    if len(numbers) == len(names) > 1 and numbers == [*range(numbers[0], numbers[0] + len(numbers))]:
        rule = "its lines begin with numbers: the k-th line is the class of the value k, whatever it begins with"
        faults.append(Fault("classes", str(path), rule, "write the names alone, in this order, without background"))
        return faults
    faults += class_name_faults(path, names)
    faults += [
        Fault("classes", str(path), f"{name} is no class: it is what has the value 0", "take the line out")
        for name in names
        if name.casefold().strip("_") in ("background", "bg")
    ]
    return faults


def masks_beside(root: Path, images: ImageFiles, samples: Sequence[Sample], settings: MaskSettings) -> FoundTruth:
    """Masks in the folders of the images, as GlaS has them: ID_anno beside ID; classes.txt may stand in root."""
    names = root / "classes.txt"
    classes = (read_names(names) if names.is_file() else ()) or ONE_CLASS
    files, faults = one_file_each(images.folder, images.masks_beside, samples, images.names())
    faults += _class_faults(names, classes)
    nested = {key: [[path]] for key, path in files.items()}
    truth = masks_as_truth(images.folder, nested, samples, settings, classes, has_labels=True)
    truth.faults = faults
    return truth


def object_masks(images: ImageFiles, samples: Sequence[Sample], settings: MaskSettings) -> FoundTruth:
    """A mask for each object, as DSB-2018 and VRDL have them: the mask of an image is their union."""
    faults = [
        Fault(key, str(images.folder / key), "image without masks of objects", "add masks/, or drop the image")
        for key, paths in images.objects.items()
        if not paths
    ]
    files = {key: [paths] for key, paths in images.objects.items() if paths}
    truth = masks_as_truth(images.folder, files, samples, settings)
    truth.faults = faults
    return truth


def one_file_each(
    folder: Path, paths: Sequence[Path], samples: Sequence[Sample], names: ImageNames
) -> tuple[dict[str, Path], list[Fault]]:
    """The one file of each image, and faults of images with none or with several; files of no image are a notice.

    Files that are spelled otherwise than images that have none (case, Unicode form, leading zeros, a second suffix) are
    theirs where there is no doubt, with a notice.
    """
    by_id, strays = files_of_images(folder, paths, names)
    waiting: dict[str, list[Path]] = {}
    for path in strays:
        waiting.setdefault(bare_name(without_suffix(PurePosixPath(path.name)).name), []).append(path)
    meant, faults = meet_ids(folder, waiting, [sample.id for sample in samples if sample.id not in by_id])
    by_id |= {key: waiting[name] for name, key in meant.items()}
    strays = [path for name, own in waiting.items() if name not in meant for path in own]
    found = {}
    names_of = {} if all(sample.id in by_id for sample in samples) else _names_by_stem(folder)
    for sample in samples:
        own = by_id.get(sample.id, [])
        if len(own) == 1:
            found[sample.id] = own[0]
        elif own:
            rule = f"two masks of this name: {', '.join(path.name for path in own)}"
            faults.append(Fault(sample.id, str(folder), rule, "keep one"))
        else:
            faults.append(_missing_mask(folder, sample, names_of))
    if strays:
        rule = f"{len(strays)} files are of no image: {listed_ids((path.name for path in strays), _MOST_NAMED)}"
        faults.append(InputNotice("masks", str(folder), rule, "add their images, or move them elsewhere"))
    return found, [*faults, *broken_links(folder)]


def _names_by_stem(folder: Path) -> dict[str, list[str]]:
    """Names of everything in a folder by their stem, and by that without what says that it is a mask."""
    names: dict[str, list[str]] = {}
    for path in folder.rglob("*"):
        for stem in {path.stem, bare_name(path.stem)}:
            names.setdefault(stem, []).append(path.name)
    return names


def _missing_mask(folder: Path, sample: Sample, names: Mapping[str, Sequence[str]]) -> Fault:
    """The fault of an image without mask; a file of its name that is not read is named, by `_names_by_stem`."""
    rule, remedy = f"image {sample.image_path.name} has no mask", "add a mask of the same name, or drop the image"
    unread = [name for name in sorted(names.get(sample.id, ())) if name != sample.image_path.name]
    if unread:
        rule, remedy = f"{rule} that is read: {', '.join(unread)} is there", "export it as PNG or TIFF"
    return Fault(sample.id, str(folder), rule, remedy)


def masks_as_truth(
    folder: Path,
    files: Files,
    samples: Sequence[Sample],
    settings: MaskSettings,
    classes: tuple[str, ...] = ONE_CLASS,
    has_labels: bool = False,
) -> FoundTruth:
    """Mask files as truth that is read when it is asked for.

    Args:
        folder: Where they lie, for the words.
        files: Of each image.
        samples: The images.
        settings: What folder.toml says.
        classes: The mask classes.
        has_labels: Whether one file holds all classes, where there are several.
    """
    truth = FoundTruth(classes=classes)
    labels = len(classes) if has_labels and len(classes) > 1 else 0
    reader = MaskReader(folder, files, samples, settings, labels, truth)
    truth.readers = dict.fromkeys(files, reader.read)
    return truth
