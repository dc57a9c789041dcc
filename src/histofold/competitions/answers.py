"""Submissions of single objects, read back: what `check submission` holds against the rules of their hosts."""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histofold.competitions.tables import read_shape
from histofold.core.faults import Fault, InputError
from histofold.core.objects.coco import runs_from_counts
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import Runs

_REMEDY = "write the detections of this image anew"


def read_prediction_string(text: str, shape_hw: tuple[int, int]) -> Detections:
    """The detections of one prediction_string of the vessels' competition.

    Args:
        text: Items `0 SCORE BASE64`, of zlib of COCO's counts, joined by blanks; empty for none.
        shape_hw: Height and width of the image.

    Raises:
        ValueError: With the first item that is at fault.
    """
    fields = text.split()
    if len(fields) % 3:
        raise ValueError(f"{len(fields)} fields are no triples of class, score and mask")
    masks, scores = [], []
    for number, (name, score, packed) in enumerate(zip(fields[::3], fields[1::3], fields[2::3], strict=True), 1):
        if name != "0":
            raise ValueError(f"item {number}: class {name!r}, and blood vessels are class 0")
        scores.append(_finite_score(score, f"item {number}"))
        masks.append(_unpacked(packed, shape_hw, f"item {number}"))
    return Detections(Objects.from_runs(masks, shape_hw), np.array(scores))


def _finite_score(value: Any, what: str) -> float:
    """A score as a number; raises ValueError in words."""
    try:
        score = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        score = float("nan")
    if not math.isfinite(score):
        raise ValueError(f"{what}: score {value!r} is no finite number")
    return score


def _unpacked(packed: str, shape_hw: tuple[int, int], what: str) -> Runs:
    """The mask of base64 of zlib of COCO's counts; raises ValueError in words."""
    most = 13 * (shape_hw[0] * shape_hw[1] + 2)  # characters of counts: what unpacks to more is no mask of this size
    try:
        unpacker = zlib.decompressobj()
        counts = unpacker.decompress(base64.b64decode(packed, validate=True), most)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"{what}: its mask is no base64 of zlib ({error})") from error
    if not unpacker.eof:
        raise ValueError(f"{what}: its mask is cut, or too long for {shape_hw[0]} x {shape_hw[1]} pixels")
    try:
        runs = runs_from_counts(counts, shape_hw)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    if not runs.area:
        raise ValueError(f"{what}: its mask is empty")
    return runs


def vessel_row_faults(path: Path, table: pd.DataFrame, shapes: Mapping[str, tuple[int, int]]) -> list[Fault]:
    """What is wrong with height, width and prediction_string of each row; sizes are held against those known."""
    faults = []
    for row in table.to_dict("records"):
        shape_hw, rule = read_shape(row, ("height", "width"))
        known = shapes.get(row["id"], shape_hw)
        if shape_hw is None or shape_hw != known:
            rule = rule or f"height and width are {shape_hw} and its image has {known} pixels (H, W)"
            faults.append(Fault(row["id"], str(path), rule, "write the image's own size"))
            continue
        try:
            read_prediction_string(row["prediction_string"], shape_hw)
        except ValueError as error:
            faults.append(Fault(row["id"], str(path), str(error), _REMEDY))
    return faults


def check_results(path: Path, shapes: Mapping[int | str, tuple[int, int]] | None) -> list[str]:
    """Check a list of COCO results.

    Args:
        path: answer.json.
        shapes: Height and width of each image by its COCO id; None where they are not known.

    Returns:
        What deserves a look, in words.

    Raises:
        InputError: With every fault.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError([Fault(path.stem, str(path), f"not JSON ({error})", "write it anew")]) from error
    if not isinstance(results, list):
        raise InputError([Fault(path.stem, str(path), "no list of results", "write a list of COCO results")])
    faults = []
    for number, result in enumerate(results, 1):
        try:
            _check_result(result, shapes)
        except ValueError as error:
            faults.append(Fault(f"result {number}", str(path), str(error), "mend or drop the result"))
    if faults:
        raise InputError(faults)
    if shapes is None:
        return ["without --data neither images nor sizes were checked"]
    empty = len(set(shapes) - {result["image_id"] for result in results})
    return [f"{empty} of {len(shapes)} images have no result"] if empty else []


def _check_result(result: Any, shapes: Mapping[int | str, tuple[int, int]] | None) -> None:
    """Raise ValueError in words where a result is none of COCO's, or of an image that is not asked for."""
    wanted = ("image_id", "category_id", "bbox", "segmentation", "score")
    missing = [name for name in wanted if not isinstance(result, dict) or name not in result]
    if missing:
        raise ValueError(f"no {', '.join(missing)}")
    key, segmentation, box = result["image_id"], result["segmentation"], result["bbox"]
    if shapes is not None and (not isinstance(key, int | str) or key not in shapes):
        raise ValueError(f"image_id {key!r} is not asked for")
    if result["category_id"] != 1:
        raise ValueError(f"category_id {result['category_id']!r}, and nuclei are category 1")
    _finite_score(result["score"], f"image {key}")
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError("segmentation has no size of height and width")
    if shapes is not None and tuple(size) != shapes[key]:
        raise ValueError(f"segmentation is of {tuple(size)} and its image of {shapes[key]} pixels (H, W)")
    if not isinstance(segmentation.get("counts"), str):
        raise ValueError("segmentation has no counts that are a text")
    objects = Objects.from_runs([runs_from_counts(segmentation["counts"], (size[0], size[1]))], (size[0], size[1]))
    y, x, bottom, right = objects.boxes[0].tolist()
    if not objects.areas[0]:
        raise ValueError("its mask is empty")
    own = [x, y, right - x, bottom - y]
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)
    if not numbers or not all(abs(side - wanted) <= 1 for side, wanted in zip(box, own, strict=True)):
        raise ValueError(f"bbox {box!s:.80} is not that of its mask, {own} (x, y, width, height)")
