"""COCO annotations as truth: polygons and run lengths, one image's mask in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from histofold.competitions.tables import header_shape_of
from histofold.competitions.truth.found import ONE_CLASS, FoundTruth
from histofold.core.faults import Fault
from histofold.core.rle.runs import Masks, Runs, join_classes, runs_from_mask
from histofold.schema.sample import Sample

_COCO_REMEDY = "write images, annotations and segmentations as COCO does"
_COCO_COUNT_BITS = 60  # of one compressed count; more would be no pixel of any image


def coco_truth(path: Path, samples: Sequence[Sample]) -> FoundTruth:
    """The truth of samples by a COCO file, each used category a class where there are several."""
    shapes = {sample.id: header_shape_of(sample.image_path) for sample in samples}
    categories = coco_categories(path)
    if len(set(categories.values())) < len(categories):
        rule = f"categories of one name: {', '.join(categories.values())}"
        return FoundTruth(faults=[Fault("categories", str(path), rule, "name each category once")])
    targets, faults = read_coco(path, shapes, tuple(categories))
    return FoundTruth(classes=tuple(categories.values()) or ONE_CLASS, targets=targets, faults=faults)


def coco_categories(path: Path) -> dict[int | str, str]:
    """The categories that some annotation has, by their id, in the file's order; none where fewer than two are used.

    Of a file that is no COCO file there are none: `read_coco` names its faults.
    """
    data, faults = _load_coco(path)
    listed = data.get("categories")
    if faults or listed is None or not _is_objects(listed):
        return {}
    used = {key for note in data["annotations"] if isinstance(key := note.get("category_id"), int | str)}
    named = {category.get("id"): category.get("name") for category in listed}
    chosen = {key: name for key, name in named.items() if key in used and isinstance(name, str) and name}
    return chosen if len(chosen) > 1 else {}


def _load_coco(path: Path) -> tuple[dict[str, Any], list[Fault]]:
    """The content of a COCO file, or why it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        return {}, [Fault(path.stem, str(path), f"not JSON ({error})", _COCO_REMEDY)]
    wrong = [key for key in ("images", "annotations") if not isinstance(data, dict) or not _is_objects(data.get(key))]
    if wrong:
        return {}, [Fault(path.stem, str(path), f"no list of objects as {' and '.join(wrong)}", _COCO_REMEDY)]
    return data, []


def read_coco(
    path: Path, shapes: Mapping[str, tuple[int, int] | None], categories: Sequence[int | str] = ()
) -> tuple[dict[str, Masks], list[Fault]]:
    """Read the truth of images from a COCO file.

    Args:
        path: The json file.
        shapes: Height and width of each image wanted, by its name without suffix, as its own header says; None where
            the image cannot be read, so that its size cannot be held against the file.
        categories: Ids of the categories that are classes; empty where all annotations are one class.

    Returns:
        The runs of each image (of each class) without fault, and all faults: images that are not listed or of another
        size, annotations of unknown images, of no class, or with a malformed segmentation.
    """
    data, faults = _load_coco(path)
    if faults:
        return {}, faults
    names, sized, faults = _coco_names(path, data["images"], shapes)
    classes = tuple(categories) or (None,)
    by_image: dict[int | str, dict[int | str | None, list[tuple[str, Any]]]]
    by_image = {key: {each: [] for each in classes} for key in names}
    for number, annotation in enumerate(data["annotations"]):
        key, label = annotation.get("image_id"), f"annotation {annotation.get('id', f'no. {number}')}"
        if not isinstance(key, int | str) or key not in by_image:
            rule = f"image_id {key!r} is not among the images"
            faults.append(Fault(label, str(path), rule, "mend or drop the annotation"))
            continue
        category = annotation.get("category_id") if categories else None
        if not isinstance(category, int | str | None) or category not in by_image[key]:
            rule = f"{label}: category_id {category!r} is not among the categories"
            faults.append(Fault(names[key], str(path), rule, "list the category with a name, or drop the annotation"))
            continue
        by_image[key][category].append((label, annotation.get("segmentation")))
    targets: dict[str, Masks] = {}
    for key, shape_hw in sized.items():
        painted = [_coco_runs(path, names[key], by_image[key][each], shape_hw) for each in classes]
        faults += [fault for _, found in painted for fault in found]
        runs = [each for each, _ in painted if each is not None]
        if len(runs) == len(classes):
            targets[names[key]] = join_classes(runs)
    return targets, faults


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _coco_names(
    path: Path, images: list[dict[str, Any]], shapes: Mapping[str, tuple[int, int] | None]
) -> tuple[dict[int | str, str], dict[int | str, tuple[int, int]], list[Fault]]:
    """By COCO id: the name without suffix of each listed image, and the size of those wanted and of the right size."""
    names: dict[int | str, str] = {}
    sized: dict[int | str, tuple[int, int]] = {}
    faults: list[Fault] = []
    seen: set[str] = set()
    for number, image in enumerate(images):
        key, file_name = image.get("id"), image.get("file_name")
        if not isinstance(key, int | str) or not isinstance(file_name, str):
            faults.append(Fault(f"image no. {number}", str(path), "has no id or no file_name", _COCO_REMEDY))
            continue
        name = Path(file_name).stem
        if key in names or name in seen:
            faults.append(Fault(name, str(path), f"image {key!r} ({file_name}) is listed twice", "list it once"))
            continue
        names[key] = name
        seen.add(name)
        said, shape_hw = (image.get("height"), image.get("width")), shapes.get(name)
        if shape_hw is None:
            continue
        if said == shape_hw:
            sized[key] = shape_hw
        else:
            rule = f"image is {shape_hw} (H, W) pixels and its entry says {said}"
            faults.append(Fault(name, str(path), rule, "correct height and width, or the image"))
    unlisted = [name for name in shapes if name not in seen]
    faults += [Fault(name, str(path), "image is not listed", "list it, or drop the image") for name in unlisted]
    return names, sized, faults


