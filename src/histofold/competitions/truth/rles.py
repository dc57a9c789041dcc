"""An rles.csv as truth: a row for each image, or for each image and class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from histofold.competitions.labels import read_class_rows
from histofold.competitions.tables import TABLE_ANY_SHAPE, header_shape_of
from histofold.competitions.truth.found import ONE_CLASS, FoundTruth
from histofold.competitions.truth.names import class_name_faults
from histofold.core.faults import Fault, InputNotice
from histofold.core.rle.runs import Runs, class_runs, join_classes, parse_rle
from histofold.schema.sample import Sample

_LEAST_EARLY = 10


def read_rles(path: Path, samples: Sequence[Sample]) -> FoundTruth:
    """The truth of samples by an rles.csv: id, rle (1-based, column-major), or id, class, rle."""
    rows, classes, faults = read_class_rows(path, [sample.id for sample in samples])
    if not rows:
        return FoundTruth(faults=faults or [Fault(path.stem, str(path), "no rows", "write a row for each image")])
    if spelled := class_name_faults(path, classes):
        return FoundTruth(classes=classes, faults=[*faults, *spelled])
    truth = FoundTruth(classes=classes or ONE_CLASS, faults=faults)
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
                faults.append(Fault(sample.id, str(path), rule, _rle_remedy(row.get("rle", ""))))
                continue
            if shape_hw is not None and "rle" in row:
                found.append(runs)
        if len(found) == len(truth.classes):
            truth.targets[sample.id] = join_classes(found)
    faults += _early_notices(path, truth)
    return truth


def _rle_remedy(text: str) -> str:
    """What mends run lengths that were written in another way."""
    if text.strip() == "-1":
        return "leave the cell empty where there is no object"
    if re.search(r"[^\d\s.,;:+\-\[\]()]", text):
        return "write start and length of each run; COCO's compressed counts belong into annotations.json"
    if re.search(r"[,;:\[\]()]", text):
        return "part the numbers by blanks alone"
    if re.match(r"\s*0\b(?!\.)", text):
        return "add 1 to every start, in all rows"
    return "write start and length of each run, in whole numbers, sorted, 1-based and column by column"


def _early_notices(path: Path, truth: FoundTruth) -> list[Fault]:
    """A notice where runs that should begin at the top of a column begin one pixel early, as positions from 0 do."""
    parts = [runs for masks in truth.targets.values() for runs in class_runs(masks)]
    rows = [(runs.starts % runs.shape_hw[0], runs.lengths, runs.shape_hw[0]) for runs in parts if runs.shape_hw[0] > 1]
    early = sum(int(((row == height - 1) & (lengths > 1)).sum()) for row, lengths, height in rows)
    usual = sum(int((row == 0).sum()) for row, _, _ in rows)
    if early < _LEAST_EARLY or early < _LEAST_EARLY * usual:
        return []
    rule = f"{early} runs begin with the last pixel of a column and go on in the next, and {usual} with the first"
    return [InputNotice(path.stem, str(path), rule, "where positions were counted from 0, add 1 to every start")]
