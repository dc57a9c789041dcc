"""Files of outlines as the truth of a folder: which file is whose, the classes, and the masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histofold.competitions.tables import header_shape_of
from histofold.competitions.truth.found import ONE_CLASS, FoundTruth
from histofold.competitions.truth.masks.folder import one_file_each
from histofold.competitions.truth.names import ImageNames, class_name_faults
from histofold.competitions.truth.outlines.files import IGNORED_CLASS, Outline, draw_outlines, read_outline_file
from histofold.core.faults import Fault, InputError
from histofold.core.rle.runs import join_classes
from histofold.core.rle.sets import subtract_runs, union_runs
from histofold.schema.sample import Sample


def find_outlines(folder: Path, paths: Sequence[Path], samples: Sequence[Sample], names: ImageNames) -> FoundTruth:
    """The truth of samples by a file of outlines each, a class for each name where there are several."""
    own, faults = one_file_each(folder, paths, samples, names)
    outlines: dict[str, list[Outline]] = {}
    for sample in samples:
        if sample.id not in own:
            continue
        path, shape_hw = own[sample.id], header_shape_of(sample.image_path)
        try:
            read, said_hw = read_outline_file(path)
        except InputError as error:
            faults += error.faults
            continue
        if said_hw is not None and shape_hw is not None and said_hw != shape_hw:
            rule = f"image is {shape_hw} (H, W) pixels and the file says {said_hw}"
            faults.append(Fault(sample.id, str(path), rule, "draw the outlines on this image, or replace it"))
        else:
            outlines[sample.id] = read
    labels = list(dict.fromkeys(each.label for read in outlines.values() for each in read))
    classes = tuple(label for label in labels if label not in ("", IGNORED_CLASS))
    if len(classes) > 1 and "" in labels:
        for key, read in outlines.items():
            if any(not each.label for each in read):
                rule = f"an outline without a class, where others are of {', '.join(classes)}"
                faults.append(Fault(key, str(own[key]), rule, "give it its class, or delete it"))
    faults += class_name_faults(folder, classes)
    truth = FoundTruth(classes=classes if len(classes) > 1 else ONE_CLASS, faults=faults)
    for sample in samples:
        shape_hw = header_shape_of(sample.image_path)
        if sample.id in outlines and shape_hw is not None:
            _add_drawn(truth, sample.id, own[sample.id], outlines[sample.id], shape_hw)
    return truth


def _add_drawn(truth: FoundTruth, key: str, path: Path, outlines: Sequence[Outline], shape_hw: tuple[int, int]) -> None:
    """Add the masks of an image's outlines to the truth, or the fault of them."""
    counted = [each for each in outlines if each.label != IGNORED_CLASS]
    of_classes = [[each for each in counted if len(truth.classes) == 1 or each.label == name] for name in truth.classes]
    try:
        drawn = [draw_outlines(each, shape_hw) for each in of_classes]
        ignored = draw_outlines([each for each in outlines if each.label == IGNORED_CLASS], shape_hw)
    except ValueError as error:
        truth.faults.append(Fault(key, str(path), str(error), "draw the outlines on this image, at its full size"))
        return
    truth.targets[key] = join_classes(drawn)
    if ignored.area:
        truth.ignored[key] = subtract_runs(ignored, union_runs(drawn))
