"""The objects of an image whose masks are a file each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from histofold.competitions.base import image_error_fault
from histofold.competitions.objects import covered_pixels
from histofold.competitions.truth.masks.files import decode_mask
from histofold.core.faults import ImageError, InputError, InputNotice
from histofold.core.objects.instances import Objects
from histofold.core.regions import label_runs, split_runs
from histofold.core.rle.runs import Runs, runs_from_mask


def read_object_masks(key: str, paths: Sequence[Path], shape_hw: tuple[int, int]) -> tuple[Objects, list[InputNotice]]:
    """The objects of an image whose masks are a file each, and notices of what was repaired.

    Args:
        key: The image.
        paths: Its masks, PNG: what is not 0 is the object.
        shape_hw: Height and width of the image.

    Raises:
        InputError: With every mask that cannot be read or is of another size.
    """
    kept: dict[bytes, Runs] = {}
    odd: dict[str, list[str]] = {"empty": [], "copy": [], "pieces": []}
    faults = []
    for path in paths:
        try:
            values_HWS, _ = decode_mask(path, shape_hw).planes()
        except ImageError as error:
            faults.append(image_error_fault(key, path, error))
            continue
        runs = split_runs(runs_from_mask(values_HWS.max(axis=2)))
        mark = runs.starts.tobytes() + runs.lengths.tobytes()
        kind = "empty" if not runs.area else "copy" if mark in kept else "pieces" if label_runs(runs).max() else ""
        if kind:
            odd[kind].append(path.name)
        if kind not in ("empty", "copy"):
            kept[mark] = runs
    if faults:
        raise InputError(faults)
    objects = Objects.from_runs(list(kept.values()), shape_hw)
    return objects, _mask_notices(key, paths, odd, objects)


def _mask_notices(
    key: str, paths: Sequence[Path], odd: Mapping[str, Sequence[str]], objects: Objects
) -> list[InputNotice]:
    """What was repaired of the masks of an image, and how many pixels several of them have."""
    words = {
        "empty": ("masks without a pixel are dropped", "draw them anew if they are objects"),
        "copy": ("masks are exact copies of others and are dropped", "look at them: was another object meant?"),
        "pieces": ("masks have several pieces, and each stays one object", "give each object a mask of its own"),
    }
    folder = str(paths[0].parent) if paths else key
    notices = [
        InputNotice(key, folder, f"{len(names)} {words[kind][0]}, the first is {names[0]}", words[kind][1])
        for kind, names in odd.items()
        if names
    ]
    shared = int(objects.areas.sum()) - covered_pixels(objects).area
    if shared:
        rule = f"{shared} pixels belong to several masks, and stay with each"
        notices.append(InputNotice(key, folder, rule, "look at the masks if objects must not overlap"))
    return notices
