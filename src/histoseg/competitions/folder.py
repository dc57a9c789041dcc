"""Anyone's own data: images/ with masks/, an RLE table, or COCO annotations.

Layout::

    images/NAME.(tiff|tif|png|jpg|jpeg)     one image an id; the id is the name without its suffix
    masks/NAME.(png|tiff|tif)               non-zero pixels are mask (binary or label image), or
    rles.csv                                id, rle (1-based, column-major), or
    annotations.json                        COCO: polygons, compressed or uncompressed RLE
    images.csv                              optional: id, then any of organ, source, group or patient, pixel_size (um)
    test_images/                            optional: what `histoseg predict` predicts; else images/
    sample_submission.csv                   optional: the ids to predict and their order
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

from histoseg.competitions.base import (
    IMAGE_SUFFIXES,
    Score,
    Split,
    faultless,
    find_image,
    mean_dice_score,
    parse_pixel_size,
    read_table,
)
from histoseg.core.faults import Fault, InputError
from histoseg.core.rle import Runs, parse_rle, runs_from_mask, runs_to_text
from histoseg.imaging.errors import ImageError
from histoseg.imaging.slide import open_slide
from histoseg.schema.sample import Sample


class Folder:
    """Adapter of a plain folder of images."""

    name = "folder"
    slug = ""
    classes = ("ftu",)
    columns = ("id", "rle")
    fallback_row = ""
    never_empty = False

    def __init__(self) -> None:
        self._mask_paths: dict[str, Path] = {}
        self._targets: dict[str, Runs] = {}

    def samples(self, root: Path, split: Split) -> list[Sample]:
        """As `inspect`.

        Raises:
            InputError: With every fault of the folder.
        """
        return faultless(self.inspect(root, split))

    def inspect(self, root: Path, split: Split) -> tuple[list[Sample], list[Fault]]:
        """Samples in the order of their names, or of sample_submission.csv for the test split, and every fault.

        Faults are: no images, two images of a name, images without truth, malformed tables.
        """
        if not root.is_dir():
            return [], [Fault(root.name, str(root), "no such folder", "give the folder that holds images/")]
        try:
            return self._found(root, split)
        except InputError as error:
            return [], error.faults

    def _found(self, root: Path, split: Split) -> tuple[list[Sample], list[Fault]]:
        folder = root / "images"
        if split == "test" and (root / "test_images").is_dir():
            folder = root / "test_images"
        names = sorted(p.stem for p in folder.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        faults = [
            Fault(name, str(folder), "two images of this name", "keep one")
            for name in sorted({n for n in names if names.count(n) > 1})
        ]
        if split == "test" and (root / "sample_submission.csv").is_file():
            names = read_table(root / "sample_submission.csv", ("id",))["id"].tolist()
        if not names:
            remedy = f"put images ({', '.join(IMAGE_SUFFIXES)}) there"
            faults.append(Fault("images", str(folder), "no images", remedy))
        rows = self._metadata(root)
        samples = [self._sample(folder, name, rows.get(name, {})) for name in names]
        if split == "train":
            faults += self._find_targets(root, samples)
        return samples, faults

    @staticmethod
    def _metadata(root: Path) -> dict[str, Mapping[str, str]]:
        path = root / "images.csv"
        if not path.is_file():
            return {}
        return {row["id"]: row for row in read_table(path, ("id",)).to_dict("records")}

    @staticmethod
    def _sample(folder: Path, name: str, row: Mapping[str, str]) -> Sample:
        return Sample(
            id=name,
            image_path=find_image(folder, name),
            organ=row.get("organ", ""),
            source=row.get("source", row.get("data_source", "")),
            group=row.get("group", "") or row.get("patient", "") or name,
            pixel_size_um=parse_pixel_size(row.get("pixel_size", "")),
        )

    def _find_targets(self, root: Path, samples: list[Sample]) -> list[Fault]:
        """Find out where the truth of each sample lies; gives the faults."""
        if (root / "masks").is_dir():
            return self._find_masks(root / "masks", samples)
        if (root / "rles.csv").is_file():
            return self._read_rles(root / "rles.csv", samples)
        if (root / "annotations.json").is_file():
            return self._read_coco(root / "annotations.json", samples)
        remedy = "add masks/, rles.csv or annotations.json"
        return [Fault("masks", str(root), "no truth beside images/", remedy)]

    def _find_masks(self, folder: Path, samples: list[Sample]) -> list[Fault]:
        faults = []
        for sample in samples:
            path = find_image(folder, sample.id)
            if path.is_file():
                self._mask_paths[sample.id] = path
            else:
                rule = f"image {sample.image_path.name} has no mask"
                faults.append(Fault(sample.id, str(folder), rule, "add a mask of the same name, or drop the image"))
        return faults

    def _read_rles(self, path: Path, samples: list[Sample]) -> list[Fault]:
        texts = {row["id"]: row["rle"] for row in read_table(path, ("id", "rle")).to_dict("records")}
        faults = []
        for sample in samples:
            if sample.id not in texts:
                faults.append(Fault(sample.id, str(path), "image without a row", "add the row, or drop the image"))
                continue
            try:
                with open_slide(sample.image_path) as slide:
                    self._targets[sample.id] = parse_rle(texts[sample.id], slide.shape_hw)
            except ValueError as error:
                faults.append(Fault(sample.id, str(path), str(error), "mend the row or the image"))
        return faults

    def _read_coco(self, path: Path, samples: list[Sample]) -> list[Fault]:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            shapes = {
                image["id"]: (Path(image["file_name"]).stem, (int(image["height"]), int(image["width"])))
                for image in data["images"]
            }
            masks = {name: np.zeros(shape_hw, bool) for name, shape_hw in shapes.values()}
            for annotation in data["annotations"]:
                name, shape_hw = shapes[annotation["image_id"]]
                masks[name] |= coco_mask(annotation["segmentation"], shape_hw)
        except (ValueError, KeyError, TypeError) as error:
            rule = f"not COCO annotations ({type(error).__name__}: {error})"
            return [Fault(path.stem, str(path), rule, "write images, annotations and segmentations as COCO does")]
        self._targets = {name: runs_from_mask(mask) for name, mask in masks.items()}
        return [
            Fault(sample.id, str(path), "image is not listed", "list it, or drop the image")
            for sample in samples
            if sample.id not in masks
        ]

    def target(self, sample: Sample) -> Runs:
        """The truth of a training sample; `samples` must have been called.

        Raises:
            InputError: If the mask cannot be read or differs in size from the image.
        """
        if sample.id in self._targets:
            return self._targets[sample.id]
        path = self._mask_paths[sample.id]
        try:
            mask_HW = read_mask(path)
            with open_slide(sample.image_path) as slide:
                shape_hw = slide.shape_hw
        except ImageError as error:
            raise InputError([Fault(sample.id, str(path), str(error), "write it anew")]) from error
        if mask_HW.shape != shape_hw:
            rule = f"mask is {mask_HW.shape} and its image is {shape_hw} pixels"
            raise InputError([Fault(sample.id, str(path), rule, "export the mask at the image's size")])
        return runs_from_mask(mask_HW)

    def score(self, predictions: Mapping[str, Runs], targets: Mapping[str, Runs]) -> Score:
        """Mean over images of Dice."""
        return mean_dice_score(predictions, targets)

    def row(self, runs: Runs) -> str:
        """Runs as 1-based column-major `start length` pairs."""
        return runs_to_text(runs)


def read_mask(path: Path) -> np.ndarray:
    """Read a mask image as bool (H, W): any non-zero value of any colour channel; alpha does not count.

    Raises:
        ImageError: If the file cannot be decoded or is not a single two-dimensional image.
    """
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            values = tifffile.imread(path)
        else:
            with Image.open(path) as image:
                values = np.asarray(image)
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise ImageError(f"{path}: mask cannot be decoded ({error}): write it anew") from error
    if values.ndim == 3 and values.shape[2] in (1, 2, 3, 4):
        values = values[:, :, : 3 if values.shape[2] > 2 else 1].any(axis=2)
    if values.ndim != 2:
        raise ImageError(f"{path}: mask has shape {values.shape}: write one image of H x W")
    return values != 0


def coco_mask(segmentation: Any, shape_hw: tuple[int, int]) -> np.ndarray:
    """A COCO segmentation as a bool mask (H, W): polygons, or RLE with counts as a list or a compressed string."""
    if isinstance(segmentation, list):
        canvas = np.zeros(shape_hw, np.uint8)
        rings = [np.round(np.asarray(ring, float).reshape(-1, 2)).astype(np.int32) for ring in segmentation]
        # One ring a call: fillPoly of several rings at once would leave their overlaps out.
        for ring in rings:
            cv2.fillPoly(canvas, [ring], color=1)
        return canvas.astype(bool)
    counts = segmentation["counts"]
    numbers = coco_counts(counts) if isinstance(counts, str) else counts
    values = np.arange(len(numbers)) % 2 == 1
    flat = np.repeat(values, numbers)
    if flat.size != shape_hw[0] * shape_hw[1]:
        raise ValueError(f"counts cover {flat.size} pixels and the image has {shape_hw[0] * shape_hw[1]}")
    return flat.reshape(shape_hw[::-1]).T


def coco_counts(text: str) -> list[int]:
    """Decode COCO's compressed counts: 5 bits a character, low bits first, later ones relative to the last but one.

    Source: the comment above rleToString in cocoapi's maskApi.c.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text.encode("ascii"):
        bits = character - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
