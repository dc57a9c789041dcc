"""Anyone's own data: images/ with one kind of truth beside it; docs/own_slides.md shows the layouts.

Beside images and truth (`histofold.competitions.truth`) there may be::

    images.csv               id, then any of organ, source, group or patient, pixel_size (um); a row for each image
    folder.toml              what the values of masks mean, where that cannot be seen from them
    test_images/             what `histofold predict` predicts; else images/
    sample_submission.csv    the ids to predict and their order

A submission has the columns id, rle; of several classes id, class, rle, with a row for each id and class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from histofold.competitions.base import ObjectScore, Split, Task, find_image
from histofold.competitions.ids import MOST_NAMED, broken_links, formula_notices, meet_ids
from histofold.competitions.image_table import other_tables, read_image_table
from histofold.competitions.objects import ObjectAdapter, covered_pixels, pooled_scores
from histofold.competitions.tables import CLASS_KEYS, first_rows, log_faults, parse_pixel_size, spelled_table
from histofold.competitions.truth.find import find_truth, folder_settings, misnamed_files
from histofold.competitions.truth.found import ONE_CLASS, FoundTruth
from histofold.competitions.truth.instances import find_objects
from histofold.competitions.truth.layout import find_images, image_faults
from histofold.core.faults import Fault, InputNotice, listed_ids, parted
from histofold.core.metrics.detections import coco_ap
from histofold.core.metrics.ranked import ApRule
from histofold.core.objects.detections import Detections
from histofold.core.rle.runs import Masks, Runs
from histofold.imaging.formats.door import use_formats
from histofold.imaging.formats.stated import is_turned, stated_pixel_size_um
from histofold.schema.sample import Sample, is_safe_id, is_utf8

FOLDER_OBJECTS = 1000
"""Detections of an image that count."""
STATED_TOLERANCE = 0.05
"""Pixel sizes of table and file that differ by more, as a share, are a notice."""


class Folder(ObjectAdapter):
    """Adapter of a plain folder of images: of masks, or of single objects where folder.toml asks for `instances`."""

    name = "folder"
    slug = ""
    classes: tuple[str, ...] = ONE_CLASS
    columns: tuple[str, ...] = ("id", "rle")
    class_column = "class"
    task: Task = "masks"
    metric = "AP50"
    ap_rule = ApRule(host="coco", iou=0.5, max_detections=FOLDER_OBJECTS)
    root_remedy = "give the folder that holds images/"

    def __init__(self) -> None:
        super().__init__()
        use_formats()
        self._truth = FoundTruth()

    def _inspect(self, root: Path, split: Split) -> tuple[list[Sample], list[Fault]]:
        """Samples in the order of their names, or of sample_submission.csv for the test split, and every fault.

        Faults are: no images, two images of a name, images without truth, malformed tables. For the test split those
        of images.csv and of single rows of sample_submission.csv are only logged. Hidden files are left aside.
        """
        images = find_images(root, split)
        listed, folder, faults = images.by_id, images.folder, image_faults(images)
        faults += broken_links(folder)
        faults += _name_faults(folder, listed)
        names, meant = list(listed), {name: name for name in listed}
        if split == "test" and (root / "sample_submission.csv").is_file():
            names, meant, found = _asked_ids(root / "sample_submission.csv", listed)
            faults += found
        elif not names:
            others = sorted({f"*{path.suffix}" for path in folder.rglob("*") if path.suffix and path.is_file()})
            rule = f"no images that are read; there are {', '.join(others)}" if others else "no images"
            remedy = "put images there, as TIFF, PNG, JPEG, BMP or in a scanner's format"
            faults.append(Fault("images", str(folder), rule, remedy))
        rows, found = _image_rows(root, split, listed)
        faults += [*(misnamed_files(root) if split == "train" else ()), *found]
        samples = [
            _folder_sample(
                name,
                listed[meant[name]][0] if name in meant else find_image(folder, name),
                rows.get(meant.get(name, name), {}),
            )
            for name in names
        ]
        samples, found = _with_stated_sizes(samples)
        faults += found
        faults += _turned_notices(samples)
        if split == "train":
            self._truth = find_truth(root, images, samples)
            self.classes = self._truth.classes
            faults += self._truth.faults
            self.task = folder_settings(root).task
            if self.task == "instances" and not parted(self._truth.faults)[0]:
                self._use_truth(find_objects(root, images, samples))
        return samples, [*faults, *formula_notices(samples, self.classes)]

    def target(self, sample: Sample) -> Masks:
        """The truth of a training sample, of each class where there are several; `inspect` must have been called.

        Raises:
            InputError: If the mask cannot be read or differs in size from the image; without further faults where no
                truth was found at all.
        """
        if self.task == "instances":
            return super().target(sample)
        before = len(self._truth.notices)
        target = self._truth.target(sample)
        self.notices = [*self.notices, *self._truth.notices[before:]]
        return target

    def ignored(self, sample: Sample) -> Runs | None:
        """Pixels of a training sample that neither training nor a score counts; None where there are none."""
        if self.task == "instances":
            return super().ignored(sample)
        return self._truth.ignored_pixels(sample)

    def score_objects(self, predictions: Mapping[str, Detections], samples: Sequence[Sample]) -> ObjectScore:
        """COCO's AP at IoU 0.5, of the best 1,000 detections of an image, and at 0.75."""
        at = {"AP50": 0.5, "AP75": 0.75}
        metrics = {name: partial(coco_ap, iou=iou, max_detections=FOLDER_OBJECTS) for name, iou in at.items()}
        return pooled_scores(self, predictions, samples, metrics)

    def object_row(self, sample_id: str, detections: Detections) -> str:
        """The pixels of any detection as run lengths: a row of this form holds one mask."""
        return self.row(covered_pixels(detections.objects))


