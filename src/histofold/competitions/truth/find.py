"""Which kind of truth a plain folder has: one, and it is named where there are several or none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from histofold.competitions.truth.coco import coco_truth
from histofold.competitions.truth.found import FoundTruth
from histofold.competitions.truth.layout import (
    IMAGE_FOLDERS,
    OUTLINE_SUFFIXES,
    TRUTH_FOLDERS,
    ImageFiles,
    child_folders,
    coco_files,
    is_plain_folder,
)
from histofold.competitions.truth.masks.files import MASK_SUFFIXES
from histofold.competitions.truth.masks.folder import find_masks, masks_beside, object_masks
from histofold.competitions.truth.masks.values import MaskSettings
from histofold.competitions.truth.names import listed_files
from histofold.competitions.truth.outlines.folder import find_outlines
from histofold.competitions.truth.rles import read_rles
from histofold.core.faults import Fault
from histofold.schema.parse import load_toml
from histofold.schema.sample import Sample

FOLDER_SETTINGS = "folder.toml"
"""What the values of masks mean, where that cannot be seen from them; beside the images."""
_READ_NAMES = (FOLDER_SETTINGS, "classes.txt", "images.csv", "rles.csv", "annotations.json")
Reader = partial[FoundTruth]


def find_truth(root: Path, images: ImageFiles, samples: Sequence[Sample]) -> FoundTruth:
    """The truth of a folder's samples, in whatever form it is there.

    Args:
        root: The folder.
        images: Its training images.
        samples: The same with what tables say of them.

    Raises:
        InputError: If folder.toml is at fault.
    """
    kinds = kinds_of_truth(root, images, samples)
    if len(kinds) == 1:
        return next(iter(kinds.values()))()
    if kinds:
        rule, remedy = (
            f"several kinds of truth: {', '.join(kinds)}",
            "keep the one that counts, and move the others away",
        )
    else:
        rule, remedy = f"no truth of the images{_unread_words(root)}", _missing_remedy(root)
    return FoundTruth(faults=[Fault("masks", str(root), rule, remedy)])


def folder_settings(root: Path) -> MaskSettings:
    """What folder.toml says, and the defaults where there is none; raises InputError where it is at fault."""
    path = root / FOLDER_SETTINGS
    return load_toml(MaskSettings, path) if path.is_file() else MaskSettings()


def _unread_words(root: Path) -> str:
    """What lies where truth is looked for and is not read."""
    folders = child_folders(root, TRUTH_FOLDERS)
    kinds = {f"{each.name}/*{path.suffix}" for each in folders for path in each.rglob("*") if path.is_file()}
    kinds |= {path.name for path in root.iterdir() if path.suffix.lower() in OUTLINE_SUFFIXES}
    return f" that is read; there are {', '.join(sorted(kinds))}" if kinds else ""


def _missing_remedy(root: Path) -> str:
    """Where truth belongs; or the folder to give, where this is the one of the images or of their masks."""
    above = root.resolve().parent
    is_part = root.resolve().name.casefold() in (*IMAGE_FOLDERS, *TRUTH_FOLDERS)
    if is_part and os.access(above, os.R_OK) and is_plain_folder(above):
        return f"give the folder above, {above.name}, which holds images and truth"
    return "add masks/, rles.csv, annotations.json (COCO), or outlines as GeoJSON"


def misnamed_files(root: Path) -> list[Fault]:
    """Files that are not read for a letter of their name (case, a second suffix) or for the folder they lie in."""
    found = []
    for path in sorted(root.iterdir()):
        name = path.name.casefold()
        right = next((each for each in _READ_NAMES if each in (name, name.removesuffix(".txt"))), "")
        if right and not (root / right).exists():
            found.append(Fault(path.stem, str(path), "it is not read under this name", f"name it {right}"))
    for folder in child_folders(root, (*IMAGE_FOLDERS, *TRUTH_FOLDERS)):
        found += [
            Fault(path.stem, str(path), "it is not read here", f"move it beside {folder.name}/, into {root.name}/")
            for path in sorted(folder.iterdir())
            if path.name in _READ_NAMES[:-1]  # COCO's annotations are looked for there too
        ]
    return found


def kinds_of_truth(root: Path, images: ImageFiles, samples: Sequence[Sample]) -> dict[str, Reader]:
    """What may be the truth, by its name in words, and what reads it: a function and its arguments."""
    names, settings = images.names(), folder_settings(root)
    kinds: dict[str, Reader] = {}
    for folder in child_folders(root, TRUTH_FOLDERS):
        if folder == images.folder:
            continue
        outlines = [each for group in listed_files(folder, OUTLINE_SUFFIXES).values() for each in group]
        if listed_files(folder, MASK_SUFFIXES) or (folder.name == "masks" and not outlines):
            kinds[f"{folder.name}/"] = partial(find_masks, folder, samples, names, settings)
        coco = coco_files(outlines)
        kinds |= {f"{folder.name}/{each.name}": partial(coco_truth, each, samples, names) for each in coco}
        outlines = [each for each in outlines if each not in coco]
        if outlines:
            kinds[f"outlines in {folder.name}/"] = partial(find_outlines, folder, outlines, samples, names)
    if (root / "rles.csv").exists():
        kinds["rles.csv"] = partial(read_rles, root / "rles.csv", samples)
    coco = coco_files(sorted({*root.glob("*.json"), *images.folder.glob("*.json")} - {root / "annotations.json"}))
    coco += [root / "annotations.json"] if (root / "annotations.json").exists() else []
    kinds |= {str(each.relative_to(root)): partial(coco_truth, each, samples, names) for each in coco}
    if images.masks_beside:
        kinds["masks beside the images"] = partial(masks_beside, root, images, samples, settings)
    beside = [each for each in images.outlines_beside() if each not in coco]
    if beside:
        kinds["outlines beside the images"] = partial(find_outlines, images.folder, beside, samples, names)
    if any(images.objects.values()):
        kinds["masks of single objects"] = partial(object_masks, images, samples, settings)
    return kinds
