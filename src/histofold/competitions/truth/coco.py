"""COCO annotations as truth: polygons as pycocotools draws them, and run lengths; no mask is ever decoded."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from histofold.competitions.tables import header_shape_of
from histofold.competitions.truth.found import ONE_CLASS, FoundTruth
from histofold.competitions.truth.names import ImageNames, class_name_faults
from histofold.core.faults import Fault
from histofold.core.rle.runs import Runs, join_classes
from histofold.core.rle.sets import subtract_runs, union_runs
from histofold.schema.sample import Sample

Labelled = list[tuple[str, Any]]
"""Segmentations, each with the words that name its annotation."""
_COCO_REMEDY = "write images, annotations and segmentations as COCO does"
_COCO_CROWD = "\0crowd"  # beside the categories, whose ids are of JSON
_COCO_COUNT_BITS = 60  # of one compressed count; more would be no pixel of any image


def coco_truth(path: Path, samples: Sequence[Sample], names: ImageNames) -> FoundTruth:
    """The truth of samples by a COCO file, each used category a class where there are several."""
    data, faults = load_coco(path)
    if faults:
        return FoundTruth(faults=faults)
    categories = coco_categories(data)
    if len(set(categories.values())) < len(categories):
        rule = f"categories of one name: {', '.join(categories.values())}"
        return FoundTruth(faults=[Fault("categories", str(path), rule, "name each category once")])
    if spelled := class_name_faults(path, categories.values()):
        return FoundTruth(faults=spelled)
    shapes = {sample.id: header_shape_of(sample.image_path) for sample in samples}
    truth = read_coco(path, data, shapes, tuple(categories), names)
    truth.classes = tuple(categories.values()) or ONE_CLASS
    return truth


def coco_categories(data: Mapping[str, Any]) -> dict[int | str, str]:
    """The categories that some annotation has, by their id, in the file's order; none where fewer than two are used."""
    listed = data.get("categories")
    if listed is None or not _is_objects(listed):
        return {}
    named = {key: each.get("name") for each in listed if isinstance(key := each.get("id"), int | str)}
    find = _finder(named)
    used = {key for note in data["annotations"] if isinstance(key := find(note.get("category_id")), int | str)}
    chosen = {key: str(name).strip() for key, name in named.items() if key in used and isinstance(name, str)}
    chosen = {key: name for key, name in chosen.items() if name}
    return chosen if len(chosen) > 1 else {}


def _finder(listed: Collection[Any]) -> Callable[[Any], Any]:
    """Finds a key as the file lists it where an annotation writes a number as text, or the reverse; else as it is."""
    spelled = {str(key): key for key in listed}
    return lambda key: key if isinstance(key, int | str) and key in listed else spelled.get(str(key), key)


def load_coco(path: Path) -> tuple[dict[str, Any], list[Fault]]:
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
    path: Path,
    data: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, int] | None],
    categories: Sequence[int | str] = (),
    names: ImageNames | None = None,
) -> FoundTruth:
    """Read the truth of images from a COCO file; what a crowd covers beside the objects is ignored.

    Args:
        path: The json file.
        data: Its content, as `load_coco` gives it.
        shapes: Height and width of each image wanted, by its id, as its own header says; None where the image cannot
            be read, so that its size cannot be held against the file.
        categories: Ids of the categories that are classes; empty where all annotations are one class.
        names: Finds the image of a file name; without it names are held against the ids, folders and suffix aside.

    Returns:
        The runs of each image (of each class) without fault, and all faults: images that are not listed or of another
        size, annotations of unknown images, of no class, or with a malformed segmentation.
    """
    names = names or ImageNames({key: PurePosixPath(f"{key}.png") for key in shapes})
    listed, sized, faults = _coco_images(path, data["images"], shapes, names)
    truth = FoundTruth(faults=faults)
    by_image = _grouped_annotations(path, data["annotations"], listed, tuple(categories), faults)
    for key, shape_hw in sized.items():
        _add_image(truth, path, listed[key], by_image[key], shape_hw)
    return truth