def _coco_runs(
    path: Path, name: str, annotations: list[tuple[str, Any]], shape_hw: tuple[int, int]
) -> tuple[Runs | None, list[Fault]]:
    """The union of an image's annotations, each a label and a segmentation; or all that is wrong with them."""
    canvas_HW = np.zeros(shape_hw, np.uint8)
    faults = []
    for label, segmentation in annotations:
        try:
            paint_coco(canvas_HW, segmentation)
        except (ValueError, TypeError, OverflowError) as error:
            faults.append(Fault(name, str(path), f"{label}: {error}", "mend or drop the annotation"))
    return (None if faults else runs_from_mask(canvas_HW)), faults


def paint_coco(canvas_HW: np.ndarray, segmentation: Any) -> None:
    """Add a COCO segmentation to a mask.

    Args:
        canvas_HW: uint8 (H, W), set to 1 where the segmentation covers it.
        segmentation: Polygons, or an object of counts (a list or a compressed string) and perhaps size.

    Raises:
        ValueError: If the segmentation is malformed, or of another size.
    """
    if isinstance(segmentation, list):
        # One ring a call: fillPoly of several rings at once would leave their overlaps out.
        for ring_N2 in list(_coco_rings(segmentation, canvas_HW.shape)):
            cv2.fillPoly(canvas_HW, [ring_N2], color=1)
    elif isinstance(segmentation, dict):
        _paint_counts(canvas_HW, segmentation)
    else:
        raise ValueError("segmentation is neither polygons nor run lengths")


def _coco_rings(segmentation: list[Any], shape_hw: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Rings as int32 (N, 2), x before y, as OpenCV wants them; they may reach one image's side beyond the image."""
    if not segmentation:
        raise ValueError("segmentation without rings")
    sides_xy = np.array(shape_hw[::-1], float)
    for number, ring in enumerate(segmentation):
        try:
            values = np.asarray(ring, float).ravel()
        except (ValueError, TypeError) as error:
            raise ValueError(f"ring {number} is not a list of numbers") from error
        if values.size < 6 or values.size % 2:
            raise ValueError(f"ring {number} has {values.size} numbers: needs x and y of three points or more")
        points_N2 = values.reshape(-1, 2)
        if not np.isfinite(points_N2).all():
            raise ValueError(f"ring {number} has a coordinate that is not finite")
        if (points_N2 < -sides_xy).any() or (points_N2 > 2 * sides_xy).any():
            raise ValueError(f"ring {number} lies far outside the image of {tuple(shape_hw)} (H, W) pixels")
        yield np.round(points_N2).astype(np.int32)


def _paint_counts(canvas_HW: np.ndarray, segmentation: Mapping[str, Any]) -> None:
    height, width = canvas_HW.shape
    size = segmentation.get("size", [height, width])
    if list(size) != [height, width]:
        raise ValueError(f"size {size} differs from the image's {[height, width]}")
    counts = segmentation.get("counts")
    numbers = np.asarray(coco_counts(counts) if isinstance(counts, str) else counts)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or (numbers < 0).any():
        raise ValueError("counts are no list of whole numbers of at least 0")
    pixels = height * width
    # The largest first: a sum of absurd counts could overflow to the right one.
    if int(numbers.max()) > pixels or int(numbers.sum()) != pixels:
        raise ValueError(f"counts do not add up to the image's {pixels} pixels")
    ends = np.cumsum(numbers.astype(np.int64))[1::2]
    lengths = numbers[1::2].astype(np.int64)
    held = lengths > 0
    if not held.any():
        return
    runs = Runs((ends - lengths)[held], lengths[held], (height, width))
    left, right = int(runs.starts[0]) // height, (int(runs.starts[-1] + runs.lengths[-1]) - 1) // height + 1
    canvas_HW[:, left:right] |= runs.to_window(slice(0, height), slice(left, right))


def coco_counts(text: str) -> list[int]:
    """Decode COCO's compressed counts: 5 bits a character, low bits first, later ones relative to the last but one.

    Source: the comment above rleToString in cocoapi's maskApi.c.

    Raises:
        ValueError: If the text holds other characters, or ends within a count.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > _COCO_COUNT_BITS:
            raise ValueError(f"compressed counts are malformed after {len(counts)} numbers")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError(f"compressed counts end within number {len(counts)}")
    return counts
