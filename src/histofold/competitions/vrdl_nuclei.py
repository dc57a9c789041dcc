"""VRDL's third homework (2021, CodaLab): nuclei of MoNuSeg's images, one by one.

Layout::

    train/{id}/images/{id}.png       24 images of 1000 x 1000
    train/{id}/masks/mask_0001.png   one nucleus each: what is not 0
    test/{id}.png                    6 images
    test_img_ids.json                a list of {id, file_name, height, width}: the images to predict and their order

The answer is answer.json, a list of results as COCO has them. What masks are read as:

- an empty one, and an exact copy of an earlier one of its image, is dropped, with a notice;
- one of several pieces stays one object, for the host counts a file as one nucleus, with a notice;
- pixels of several masks belong to each of them, with a notice.

Refused are masks that cannot be read or are of another size than their image, images without masks, folders without an
image or with several.

Nothing states a pixel size. MoNuSeg's images were scanned at 40x, about 0.25 um, which is assumed. Patients stand in
the names: TCGA, tissue source site, participant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from histofold.competitions.base import IMAGE_SUFFIXES, ObjectScore, Split
from histofold.competitions.objects import ObjectAdapter, PooledMetric, pooled_scores
from histofold.competitions.tables import header_shape_of
from histofold.competitions.truth.masks.objects import read_object_masks
from histofold.competitions.truth.names import is_hidden
from histofold.core.faults import Fault, InputError, InputNotice
from histofold.core.metrics.detections import coco_ap
from histofold.core.metrics.ranked import ApRule
from histofold.core.objects.coco import counts_text
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.schema.sample import Sample, is_safe_id

VRDL_TEST_IDS = "test_img_ids.json"
VRDL_CATEGORY = 1
VRDL_PIXEL_SIZE_UM = 0.25
VRDL_SERVER_LIMIT, VRDL_HIGH_LIMIT = 100, 1000
"""Detections of an image that count: on the server, and where all nuclei of an image shall."""
_PATIENT = re.compile(r"TCGA-\w{2}-\w{4}")
_IDS_REMEDY = "download it again: a list of {id, file_name, height, width}"


class VrdlNuclei(ObjectAdapter):
    """Adapter of VRDL's nuclei."""

    name = "vrdl_nuclei"
    slug = ""
    classes: tuple[str, ...] = ("nucleus",)
    columns: tuple[str, ...] = ("image_id", "category_id", "bbox", "segmentation", "score")
    metric = "AP50"
    hidden_image_side = 1000

    def __init__(self) -> None:
        super().__init__()
        self._image_ids: dict[str, int | str] = {}

    @property
    def ap_rule(self) -> ApRule:
        """COCO's average precision at IoU 0.5 with the server's limit."""
        return ApRule(host="coco", iou=0.5, max_detections=VRDL_SERVER_LIMIT)

    def _inspect(self, root: Path, split: Split) -> tuple[list[Sample], list[Fault]]:
        """Samples of the folders in train/, or of test_img_ids.json, and every fault that can be seen undecoded."""
        return self._train_samples(root / "train") if split == "train" else (self.test_samples(root), [])

    def _train_samples(self, folder: Path) -> tuple[list[Sample], list[Fault]]:
        if not folder.is_dir():
            return [], [Fault(folder.name, str(folder), "no such folder", "unpack the training images into train")]
        faults: list[Fault] = []
        cases = [each for each in sorted(folder.iterdir()) if each.is_dir() and not is_hidden(each.name)]
        found = [(case.name, *_case_files(case, faults)) for case in cases]
        if not cases:
            faults.append(Fault(folder.name, str(folder), "no folder of an image", "unpack them into train/{id}"))
        self._use_truth(partial(self._read_masks, {key: masks for key, _, masks in found}))
        return [nuclei_sample(key, image) for key, image, _ in found if image is not None], faults

    def _read_masks(self, masks: Mapping[str, Sequence[Path]], sample: Sample) -> tuple[Objects, Objects]:
        """The nuclei of an image, in the order of its files; raises InputError with every mask that cannot be used."""
        shape_hw = header_shape_of(sample.image_path)
        if sample.id not in masks or shape_hw is None:
            raise InputError(f"{sample.id}: no masks that can be used: check the dataset first")
        objects, notices = read_object_masks(sample.id, masks[sample.id], shape_hw)
        self.notices = [*self.notices, *notices]
        return objects, Objects.from_runs([], shape_hw)

    def test_samples(self, root: Path) -> list[Sample]:
        """The images of test_img_ids.json.

        Raises:
            InputError: If it is missing or cannot be used, with every fault.
        """
        entries = _read_test_ids(root / VRDL_TEST_IDS)
        self._image_ids = {Path(entry["file_name"]).stem: entry["id"] for entry in entries}
        return [
            nuclei_sample(Path(entry["file_name"]).stem, root / "test" / entry["file_name"], entry) for entry in entries
        ]

    def test_shapes(self, root: Path) -> dict[int | str, tuple[int, int]]:
        """Height and width of each image of test_img_ids.json by its id there; raises as `test_samples`."""
        return {entry["id"]: (entry["height"], entry["width"]) for entry in _read_test_ids(root / VRDL_TEST_IDS)}

    def score_objects(self, predictions: Mapping[str, Detections], samples: Sequence[Sample]) -> ObjectScore:
        """COCO's AP at IoU 0.5 with the server's limit of 100 detections an image.

        Beside it that of a limit of 1,000, and of both what a perfect answer would score.
        """
        metrics: dict[str, PooledMetric] = {
            "AP50": partial(coco_ap, max_detections=VRDL_SERVER_LIMIT),
            "AP50_1000": partial(coco_ap, max_detections=VRDL_HIGH_LIMIT),
            "ceiling": partial(_ceiling, VRDL_SERVER_LIMIT),
            "ceiling_1000": partial(_ceiling, VRDL_HIGH_LIMIT),
        }
        return pooled_scores(self, predictions, samples, metrics)

    def object_row(self, sample_id: str, detections: Detections) -> str:
        """The results of an image as JSON objects joined by commas, best first; `test_samples` must have been called.

        Raises:
            InputError: If test_img_ids.json has no such image.
        """
        if sample_id not in self._image_ids:
            raise InputError([Fault(sample_id, VRDL_TEST_IDS, "it has no such image", "predict the images it lists")])
        ranked = detections.best(len(detections))
        boxes_N4, size = ranked.objects.boxes.tolist(), list(ranked.objects.shape_hw)
        results = [
            {
                "image_id": self._image_ids[sample_id],
                "category_id": VRDL_CATEGORY,
                "bbox": [x, y, right - x, bottom - y],
                "segmentation": {"size": size, "counts": counts_text(runs)},
                "score": round(float(score), 6),
            }
            for runs, score, (y, x, bottom, right) in zip(ranked.objects, ranked.scores, boxes_N4, strict=True)
            if runs.area
        ]
        return ", ".join(map(json.dumps, results))

    def submission_pieces(self, rows: Iterable[tuple[str, str]], classes: Sequence[str] = ()) -> Iterator[str]:
        """The list of all results, those of an image on a line; one without any has no entry."""
        before = "[\n"
        for line in (row for _, row in rows if row):
            yield before + line
            before = ",\n"
        yield "[]\n" if before == "[\n" else "\n]\n"

    def count_rows(self, text: str, classes: Sequence[str] = ()) -> tuple[int, int] | None:
        """Images that are known or have a result, and how many have one; None for a text that is no list of results."""
        try:
            made = {result["image_id"] for result in json.loads(text or "[]")}
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return len(made | set(self._image_ids.values())), len(made)