def coco_objects(
    path: Path, shapes: Mapping[str, tuple[int, int] | None], names: ImageNames
) -> dict[str, tuple[list[Runs], list[Runs]]]:
    """The objects and the crowds of each image of a COCO file that `read_coco` finds without fault.

    Args:
        path: The json file.
        shapes: As for `read_coco`.
        names: Finds the image of a file name.
    """
    data, faults = load_coco(path)
    listed, sized, _ = _coco_images(path, data["images"], shapes, names) if not faults else ({}, {}, [])
    by_image = _grouped_annotations(path, data["annotations"], listed, (), []) if not faults else {}
    found = {}
    for key, shape_hw in sized.items():
        of_kinds = by_image[key][None], by_image[key][_COCO_CROWD]
        objects, crowds = (
            [union_runs(coco_runs(segmentation, shape_hw)) for _, segmentation in kind] for kind in of_kinds
        )
        found[listed[key]] = (objects, crowds)
    return found


def _grouped_annotations(
    path: Path,
    annotations: Sequence[Mapping[str, Any]],
    listed: Mapping[int | str, str],
    categories: tuple[int | str, ...],
    faults: list[Fault],
) -> dict[int | str, dict[int | str | None, Labelled]]:
    """Annotations by image, and by category or crowd; adds the faults."""
    by_image: dict[int | str, dict[int | str | None, Labelled]]
    by_image = {key: {each: [] for each in (*(categories or (None,)), _COCO_CROWD)} for key in listed}
    image_of, category_of = _finder(listed), _finder(categories)
    for number, annotation in enumerate(annotations):
        key, label = image_of(annotation.get("image_id")), f"annotation {annotation.get('id', f'no. {number}')}"
        if not isinstance(key, int | str) or key not in by_image:
            rule = f"image_id {key!r} is not among the images"
            faults.append(Fault(label, str(path), rule, "mend or drop the annotation"))
            continue
        category = category_of(annotation.get("category_id")) if categories else None
        if annotation.get("iscrowd"):
            category = _COCO_CROWD
        if not isinstance(category, int | str | None) or category not in by_image[key]:
            rule = f"{label}: category_id {category!r} is not among the categories"
            faults.append(Fault(listed[key], str(path), rule, "list the category with a name, or drop the annotation"))
            continue
        by_image[key][category].append((label, annotation.get("segmentation")))
    return by_image


def _add_image(
    truth: FoundTruth,
    path: Path,
    key: str,
    annotations: Mapping[int | str | None, Labelled],
    shape_hw: tuple[int, int],
) -> None:
    """Add the annotations of an image, by class and crowd, to the truth; or all that is wrong with them."""
    joined: dict[int | str | None, Runs] = {}
    wrong, polygons = [], []
    for category, members in annotations.items():
        parts = [Runs(np.zeros(0, int), np.zeros(0, int), shape_hw)]
        for label, segmentation in members:
            try:
                drawn = coco_runs(segmentation, shape_hw)
                parts += drawn
                polygons += [any(runs.area for runs in drawn)] if isinstance(segmentation, list) else []
            except (ValueError, TypeError, OverflowError) as error:
                wrong.append(Fault(key, str(path), f"{label}: {error}", "mend or drop the annotation"))
        joined[category] = union_runs(parts)
    lost = len(polygons) - sum(polygons)
    if 2 * lost > len(polygons):
        rule = (
            f"{lost} of {len(polygons)} polygons have no pixel of the image: another origin, or y that grows upwards?"
        )
        wrong.append(Fault(key, str(path), rule, "export the polygons of this image, at its full size"))
    truth.faults += wrong
    if wrong:
        return
    crowd = joined.pop(_COCO_CROWD)
    truth.targets[key] = join_classes(list(joined.values()))
    if crowd.area:
        truth.ignored[key] = subtract_runs(crowd, union_runs(list(joined.values())))


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _coco_images(
    path: Path,
    images: list[dict[str, Any]],
    shapes: Mapping[str, tuple[int, int] | None],
    names: ImageNames,
) -> tuple[dict[int | str, str], dict[int | str, tuple[int, int]], list[Fault]]:
    """By COCO id: the id of each listed image, and the size of those wanted and of the right size; and the faults."""
    listed: dict[int | str, str] = {}
    sized: dict[int | str, tuple[int, int]] = {}
    faults: list[Fault] = []
    seen: set[str] = set()
    for number, image in enumerate(images):
        key, file_name = image.get("id"), image.get("file_name")
        if not isinstance(key, int | str) or not isinstance(file_name, str):
            rule = "has no id, or no file_name that is a text"
            faults.append(Fault(f"image no. {number}", str(path), rule, _COCO_REMEDY))
            continue
        name = names.id_of(file_name) or file_name
        if key in listed or name in seen:
            faults.append(Fault(name, str(path), f"image {key!r} ({file_name}) is listed twice", "list it once"))
            continue
        listed[key] = name
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
    return listed, sized, faults


