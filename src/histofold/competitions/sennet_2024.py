"""SenNet + HOA - Hacking the Human Vasculature in 3D (2024): vessels in stacks of slices.

Layout::

    train/{volume}/images/NNNN.tif, labels/NNNN.tif   slices of 16 bits; labels 0 and 255, or 0 and 1
    train_rles.csv                                    id, rle: where labels are not there (1-based, ROW by row)
    test/{volume}/images/NNNN.tif
    sample_submission.csv                             id, rle: the ids to predict and their order; `1 0` is empty

An id is {volume}_{NNNN}. kidney_3_dense has labels alone: they are those of slices of kidney_3_sparse, and better ones,
so they take the place of its own. The volumes that are called sparse are labelled in part (kidney_2 too, 65%): what
lacks a label there counts as background, in training and in scores.

Folds keep a kidney whole: slices side by side are nearly the same picture, so that a random split of them leaks. The
host scores surface Dice, each volume as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from histofold.competitions.base import Adapter, Score, Split, Task, masks_dice
from histofold.competitions.tables import TableScan, rows_by_id, scan_host_table, submission_ids
from histofold.core.faults import Fault, ImageError, InputError, InputNotice, listed_ids
from histofold.core.metrics.surface import SurfaceDice
from histofold.core.rle.runs import Masks, Runs, class_runs, decode_rle, encode_rle, runs_from_mask
from histofold.imaging.volume import list_slices, open_slice, read_slice, slice_shape
from histofold.schema.sample import Sample

VOXEL_SIZES_UM = {
    "kidney_1_dense": 50.0,
    "kidney_1_voi": 5.2,
    "kidney_2": 50.0,
    "kidney_3_dense": 50.16,
    "kidney_3_sparse": 50.16,
    "kidney_5": 50.28,
    "kidney_6": 63.08,
}
"""Micrometres a voxel, as the host states them."""
USUAL_VOXEL_UM = 50.0
EMPTY_ROW = "1 0"
LABELS_ALONE = {"kidney_3_dense": "kidney_3_sparse"}
"""Volumes of labels by the volume whose slices they belong to."""
LABELLED_SHARES = {"kidney_2": 0.65, "kidney_3_sparse": 0.85}
"""The share of the vessels that the host labelled, of volumes where it is not all of them."""
_SENNET_COLUMNS = ("id", "rle")
_KIDNEY = re.compile(r"kidney_\d+")


class Sennet2024(Adapter):
    """Adapter of blood-vessel-segmentation."""

    name = "sennet_2024"
    slug = "blood-vessel-segmentation"
    classes: tuple[str, ...] = ("vessel",)
    columns: tuple[str, ...] = _SENNET_COLUMNS
    fallback_row = EMPTY_ROW
    task: Task = "volumes"
    metric = "surface Dice"
    visible_test_images = 4
    hidden_test_images = 1500  # not stated by the host: an assumption
    hidden_image_side = 1600
    hidden_pixel_size_um = 63.0

    def __init__(self) -> None:
        super().__init__()
        self._labels: dict[str, Path] = {}
        self._texts: dict[str, tuple[str, tuple[int, int]]] = {}

    def _inspect(self, root: Path, split: Split) -> tuple[list[Sample], list[Fault]]:
        """The slices of every volume of a split; headers of one slice a volume are read, and no pixels."""
        return self._train_samples(root) if split == "train" else (self.test_samples(root), [])

    def _train_samples(self, root: Path) -> tuple[list[Sample], list[Fault]]:
        self._labels, self._texts = {}, {}
        path = root / "train_rles.csv"
        rows = rows_by_id(path, _SENNET_COLUMNS) if path.is_file() else {}
        texts = {key: row.get("rle", "") for key, row in rows.items()}
        folders = sorted(folder for folder in (root / "train").glob("*") if folder.is_dir())
        if not folders:
            raise InputError([Fault("train", str(root / "train"), "no volume here", "unpack the competition's data")])
        labels = {folder.name: list_slices(folder / "labels") for folder in folders}
        better = {owner: labels.pop(name) for name, owner in LABELS_ALONE.items() if name in labels}
        samples, faults, shapes = [], [], dict[str, tuple[int, int] | None]()
        for folder in folders:
            images = list_slices(folder / "images")
            if not images and folder.name in LABELS_ALONE:
                continue
            own = labels[folder.name] | better.get(folder.name, {})
            faults += _volume_faults(folder, images, own, texts)
            for number, image in images.items():
                sample = _slice_sample(folder.name, image, shapes)
                samples.append(sample)
                if number in own:
                    self._labels[sample.id] = own[number]
                elif sample.id in texts and sample.shape_hw is not None:
                    self._texts[sample.id] = (texts[sample.id], sample.shape_hw)
        return samples, faults

    def test_samples(self, root: Path, scan: TableScan = scan_host_table) -> list[Sample]:
        """What sample_submission.csv asks for; every slice of every volume in order where there is no such file.

        Args:
            root: The competition folder.
            scan: Taken as other adapters do; there is no other table.

        Raises:
            InputError: If sample_submission.csv cannot be used, or there is neither it nor a volume.
        """
        path, test = root / "sample_submission.csv", root / "test"
        volumes = {folder.name: list_slices(folder / "images") for folder in sorted(test.glob("*")) if folder.is_dir()}
        shapes: dict[str, tuple[int, int] | None] = {}
        if not path.is_file() and any(volumes.values()):
            return [_slice_sample(name, image, shapes) for name, images in volumes.items() for image in images.values()]
        samples = []
        for key in submission_ids(path, self.columns):
            volume, _, number = key.rpartition("_")
            image = volumes.get(volume, {}).get(int(number) if number.isascii() and number.isdigit() else -1)
            path = image or test / volume / "images" / f"{number}.tif"
            samples.append(_slice_sample(volume, path, shapes, key))
        return samples

    def target(self, sample: Sample) -> Masks:
        """The vessels of a training slice: its label image, where any value but 0 counts, else its run lengths.

        Raises:
            InputError: If there is neither, or it cannot be read.
        """
        if sample.id in self._texts:
            text, shape_hw = self._texts[sample.id]
            return runs_from_mask(decode_rle("" if text == EMPTY_ROW else text, shape_hw, order="C"))
        if sample.id not in self._labels:
            rule, remedy = "no label of this slice", "take the slice out, or give its label"
            raise InputError([Fault(sample.id, str(sample.image_path), rule, remedy)])
        path = self._labels[sample.id]
        try:
            return runs_from_mask(read_slice(path) > 0)
        except ImageError as error:
            raise InputError([Fault(sample.id, str(path), error.rule, error.remedy)]) from error

    def score(self, predictions: Mapping[str, Masks], targets: Mapping[str, Masks]) -> Score:
        """Surface Dice of each volume's slices in the order of their numbers, the mean over volumes.

        A slice without a prediction counts as an empty one. `by_id` holds plain Dice of each slice: surface Dice is one
        of volumes.
        """
        volumes: dict[str, SurfaceDice] = {}
        by_id: dict[str, float] = {}
        for key in sorted(targets, key=slice_key):
            (truth,) = class_runs(targets[key])
            empty = Runs(truth.starts[:0], truth.lengths[:0], truth.shape_hw, truth.order)
            (found,) = class_runs(predictions.get(key, empty))
            if found.shape_hw != truth.shape_hw:
                rule = f"prediction is {found.shape_hw} and truth is {truth.shape_hw} pixels"
                raise InputError([Fault(key, "predictions", rule, "predict at the slice's own size")])
            by_id[key] = masks_dice(found, truth)
            volumes.setdefault(slice_key(key)[0], SurfaceDice()).add(found.to_mask(), truth.to_mask())
        scores = [volume.result() for volume in volumes.values()]
        return Score(sum(scores) / max(1, len(scores)), by_id)

    def row(self, runs: Runs) -> str:
        """Runs as 1-based pairs row by row, `1 0` for no runs."""
        return encode_rle(runs.to_mask(), order="C") or EMPTY_ROW


def slice_key(sample_id: str) -> tuple[str, int]:
    """Volume and number of a slice."""
    volume, _, number = sample_id.rpartition("_")
    return volume, int(number) if number.isascii() and number.isdigit() else -1


def kidney_of(volume: str) -> str:
    """The kidney that a volume shows: several volumes may be of one."""
    found = _KIDNEY.match(volume)
    return found[0] if found else volume


def _slice_sample(volume: str, path: Path, shapes: dict[str, tuple[int, int] | None], key: str = "") -> Sample:
    """A slice; its size is that of the first slice of its volume that is asked for, which `shapes` keeps."""
    if volume not in shapes:
        shapes[volume] = slice_shape(path)
    return Sample(
        id=key or f"{volume}_{path.stem}",
        image_path=path,
        organ="kidney",
        source=volume,
        group=kidney_of(volume),
        pixel_size_um=VOXEL_SIZES_UM.get(volume, USUAL_VOXEL_UM),
        shape_hw=shapes[volume],
        opened_by=open_slice,
    )


def _volume_faults(
    folder: Path, images: Mapping[int, Path], labels: Mapping[int, Path], texts: Mapping[str, str]
) -> list[Fault]:
    """What is wrong with the slices of a volume as files: missing numbers, images without labels, labels without."""
    name, faults = folder.name, []
    if not images:
        return [Fault(name, str(folder / "images"), "no slices NNNN.tif", "unpack them, or take the volume out")]
    gaps = sorted(set(range(min(images), max(images) + 1)) - images.keys())
    if gaps:
        rule = f"the numbers {listed_ids([f'{number:04d}' for number in gaps])} are missing among the slices"
        faults.append(Fault(name, str(folder / "images"), rule, "download the volume again"))
    ids = {number: f"{name}_{path.stem}" for number, path in images.items()}
    without = [key for number, key in ids.items() if number not in labels and key not in texts]
    if without:
        rule = f"slices without a label: {listed_ids(without)}"
        faults.append(Fault(name, str(folder / "labels"), rule, "download the labels, or take the slices out"))
    if name in LABELLED_SHARES:
        rule = f"about {LABELLED_SHARES[name]:.0%} of its vessels are labelled, as the host says"
        remedy = "what lacks a label counts as background, in training and in scores"
        faults.append(InputNotice(name, str(folder / "labels"), rule, remedy))
    extra = [path.stem for number, path in labels.items() if number not in images]
    if extra:
        rule = f"labels without a slice: {listed_ids(extra)}"
        faults.append(InputNotice(name, str(folder / "labels"), rule, "download the slices"))
    return faults
