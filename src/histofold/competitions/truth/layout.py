"""Where the images of a plain folder lie, in the layouts that people have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from histofold.competitions.base import Split
from histofold.competitions.truth.masks.files import MASK_SUFFIXES
from histofold.competitions.truth.names import (
    FOLDER_SUFFIXES,
    ImageNames,
    bare_name,
    image_ids,
    is_hidden,
    listed_files,
    without_suffix,
)
from histofold.core.faults import Fault

OUTLINE_SUFFIXES = (".geojson", ".json", ".xml")
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "img_dir")
"""Folders of images beside one of masks, in any case."""
TRUTH_FOLDERS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "annos", "anno", "ground_truth", "groundtruth"),
    *("gt", "truth", "segmentations", "segmentation", "seg", "segmentationclass", "ann_dir"),
    *("outlines", "geojson", "json", "xml"),
)
"""Folders of masks or outlines beside the images, in any case."""
_HEAD_BYTES = 4096
_OUTLINE_WORDS = (b'"features"', b'"geometry"', b'"shapes"', b"<Annotations")
_COCO_WORDS = (b'"images"', b'"annotations"', b'"info"', b'"licenses"', b'"categories"')
_OBJECT_ROOTS = {"train": (".", "stage1_train", "train"), "test": ("stage1_test", "test")}


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """The images of one split."""

    folder: Path
    """Where they lie, for the words."""
    by_id: dict[str, list[Path]] = field(default_factory=dict)
    """The file of each id; several are a fault."""
    masks_beside: list[Path] = field(default_factory=list)
    """Files among them that are masks by their name: ID_mask beside ID."""
    objects: dict[str, list[Path]] = field(default_factory=dict)
    """Masks of single objects, in the layout of DSB-2018 and VRDL: ID/images/ID.png, ID/masks/*.png."""

    def names(self) -> ImageNames:
        """Finds the image of a name."""
        relative = {
            key: PurePosixPath(paths[0].relative_to(self.folder).as_posix()) for key, paths in self.by_id.items()
        }
        return ImageNames(relative)

    def outlines_beside(self) -> list[Path]:
        """Files of outlines in the folders of the images that are of one of them by their name."""
        names, folders = self.names(), {paths[0].parent for paths in self.by_id.values()}
        files = [path for folder in sorted(folders) for path in sorted(folder.iterdir()) if _is_outline(path)]
        return [path for path in files if names.id_of(bare_name(path.stem)) or names.id_of(path.stem)]


def find_images(root: Path, split: Split) -> ImageFiles:
    """The images of a split: in images/ (or test_images/), in a folder each, or in the root beside their truth."""
    if split == "test" and (root / "test_images").is_dir():
        return _images_in(root / "test_images")
    folders = child_folders(root, IMAGE_FOLDERS)
    if not folders or split == "test":
        for name in _OBJECT_ROOTS[split]:
            found = _object_images(root / name)
            if found.by_id:
                return found
    if folders:
        return _images_in(folders[0])
    if split == "test":
        test = _images_in(root / "test")
        return test if test.by_id else find_images(root, "train")
    return _images_in(root, deep=False)


def is_plain_folder(root: Path) -> bool:
    """Whether a folder has images in a layout of ours, though it may lack their truth."""
    if child_folders(root, IMAGE_FOLDERS):
        return True
    images = find_images(root, "train")
    has_truth = images.objects or images.masks_beside or child_folders(root, TRUTH_FOLDERS)
    return bool(images.by_id and (has_truth or images.outlines_beside()))


def child_folders(root: Path, names: tuple[str, ...]) -> list[Path]:
    """The folders in a folder that have one of some names, in any case; in the order of the names."""
    found = [(names.index(path.name.casefold()), path) for path in root.iterdir() if path.name.casefold() in names]
    return [path for _, path in sorted(found) if path.is_dir()]


def _images_in(folder: Path, deep: bool = True) -> ImageFiles:
    """The images in a folder and those below it, masks beside them apart."""
    suffixes = (*FOLDER_SUFFIXES, *(suffix for suffix in MASK_SUFFIXES if suffix not in FOLDER_SUFFIXES))
    paths = [path for group in listed_files(folder, suffixes, deep).values() for path in group]
    names = {path: without_suffix(PurePosixPath(path.name)).name for path in paths}
    images = {(path.parent, name) for path, name in names.items() if path.suffix.lower() in FOLDER_SUFFIXES}
    masks = [p for p, name in names.items() if (bare := bare_name(name)) != name and (p.parent, bare) in images]
    apart = set(masks)
    others = [path for path in paths if path not in apart and path.suffix.lower() in FOLDER_SUFFIXES]
    return ImageFiles(folder=folder, by_id=image_ids(folder, others), masks_beside=masks)


def _object_images(root: Path) -> ImageFiles:
    """The images of a folder that has a folder for each, with its images/ and perhaps masks/ of single objects."""
    found = ImageFiles(folder=root)
    for folder in _visible_folders(root):
        images = [path for group in listed_files(folder / "images", FOLDER_SUFFIXES).values() for path in group]
        if images:
            found.by_id[folder.name] = images
            masks = listed_files(folder / "masks", MASK_SUFFIXES, deep=False)
            found.objects[folder.name] = [path for group in masks.values() for path in group]
    # Folders of many images each are splits of a data set, and not images.
    return found if any(len(paths) == 1 for paths in found.by_id.values()) else ImageFiles(folder=root)


def _visible_folders(root: Path) -> Iterator[Path]:
    if root.is_dir():
        yield from (path for path in sorted(root.iterdir()) if path.is_dir() and not is_hidden(path.name))


def _is_outline(path: Path) -> bool:
    """Whether a file beside images holds outlines, as its first bytes have it, and not what a scanner says of them."""
    if path.suffix.lower() not in OUTLINE_SUFFIXES or is_hidden(path.name) or not path.is_file():
        return False
    return path.suffix.lower() == ".geojson" or _begins_with(path, _OUTLINE_WORDS)


def coco_files(paths: Iterable[Path]) -> list[Path]:
    """Those of some files that are COCO files, as their first bytes have it."""
    return [
        path
        for path in paths
        if path.suffix.lower() == ".json" and not _begins_with(path, _OUTLINE_WORDS) and _begins_with(path, _COCO_WORDS)
    ]


def _begins_with(path: Path, words: tuple[bytes, ...]) -> bool:
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    return any(word in head for word in words)


def image_faults(images: ImageFiles) -> list[Fault]:
    """Ids of which there are several files, which would hide each other."""
    return [
        Fault(key, str(images.folder), f"two images of this name: {', '.join(p.name for p in paths)}", "keep one")
        for key, paths in images.by_id.items()
        if len(paths) > 1
    ]
