"""HuBMAP + HPA - Hacking the Human Body (2022): functional tissue units of five organs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from histofold.competitions.base import CLUSTER_PREFIX, Adapter, Split, find_image
from histofold.competitions.ids import plain_groups
from histofold.competitions.labels import read_truth, scan_training_table
from histofold.competitions.tables import (
    TableScan,
    parse_pixel_size,
    read_shape,
    rows_by_id,
    scan_host_table,
    scan_table,
    submission_ids,
)
from histofold.core.faults import Fault
from histofold.schema.sample import Sample

HUBMAP_2022_ORGANS = ("kidney", "largeintestine", "lung", "prostate", "spleen")
HUBMAP_2022_COLUMNS = ("id", "organ", "data_source", "img_height", "img_width", "pixel_size", "rle")
HUBMAP_2022_SIDES = ("img_height", "img_width")
# Clusters of near-identical training images: found by participants by comparing the images. A cluster shares a fold.
HUBMAP_2022_NEAR_DUPLICATES = (
    ("6730", "32741"),
    ("30294", "1229"),
    ("26982", "30414"),
    ("10666", "16659"),
    ("24097", "9470"),
    ("351", "26780"),
    ("10488", "20563", "14388"),
    ("1878", "11629"),
)


class Hubmap2022(Adapter):
    """Adapter of hubmap-organ-segmentation."""

    name = "hubmap_2022"
    slug = "hubmap-organ-segmentation"
    classes: tuple[str, ...] = ("ftu",)
    columns: tuple[str, ...] = ("id", "rle")
    fallback_row = "1 1"
    never_empty = True
    visible_test_images = 1
    hidden_test_images = 550  # the host says "about"
    hidden_image_side = 4500

    def _inspect(self, root: Path, split: Split) -> tuple[list[Sample], list[Fault]]:
        """Samples of train.csv, or of sample_submission.csv joined with test.csv, and every fault of the tables.

        For the test split only a missing or unusable sample_submission.csv is a fault: its repeated ids are predicted
        once, and test.csv may be at fault, lack rows or columns, or be absent; all this is logged.
        """
        return self._train_samples(root) if split == "train" else (self.test_samples(root, scan_table), [])

    def _train_samples(self, root: Path) -> tuple[list[Sample], list[Fault]]:
        path, folder = root / "train.csv", root / "train_images"
        self._targets = {}
        rows, faults = scan_training_table(path, HUBMAP_2022_COLUMNS, folder, "rle", ("patient",))
        patients, notices = plain_groups(
            path, "patient", {row["id"]: row["patient"] for row in rows if "patient" in row}
        )
        faults += notices
        rows = [{**row, "patient": patients.get(row["id"], "")} for row in rows]
        samples = [
            self._train_sample(folder, row, group, path, faults)
            for row, group in zip(rows, self.fold_groups(rows), strict=True)
        ]
        return samples, faults

    def _train_sample(self, folder: Path, row: dict[str, str], group: str, path: Path, faults: list[Fault]) -> Sample:
        """The sample of a row; what is wrong with the row is added to the faults. An absent column is not."""
        sample = self._sample(folder, row["id"], row, group)
        _, rule = read_shape(row, HUBMAP_2022_SIDES)
        if rule:
            faults.append(Fault(row["id"], str(path), rule, "write the image's size in pixels"))
        if "pixel_size" in row and sample.pixel_size_um is None:
            rule = f"pixel_size {row['pixel_size']!r} is not a positive number of um"
            faults.append(Fault(row["id"], str(path), rule, "write the slide's pixel size"))
        if row.get("organ", HUBMAP_2022_ORGANS[0]) not in HUBMAP_2022_ORGANS:
            remedy = f"write one of {', '.join(HUBMAP_2022_ORGANS)}"
            faults.append(Fault(row["id"], str(path), f"organ {row['organ']!r} is not known", remedy))
        if "rle" in row:
            runs, truth_faults = read_truth(row, "rle", sample.shape_hw, path)
            faults += truth_faults
            if runs is not None:
                self._targets[row["id"]] = runs
        return sample

    @staticmethod
    def fold_groups(rows: Sequence[Mapping[str, str]]) -> list[str]:
        """What folds must not split: the patient column where there is one, else clusters of near-duplicates."""
        clusters = {key: f"{CLUSTER_PREFIX}{cluster[0]}" for cluster in HUBMAP_2022_NEAR_DUPLICATES for key in cluster}
        return [row.get("patient", "").strip() or clusters.get(row["id"], row["id"]) for row in rows]

    def test_samples(self, root: Path, scan: TableScan = scan_host_table) -> list[Sample]:
        """What sample_submission.csv asks for, with what test.csv says of it.

        Args:
            root: The competition folder.
            scan: How test.csv is read.

        Raises:
            InputError: If sample_submission.csv is missing or cannot be used.
        """
        ids = submission_ids(root / "sample_submission.csv", self.columns)
        rows = rows_by_id(root / "test.csv", HUBMAP_2022_COLUMNS[:-1], scan)
        return [self._sample(root / "test_images", key, rows.get(key, {}), key) for key in ids]

    @staticmethod
    def _sample(folder: Path, key: str, row: Mapping[str, str], group: str) -> Sample:
        return Sample(
            id=key,
            image_path=find_image(folder, key),
            organ=row.get("organ", ""),
            source=row.get("data_source", ""),
            group=group,
            pixel_size_um=parse_pixel_size(row.get("pixel_size", "")),
            shape_hw=read_shape(row, HUBMAP_2022_SIDES)[0],
        )
