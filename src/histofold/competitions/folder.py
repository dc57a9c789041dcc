"""Anyone's own data: images/ with masks/, an RLE table, or COCO annotations.

Layout::

    images/NAME.(tiff|tif|png|jpg|jpeg)     one image an id; the id is the name without its suffix
    masks/NAME.(png|tiff|tif)               non-zero pixels are mask (binary or label image), or
    masks/NAME... and classes.txt           labels: one class a line, the k-th is the pixels of value k, or
    masks/CLASS/NAME.(png|tiff|tif)         one mask a class, which may overlap; classes.txt may order them, or
    rles.csv                                id, rle (1-based, column-major), or id, class, rle with a row for each, or
    annotations.json                        COCO: polygons, compressed or uncompressed RLE; each used category a class
    images.csv                              optional: id, then any of organ, source, group or patient, pixel_size (um)
    test_images/                            optional: what `histofold predict` predicts; else images/
    sample_submission.csv                   optional: the ids to predict and their order

A submission has the columns id, rle; of several classes id, class, rle, with a row for each id and class.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

from histofold.competitions.base import (
    IMAGE_SUFFIXES,
    Adapter,
    Split,
    find_image,
    image_error_fault,
)
from histofold.competitions.coco import coco_categories, read_coco
from histofold.competitions.mask_files import MASK_SUFFIXES, read_labels, read_mask
from histofold.competitions.tables import (
    TABLE_ANY_SHAPE,
    header_shape_of,
    log_faults,
    parse_pixel_size,
    read_class_rows,
    rows_by_id,
    submission_ids,
)
from histofold.core.faults import Fault, ImageError, InputError
from histofold.core.rle.runs import Masks, Runs, join_classes, parse_rle, runs_from_mask
from histofold.imaging.slide import open_slide
from histofold.schema.sample import Sample


class Folder(Adapter):
    """Adapter of a plain folder of images."""

    name = "folder"
    slug = ""
    classes: tuple[str, ...] = ("ftu",)
    columns = ("id", "rle")
    class_column = "class"
    root_remedy = "give the folder that holds images/"

    def __init__(self) -> None:
        super().__init__()
        self._mask_paths: dict[str, list[Path]] = {}
        self._has_labels = False

    def _inspect(self, root: Path, split: Split) -> tuple[list[Sample], list[Fault]]:
        """Samples in the order of their names, or of sample_submission.csv for the test split, and every fault.

        Faults are: no images, two images of a name, images without truth, malformed tables. For the test split those
        of images.csv and of single rows of sample_submission.csv are only logged. Hidden files are left aside.
        """
        folder = root / "images"
        if split == "test" and (root / "test_images").is_dir():
            folder = root / "test_images"
        listed = _listed_files(folder, IMAGE_SUFFIXES)
        faults = [
            Fault(name, str(folder), "two images of this name", "keep one")
            for name, paths in listed.items()
            if len(paths) > 1
        ]
        names = list(listed)
        if split == "test" and (root / "sample_submission.csv").is_file():
            names = submission_ids(root / "sample_submission.csv", ("id",))
        if not names:
            remedy = f"put images ({', '.join(IMAGE_SUFFIXES)}) there"
            faults.append(Fault("images", str(folder), "no images", remedy))
        rows: dict[str, dict[str, str]] = {}
        if (root / "images.csv").is_file():
            rows, table_faults = rows_by_id(root / "images.csv", ("id",))
            table_faults = table_faults + _scale_faults(rows, listed, root / "images.csv")
            if split == "train":
                faults += table_faults
            else:
                log_faults(table_faults)
        samples = [
            _folder_sample(name, listed[name][0] if name in listed else find_image(folder, name), rows.get(name, {}))
            for name in names
        ]
        if split == "train":
            faults += self._find_targets(root, samples)
        return samples, faults

    def _find_targets(self, root: Path, samples: list[Sample]) -> list[Fault]:
        """Find out where the truth of each sample lies; gives the faults."""
        self._mask_paths, self._targets = {}, {}
        self.classes, self._has_labels = Folder.classes, False
        if (root / "masks").is_dir():
            return self._find_class_masks(root, samples)
        if (root / "rles.csv").is_file():
            return self._read_rles(root / "rles.csv", samples)
        if (root / "annotations.json").is_file():
            shapes = {sample.id: header_shape_of(sample.image_path) for sample in samples}
            categories = coco_categories(root / "annotations.json")
            if len(set(categories.values())) < len(categories):
                rule = f"categories of one name: {', '.join(categories.values())}"
                return [Fault("categories", str(root / "annotations.json"), rule, "name each category once")]
            self.classes = tuple(categories.values()) or Folder.classes
            self._targets, faults = read_coco(root / "annotations.json", shapes, tuple(categories))
            return faults
        remedy = "add masks/, rles.csv or annotations.json"
        return [Fault("masks", str(root), "no truth beside images/", remedy)]

    def _find_class_masks(self, root: Path, samples: list[Sample]) -> list[Fault]:
        """Find out the classes, by sub-folders of masks/ or classes.txt, and the masks of each."""
        folder, names = root / "masks", root / "classes.txt"
        found = [
            path.name for path in sorted(folder.glob("[!.]*")) if path.is_dir() and _listed_files(path, MASK_SUFFIXES)
        ]
        listed, faults = (_read_class_names(names) if names.is_file() else (), [])
        if len(set(listed)) < len(listed):
            faults.append(Fault("classes", str(names), "a class stands there twice", "name each class once"))
        if found and _listed_files(folder, MASK_SUFFIXES):
            rule = f"masks beside the folders of classes ({', '.join(found)})"
            faults.append(Fault("masks", str(folder), rule, "move them into the folder of their class"))
        if found and listed and set(found) != set(listed):
            rule = f"classes {', '.join(listed)} and folders {', '.join(found)} differ"
            faults.append(Fault("classes", str(names), rule, "name the folders of masks/, in the order you want"))
        if faults:
            return faults
        self.classes = listed or tuple(found) or Folder.classes
        self._has_labels = not found and len(self.classes) > 1
        for each in [folder / name for name in self.classes] if found else [folder]:
            faults += self._find_masks(each, samples)
        return faults

    def _find_masks(self, folder: Path, samples: list[Sample]) -> list[Fault]:
        faults = []
        masks = _listed_files(folder, MASK_SUFFIXES)
        others = _listed_files(folder, tuple(suffix for suffix in IMAGE_SUFFIXES if suffix not in MASK_SUFFIXES))
        for sample in samples:
            paths = masks.get(sample.id, [])
            if len(paths) == 1:
                self._mask_paths.setdefault(sample.id, []).append(paths[0])
            elif paths:
                faults.append(Fault(sample.id, str(folder), "two masks of this name", "keep one"))
            elif sample.id in others:
                rule = "a JPEG as mask: its edges are smeared"
                faults.append(Fault(sample.id, str(others[sample.id][0]), rule, "export it as PNG or TIFF"))
            else:
                rule = f"image {sample.image_path.name} has no mask"
                faults.append(Fault(sample.id, str(folder), rule, "add a mask of the same name, or drop the image"))
        return faults

    def _read_rles(self, path: Path, samples: list[Sample]) -> list[Fault]:
        rows, classes, faults = read_class_rows(path)
        if not rows:
            return faults or [Fault(path.stem, str(path), "no rows", "write a row for each image")]
        self.classes = classes or Folder.classes
        for sample in samples:
            found: list[Runs] = []
            shape_hw = header_shape_of(sample.image_path)
            for name in classes or ("",):
                words = f" of class {name}" if name else ""
                row = rows.get((sample.id, name))
                if row is None:
                    rule = f"image without a row{words}"
                    faults.append(Fault(sample.id, str(path), rule, "add the row, or drop the image"))
                    continue
                try:
                    runs = parse_rle(row.get("rle", ""), shape_hw or TABLE_ANY_SHAPE)
                except ValueError as error:
                    rule = f"malformed rle{words}: {error}"
                    faults.append(Fault(sample.id, str(path), rule, "mend the row or the image"))
                    continue
                if shape_hw is not None and "rle" in row:
                    found.append(runs)
            if len(found) == len(self.classes):
                self._targets[sample.id] = join_classes(found)
        return faults

    def target(self, sample: Sample) -> Masks:
        """The truth of a training sample, of each class where there are several; `inspect` must have been called.

        Raises:
            InputError: If the mask cannot be read or differs in size from the image; without further faults where no
                truth was found at all.
        """
        if sample.id in self._targets:
            return self._targets[sample.id]
        if sample.id not in self._mask_paths:
            raise InputError(f"{sample.id}: no truth was found: check the dataset first")
        paths = self._mask_paths[sample.id]
        try:
            with open_slide(sample.image_path) as slide:
                shape_hw = slide.shape_hw
            if self._has_labels:
                labels_HW = read_labels(paths[0], shape_hw, len(self.classes))
                return tuple(runs_from_mask(labels_HW == number + 1) for number in range(len(self.classes)))
            return join_classes([runs_from_mask(read_mask(path, shape_hw)) for path in paths])
        except ImageError as error:
            raise InputError([image_error_fault(sample.id, paths[0], error)]) from error


def _listed_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Files of some suffixes, in any case, by their name without suffix; sorted, hidden ones left aside."""
    listed: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*"), key=lambda path: (path.stem, path.suffix)):
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
            listed.setdefault(path.stem, []).append(path)
    return listed


def _read_class_names(path: Path) -> tuple[str, ...]:
    """The lines of a text file that are not empty."""
    return tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())


def _scale_faults(rows: Mapping[str, Mapping[str, str]], images: Container[str], path: Path) -> list[Fault]:
    """Pixel sizes of images that are no positive numbers; an empty cell says that it is not known."""
    return [
        Fault(key, str(path), f"pixel_size {size!r} is not a positive number of um", "mend the cell, or leave it empty")
        for key, size in ((key, row.get("pixel_size", "").strip()) for key, row in rows.items())
        if key in images and size.lower() not in ("", "nan") and parse_pixel_size(size) is None
    ]


def _folder_sample(name: str, path: Path, row: Mapping[str, str]) -> Sample:
    return Sample(
        id=name,
        image_path=path,
        organ=row.get("organ", ""),
        source=row.get("source", row.get("data_source", "")),
        group=row.get("group", "") or row.get("patient", "") or name,
        pixel_size_um=parse_pixel_size(row.get("pixel_size", "")),
    )