def _name_faults(folder: Path, names: Iterable[str]) -> list[Fault]:
    """Faults of names that no table can hold."""
    rules = {
        name: "a name with a backslash or a control character"
        if not is_safe_id(name)
        else "a name that is not in UTF-8"
        for name in names
        if not is_safe_id(name) or not is_utf8(name)
    }
    return [Fault(name, str(folder), rule, "rename the image") for name, rule in rules.items()]


def _asked_ids(path: Path, images: Iterable[str]) -> tuple[list[str], dict[str, str], list[Fault]]:
    """The ids of a sample_submission.csv as they stand, the image of each that has one, and a fault if it has none.

    Faults of single rows are only logged.
    """
    table, found = spelled_table(path, ("id",))
    if "id" not in table.columns:
        return [], {}, parted(found)[0]
    table, repeats = first_rows(path, table, CLASS_KEYS)
    names = list(dict.fromkeys(table["id"]))
    meant, notices = meet_ids(path, names, images)
    log_faults([*found, *repeats, *notices])
    return names, meant, [] if names else [Fault("id", str(path), "no ids", "write a row for each image to predict")]


def _image_rows(root: Path, split: Split, images: Iterable[str]) -> tuple[dict[str, dict[str, str]], list[Fault]]:
    """The rows of images.csv by image, where there is one, and its faults; those of the test split are only logged.

    Without one, tables that may have been meant as it are among the faults.
    """
    path = root / "images.csv"
    if not path.is_file():
        return {}, other_tables(root) if split == "train" else []
    known = {*find_images(root, "train").by_id, *find_images(root, "test").by_id}
    rows, found = read_image_table(path, list(images) if split == "train" else [], sorted(known))
    if split == "train":
        return rows, found
    log_faults(found)
    return rows, []


def _folder_sample(name: str, path: Path, row: Mapping[str, str]) -> Sample:
    return Sample(
        id=name,
        image_path=path,
        organ=row.get("organ", ""),
        source=row.get("source", row.get("data_source", "")),
        group=row.get("group", "") or row.get("patient", "") or name,
        pixel_size_um=parse_pixel_size(row.get("pixel_size", "")),
    )


def _turned_notices(samples: Sequence[Sample]) -> list[Fault]:
    """A notice where viewers show images turned: masks and outlines drawn there lie turned upon the stored pixels."""
    turned = [sample.id for sample in samples if is_turned(sample.image_path)]
    if not turned:
        return []
    rule = f"viewers turn these images by an orientation that they state: {listed_ids(turned, MOST_NAMED)}"
    remedy = "they are read as stored: save them upright where masks or outlines were drawn on the turned image"
    return [InputNotice("orientation", "images", rule, remedy)]


def _with_stated_sizes(samples: Sequence[Sample]) -> tuple[list[Sample], list[Fault]]:
    """Samples whose pixel size, where images.csv gives none, is what the file states; and notices of both."""
    stated = {sample.id: stated_pixel_size_um(sample.image_path) for sample in samples}
    taken: Counter[str] = Counter()
    differing = []
    for sample in samples:
        own, other = sample.pixel_size_um, stated[sample.id]
        if own is None and other is not None:
            taken[f"{other:.4g} um"] += 1
        elif own is not None and other is not None and abs(own - other) > STATED_TOLERANCE * other:
            differing.append((sample, other))
    notices: list[Fault] = [
        InputNotice(
            sample.id,
            str(sample.image_path),
            f"pixel_size is {sample.pixel_size_um:.4g} um in images.csv and {other:.4g} um in the file",
            "the table counts: correct it where the file is right",
        )
        for sample, other in differing
    ]
    if taken:
        sizes = ", ".join(f"{size} ({count} images)" for size, count in taken.most_common(MOST_NAMED))
        rule = f"images without a pixel size in images.csv have that of their file: {sizes}"
        notices.append(InputNotice("pixel_size", "images", rule, "write pixel_size into images.csv to say otherwise"))
    filled = [replace(sample, pixel_size_um=sample.pixel_size_um or stated[sample.id]) for sample in samples]
    return filled, notices