def coco_runs(segmentation: Any, shape_hw: tuple[int, int]) -> list[Runs]:
    """The parts of a COCO segmentation, each as runs; they may overlap.

    Args:
        segmentation: Polygons, or an object of counts (a list or a compressed string) and perhaps size.
        shape_hw: Height and width of the image.

    Raises:
        ValueError: If the segmentation is malformed, or of another size.
    """
    if isinstance(segmentation, list):
        from pycocotools import mask as coco_mask  # here, since Kaggle's machines lack it and read no COCO files

        rings = _coco_rings(segmentation, shape_hw)
        drawn = coco_mask.frPyObjects(rings, *shape_hw)
        return [_runs_of_counts(coco_counts(each["counts"].decode()), shape_hw) for each in drawn]
    if segmentation is None:
        raise ValueError("no segmentation: a box alone is no mask")
    if not isinstance(segmentation, dict):
        raise ValueError("segmentation is neither polygons nor run lengths")
    size = segmentation.get("size", [*shape_hw])
    if list(size) != [*shape_hw]:
        raise ValueError(f"size {size} differs from the image's {[*shape_hw]}")
    counts = segmentation.get("counts")
    return [_runs_of_counts(coco_counts(counts) if isinstance(counts, str) else counts, shape_hw)]


def _coco_rings(segmentation: list[Any], shape_hw: tuple[int, int]) -> list[list[float]]:
    """Rings as x, y, x, y ... of three points or more; they may reach one image's side beyond the image."""
    if not segmentation:
        raise ValueError("segmentation without rings: a box alone is no mask")
    sides_xy = np.array(shape_hw[::-1], float)
    rings = []
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
        if (points_N2 >= 0).all() and (points_N2 <= 1).all():
            raise ValueError(f"ring {number} lies within the first pixel: are its numbers shares of the image's sides?")
        if (points_N2 < -sides_xy).any() or (points_N2 > 2 * sides_xy).any():
            raise ValueError(f"ring {number} lies far outside the image of {tuple(shape_hw)} (H, W) pixels")
        rings.append(values.tolist())
    return rings


def _runs_of_counts(counts: Any, shape_hw: tuple[int, int]) -> Runs:
    """Counts of pixels outside, inside, outside ... column by column, held against the size of the image."""
    numbers = np.asarray(counts)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or (numbers < 0).any():
        raise ValueError("counts are no list of whole numbers of at least 0")
    pixels = shape_hw[0] * shape_hw[1]
    # The largest first: a sum of absurd counts could overflow to the right one.
    if int(numbers.max()) > pixels or int(numbers.sum()) != pixels:
        raise ValueError(f"counts do not add up to the image's {pixels} pixels")
    ends = np.cumsum(numbers.astype(np.int64))[1::2]
    lengths = numbers[1::2].astype(np.int64)
    held = lengths > 0
    return Runs((ends - lengths)[held], lengths[held], shape_hw)


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