def nuclei_sample(key: str, image_path: Path, entry: Mapping[str, Any] | None = None) -> Sample:
    """An image with what its name, and perhaps its entry in test_img_ids.json, say of it."""
    patient = _PATIENT.match(key)
    shape_hw = (entry["height"], entry["width"]) if entry else None
    group = patient[0] if patient else key
    return Sample(id=key, image_path=image_path, group=group, pixel_size_um=VRDL_PIXEL_SIZE_UM, shape_hw=shape_hw)


def _case_files(case: Path, faults: list[Fault]) -> tuple[Path | None, list[Path]]:
    """The image and the masks of a folder; adds what is wrong with either."""
    images, masks = (_visible_files(case / name) for name in ("images", "masks"))
    images = [path for path in images if path.suffix.lower() in IMAGE_SUFFIXES]
    others = [path for path in masks if path.suffix.lower() != ".png"]
    masks = [path for path in masks if path.suffix.lower() == ".png"]
    if len(images) != 1:
        rule = f"{len(images) or 'no'} images, where one belongs"
        faults.append(Fault(case.name, str(case / "images"), rule, "keep the one that the masks are of"))
    if not masks:
        rule = "no masks as PNG"
        faults.append(Fault(case.name, str(case / "masks"), rule, "unpack its masks, or drop the folder"))
    if others:
        rule = f"{len(others)} files are no PNG and are not read, the first is {others[0].name}"
        faults.append(InputNotice(case.name, str(case / "masks"), rule, "write masks as PNG"))
    return (images[0] if len(images) == 1 else None), masks


def _visible_files(folder: Path) -> list[Path]:
    """The files of a folder by their names, hidden ones aside; none where there is no such folder."""
    return [each for each in sorted(folder.glob("*")) if each.is_file() and not is_hidden(each.name)]


def _read_test_ids(path: Path) -> list[dict[str, Any]]:
    """The entries of test_img_ids.json.

    Raises:
        InputError: With every fault.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError([Fault(path.stem, str(path), f"not JSON ({error})", _IDS_REMEDY)]) from error
    if not isinstance(data, list) or not data:
        raise InputError([Fault(path.stem, str(path), "no list of images", _IDS_REMEDY)])
    faults, ids, names = [], set(), set()
    for number, entry in enumerate(data, 1):
        rule = _entry_rule(entry)
        if not rule and (entry["id"] in ids or Path(entry["file_name"]).stem in names):
            rule = "its id or its file_name stands there twice"
        if rule:
            faults.append(Fault(f"image {number}", str(path), rule, _IDS_REMEDY))
            continue
        ids.add(entry["id"])
        names.add(Path(entry["file_name"]).stem)
    if faults:
        raise InputError(faults)
    return data


def _entry_rule(entry: Any) -> str:
    """What is wrong with an entry of test_img_ids.json; empty where nothing is."""
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str) or isinstance(entry.get("id"), bool):
        return "no object with an id"
    name = entry.get("file_name")
    if not isinstance(name, str) or not is_safe_id(name) or "/" in name:
        return f"file_name {name!r} is no name of a file"
    if not all(isinstance(entry.get(side), int) and entry[side] > 0 for side in ("height", "width")):
        return f"height {entry.get('height')!r} and width {entry.get('width')!r} are not positive numbers"
    return ""


def _ceiling(
    limit: int, found: Sequence[tuple[Objects, np.ndarray]], truths: Sequence[Objects], **ignored: Sequence[Objects]
) -> float:
    """What the perfect answer scores: every object once, at one score."""
    return coco_ap([(true, np.ones(len(true))) for true in truths], truths, max_detections=limit)
