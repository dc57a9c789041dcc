"""An rles.csv as truth: a row for each image, or for each image and class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histofold.competitions.labels import read_class_rows
from histofold.competitions.tables import TABLE_ANY_SHAPE, header_shape_of
from histofold.competitions.truth.found import ONE_CLASS, FoundTruth
from histofold.core.faults import Fault
from histofold.core.rle.runs import Runs, join_classes, parse_rle
from histofold.schema.sample import Sample


def read_rles(path: Path, samples: Sequence[Sample]) -> FoundTruth:
    """The truth of samples by an rles.csv: id, rle (1-based, column-major), or id, class, rle."""
    rows, classes, faults = read_class_rows(path, [sample.id for sample in samples])
    if not rows:
        return FoundTruth(faults=faults or [Fault(path.stem, str(path), "no rows", "write a row for each image")])
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
                faults.append(Fault(sample.id, str(path), rule, "mend the row or the image"))
                continue
            if shape_hw is not None and "rle" in row:
                found.append(runs)
        if len(found) == len(truth.classes):
            truth.targets[sample.id] = join_classes(found)
    return truth
