"""HuBMAP - Hacking the Kidney (2020): glomeruli on whole slides.

Layout::

    train.csv                                id, encoding (1-based, column-major runs)
    sample_submission.csv                    id, predicted: the ids to predict and their order
    HuBMAP-20-dataset_information.csv        image_file, width_pixels, height_pixels, patient_number and more
    train/{id}.tiff, test/{id}.tiff          slides of up to 5 GB
    {id}.json, {id}-anatomical-structure.json  beside the slides: outlines of the glomeruli, of cortex and medulla

No table of the host gives a pixel size. A column `pixel_size` (um) that is added to the dataset information comes
first, then what the TIFF itself states, then the competition's nominal 0.5 um, an assumption: some of its slides were
scanned at 0.65 um.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from histofold.competitions.base import Adapter, Split, find_image
from histofold.competitions.ids import plain_groups
from histofold.competitions.labels import read_truth, scan_training_table
from histofold.competitions.outlines import OutlineRing, read_outlines
from histofold.competitions.tables import (
    TableScan,
    header_shape_of,
    log_faults,
    parse_pixel_size,
    read_shape,
    scan_host_table,
    scan_table,
    submission_ids,
)
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.imaging.tiff.pages import tiff_pixel_size_um
from histofold.schema.sample import Sample

KIDNEY_2020_INFORMATION = "HuBMAP-20-dataset_information.csv"
KIDNEY_2020_COLUMNS = ("id", "encoding")
KIDNEY_2020_PIXEL_SIZE_UM = 0.5
_KIDNEY_2020_FACTS = ("image_file", "width_pixels", "height_pixels", "patient_number")
_KIDNEY_2020_OBJECTS, _KIDNEY_2020_REGIONS = ".json", "-anatomical-structure.json"


@dataclass(frozen=True)
class KidneyInformation:
    """What the dataset information says of a slide; empty and None where it says nothing."""

    patient: str = ""
    shape_hw: tuple[int, int] | None = None
    pixel_size_um: float | None = None


class Kidney2020(Adapter):
    """Adapter of hubmap-kidney-segmentation.

    Args:
        assumed_pixel_size_um: Pixel size in um of slides that nothing states one for; None leaves them without, so
            that they are predicted at the whole-image scale.
    """

    name = "kidney_2020"
    slug = "hubmap-kidney-segmentation"
    classes: tuple[str, ...] = ("glomerulus",)
    columns: tuple[str, ...] = ("id", "predicted")
    visible_test_images = 5
    hidden_test_images = 10  # not stated by the host: an assumption
    hidden_image_side = 46_600  # the largest known slide has about 41 x 53 thousand pixels

    def __init__(self, assumed_pixel_size_um: float | None = KIDNEY_2020_PIXEL_SIZE_UM) -> None:
        super().__init__()
        self._assumed_pixel_size_um = assumed_pixel_size_um

    def _inspect(self, root: Path, split: Split) -> tuple[list[Sample], list[Fault]]:
        """Samples of train.csv, or of sample_submission.csv, and every fault of the tables and outlines.

        The dataset information may be absent: then sizes come from the files and each slide is a group of its own.
        Where it is there it must be complete for the training slides. For the test split only a missing or unusable
        sample_submission.csv is a fault; all others are logged.
        """
        return self._train_samples(root) if split == "train" else (self.test_samples(root, scan_table), [])

    def _train_samples(self, root: Path) -> tuple[list[Sample], list[Fault]]:
        path, folder, facts_path = root / "train.csv", root / "train", root / KIDNEY_2020_INFORMATION
        self._targets = {}
        rows, faults = scan_training_table(path, KIDNEY_2020_COLUMNS, folder, "encoding")
        information, information_faults = _read_information(facts_path, scan_table)
        faults += information_faults
        if information is not None:
            cells = {key: row["patient_number"] for key, row in information.items() if "patient_number" in row}
            patients, notices = plain_groups(facts_path, "patient_number", cells)
            faults += notices
            information = {
                key: {**row, "patient_number": patients[key]} if key in patients else row
                for key, row in information.items()
            }
        if not facts_path.is_file():
            logger.warning("%s is missing: no patients are known, each slide is a group of its own", facts_path)
        samples = []
        for row in rows:
            facts, row_faults = _kidney_information(row["id"], information, facts_path)
            sample = self._sample(row["id"], folder, facts)
            if "encoding" in row:
                shape_hw = sample.shape_hw or header_shape_of(sample.image_path)
                runs, truth_faults = read_truth(row, "encoding", shape_hw, path)
                row_faults += truth_faults
                if runs is not None:
                    self._targets[sample.id] = runs
            faults += row_faults + _outline_faults(sample)
            samples.append(sample)
        return self._with_assumed_scale(samples), faults

    def test_samples(self, root: Path, scan: TableScan = scan_host_table) -> list[Sample]:
        """What sample_submission.csv asks for, with what the dataset information and the files say of it.

        Args:
            root: The competition folder.
            scan: How the dataset information is read.

        Raises:
            InputError: If sample_submission.csv is missing or cannot be used.
        """
        facts_path = root / KIDNEY_2020_INFORMATION
        ids = submission_ids(root / "sample_submission.csv", self.columns)
        information, faults = _read_information(facts_path, scan)
        log_faults(faults)
        samples = [
            self._sample(key, root / "test", _kidney_information(key, information, facts_path)[0]) for key in ids
        ]
        return self._with_assumed_scale(samples)

    def _sample(self, key: str, folder: Path, facts: KidneyInformation) -> Sample:
        """A slide with what is known of it, its pixel size None where neither table nor file states one."""
        image_path = find_image(folder, key)
        return Sample(
            id=key,
            image_path=image_path,
            organ="kidney",
            group=facts.patient or key,
            pixel_size_um=facts.pixel_size_um or tiff_pixel_size_um(image_path),
            shape_hw=facts.shape_hw,
        )

    def _with_assumed_scale(self, samples: list[Sample]) -> list[Sample]:
        """The samples, those without a pixel size at the assumed one, which is logged once."""
        unknown = sum(sample.pixel_size_um is None for sample in samples)
        if unknown and self._assumed_pixel_size_um is not None:
            words = "%d of %d slides state no pixel size: %g um is assumed"
            logger.info(words, unknown, len(samples), self._assumed_pixel_size_um)
        return [
            replace(sample, pixel_size_um=sample.pixel_size_um or self._assumed_pixel_size_um) for sample in samples
        ]

    def regions(self, sample: Sample) -> dict[str, list[OutlineRing]]:
        """The anatomical regions of a slide (Cortex, Medulla, ...) by name; none where it has no such file.

        Returns:
            For each name closed rings of [x, y] in slide pixels, to be filled by the even-odd rule.

        Raises:
            InputError: If the file is no JSON or holds no list of features.
        """
        return _read_beside(sample, _KIDNEY_2020_REGIONS)

    def object_outlines(self, sample: Sample) -> dict[str, list[OutlineRing]]:
        """The outlines of the glomeruli, as `regions`: what the host drew its run lengths from."""
        return _read_beside(sample, _KIDNEY_2020_OBJECTS)


def _read_beside(sample: Sample, suffix: str) -> dict[str, list[OutlineRing]]:
    """The outlines in the file of this suffix beside a slide; none where there is no such file."""
    path = sample.image_path.parent / f"{sample.image_path.stem}{suffix}"
    found = os.path.isfile(path)  # unlike Path.is_file it does not raise on a name that is too long
    return read_outlines(path, sample.id) if found else {}


def _outline_faults(sample: Sample) -> list[Fault]:
    """Faults of the two outline files of a slide, where they are there."""
    faults = []
    for suffix in (_KIDNEY_2020_OBJECTS, _KIDNEY_2020_REGIONS):
        try:
            _read_beside(sample, suffix)
        except InputError as error:
            faults += error.faults
    return faults


def _read_information(path: Path, scan: TableScan) -> tuple[dict[str, dict[str, str]] | None, list[Fault]]:
    """Rows of the dataset information by the id in their file name, and its faults; None where it says nothing."""
    if not path.is_file():
        return None, []
    try:
        table, faults = scan(path, _KIDNEY_2020_FACTS)
    except InputError as error:
        return None, error.faults
    if "image_file" not in table.columns:
        return None, faults
    rows: dict[str, dict[str, str]] = {}
    for row in table.to_dict("records"):
        key = Path(row["image_file"]).stem
        if key in rows:
            faults.append(Fault(key, str(path), "two rows of this image_file", "keep one"))
        rows.setdefault(key, row)
    return rows, faults


def _kidney_information(
    key: str, information: Mapping[str, Mapping[str, str]] | None, path: Path
) -> tuple[KidneyInformation, list[Fault]]:
    """What the dataset information says of a slide, and what is wrong with that; an absent column is not."""
    if information is None:
        return KidneyInformation(), []
    row = information.get(key)
    if row is None:
        return KidneyInformation(), [Fault(key, str(path), "no row of this slide", "add its row, with its patient")]
    faults = []
    patient, pixel_size = row.get("patient_number", "").strip(), row.get("pixel_size", "").strip()
    if "patient_number" in row and not patient:
        faults.append(Fault(key, str(path), "no patient_number", "write one, so that folds keep patients whole"))
    shape_hw, rule = read_shape(row, ("height_pixels", "width_pixels"))
    if rule:
        faults.append(Fault(key, str(path), rule, "write the slide's size in pixels"))
    pixel_size_um = parse_pixel_size(pixel_size)
    if pixel_size and pixel_size_um is None:
        rule = f"pixel_size {pixel_size!r} is not a positive number of um"
        faults.append(Fault(key, str(path), rule, "write the slide's pixel size, or leave the cell empty"))
    return KidneyInformation(patient, shape_hw, pixel_size_um), faults
