"""A synthetic competition in the folder layout of blood-vessel-segmentation (SenNet + HOA, 2024).

Two kidneys to learn from at 50 um a voxel, the second with 85% of its vessels labelled and, for some of its slices,
labels of all of them in a volume of labels alone; and a hidden one at 63.08 um. The truth of the hidden one lies
outside the folder, as a csv of the host's run lengths.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import tifffile

from histofold.competitions.sennet_2024 import EMPTY_ROW, kidney_of
from histofold.core.log import logger
from histofold.core.rle.runs import encode_rle
from histofold.schema.files import write_bytes_atomically
from histofold.synth.files import (
    SPOILT,
    PlantedFault,
    Row,
    SynthKey,
    begin_folder,
    random_stream,
    refuse_less,
    run_jobs,
    spoilt_image,
    truth_path_of,
    write_table,
)
from histofold.synth.sennet_2024.kidney import grow_kidney, unlabelled_branches
from histofold.synth.sennet_2024.slices import Scan

VOLUME_FAULTS = tuple(kind for kind in SPOILT if kind != "grey")
"""What can be wrong with a hidden slice: cut off, not there, of another size."""
SENNET_TABLES = ("train_rles.csv", "sample_submission.csv")
VOXEL_UM, COARSE_VOXEL_UM = 50.0, 63.08
RLE_COLUMNS = ("id", "rle")
_WORLD = 2024  # sets these random streams apart from those of the other competitions
_GROW, _SCAN, _MISSED = range(3)
_DENSE_SLICES = (0.4, 0.7)  # those that the volume of labels alone holds, as shares of the depth
_BETWEEN_FAULTS = 3  # so that both neighbours of a slice at fault are whole


@dataclass(frozen=True, kw_only=True)
class VolumePlan:
    """One volume before it is drawn."""

    name: str
    """Of its folder."""
    number: int
    """Of its random streams."""
    shares: tuple[float, float, float]
    """Its extent (z, y, x) as shares of what is asked for, so that no two volumes are of one size."""
    voxel_um: float = VOXEL_UM
    """Side of a voxel."""
    labelled: float = 1.0
    """Share of its vessels that are labelled, about."""
    labels_alone: str = ""
    """A volume of the labels of all vessels in some of its slices; empty for none."""
    hidden: bool = False
    """Whether it is the test."""


PLANS = (
    VolumePlan(name="kidney_1_dense", number=1, shares=(1.0, 1.0, 1.0)),
    VolumePlan(
        name="kidney_3_sparse", number=3, shares=(0.9, 0.95, 1.08), labelled=0.85, labels_alone="kidney_3_dense"
    ),
    VolumePlan(name="kidney_6", number=6, shares=(1.0, 1.05, 0.94), voxel_um=COARSE_VOXEL_UM, hidden=True),
)


@dataclass(frozen=True, kw_only=True)
class WrittenVolume:
    """What is known of a volume once it is written."""

    kidney: str
    """Whose it is."""
    rows: tuple[Row, ...]
    """Run lengths of its slices: as labelled, or the truth of the hidden one."""
    further_rows: tuple[Row, ...] = ()
    """Those of the volume of labels alone."""
    planted: dict[str, PlantedFault] = field(default_factory=dict)
    """What was planted, by id."""


def make_sennet_2024(
    root: Path,
    *,
    shape_dhw: tuple[int, int, int] = (50, 160, 140),
    seed: int = 0,
    test_faults: Sequence[str] = (),
    truth_path: Path | None = None,
    progress: bool = True,
    num_workers: int = 0,
) -> SynthKey:
    """Write the folder: slices of 16 bits, labels of 0 and 255, tables; the tables last, the truth after all else.

    Args:
        root: Folder to fill; made if missing.
        shape_dhw: Voxels of a volume at 50 um, about, at least (8, 48, 48); kidneys are as large as that.
        seed: Same seed and options, same bytes. Not negative.
        test_faults: Of `VOLUME_FAULTS`, planted in slices of the hidden volume whose neighbours are whole.
        truth_path: File of the hidden truth, outside `root`; default ROOT_truth.csv.
        progress: Show a progress bar.
        num_workers: Spawned processes that draw; 0 draws in this one.

    Returns:
        The key.

    Raises:
        ValueError: A size or fault is not possible, or the truth would lie inside the folder.
    """
    truth_path = truth_path_of(root, truth_path)
    names = ("depth", "height", "width")
    refuse_less(*zip(names, shape_dhw, (8, 48, 48), strict=True), ("seed", seed, 0))
    unknown = sorted(set(test_faults) - set(VOLUME_FAULTS))
    if unknown or _BETWEEN_FAULTS * len(test_faults) > shape_dhw[0] // 2:
        known = ", ".join(VOLUME_FAULTS)
        raise ValueError(f"test_faults={list(test_faults)}: of {known}, and at most one in six slices")
    begin_folder(root, SENNET_TABLES, truth_path)
    work = partial(_make_volume, root, seed, shape_dhw, tuple(test_faults))
    volumes = run_jobs(work, PLANS, num_workers=num_workers, progress=progress, description="synthetic kidneys")
    ids = {plan.name: [row["id"] for row in made.rows] for plan, made in zip(PLANS, volumes, strict=True)}
    train = [made for plan, made in zip(PLANS, volumes, strict=True) if not plan.hidden]
    hidden = [row for plan, made in zip(PLANS, volumes, strict=True) if plan.hidden for row in made.rows]
    labelled = [row for made in train for row in (*made.rows, *made.further_rows)]
    write_table(root / "train_rles.csv", RLE_COLUMNS, sorted(labelled, key=lambda row: row["id"]))
    empty = [{"id": row["id"], "rle": EMPTY_ROW} for row in hidden]
    write_table(root / "sample_submission.csv", RLE_COLUMNS, empty)
    write_table(truth_path, RLE_COLUMNS, hidden)
    logger.info("synthetic kidneys: %d training and %d hidden slices in %s", len(labelled), len(hidden), root)
    return SynthKey(
        root=root,
        truth_path=truth_path,
        seed=seed,
        train_ids=tuple(row["id"] for made in train for row in made.rows),
        test_ids=tuple(row["id"] for row in hidden),
        donors={key: made.kidney for plan, made in zip(PLANS, volumes, strict=True) for key in ids[plan.name]},
        planted={key: (fault,) for made in volumes for key, fault in made.planted.items()},
    )


def scan_of(plan: VolumePlan, seed: int, shape_dhw: tuple[int, int, int]) -> Scan:
    """The scan of a volume, from which any of its slices can be drawn."""
    extent = [round(side * share) * VOXEL_UM for side, share in zip(shape_dhw, plan.shares, strict=True)]
    kidney = grow_kidney(random_stream(seed, _WORLD, plan.number, _GROW), (extent[0], extent[1], extent[2]))
    rng = random_stream(seed, _WORLD, plan.number, _MISSED)
    missed = unlabelled_branches(rng, kidney.vessels, 1 - plan.labelled)
    return Scan(kidney, plan.voxel_um, (seed, _WORLD, plan.number, _SCAN), missed)


def _make_volume(
    root: Path, seed: int, shape_dhw: tuple[int, int, int], test_faults: tuple[str, ...], plan: VolumePlan
) -> WrittenVolume:
    """Draw a volume slice by slice and write its images and labels."""
    scan = scan_of(plan, seed, shape_dhw)
    depth = scan.shape_dhw[0]
    places = (_BETWEEN_FAULTS * (at + 1) for at in range(len(test_faults)))
    faults = dict(zip(places, test_faults, strict=True)) if plan.hidden else {}
    first, last = (round(share * depth) for share in _DENSE_SLICES)
    folder = root / ("test" if plan.hidden else "train")
    rows, further, planted = [], [], {}
    for number in range(depth):
        drawn, name = scan.slice_at(number), f"{number:04d}"
        content = _slice_bytes(drawn.grey)
        key = f"{plan.name}_{name}"
        if number in faults:
            planted[key] = PlantedFault(kind=faults[number])
        spoilt = spoilt_image(faults[number], drawn.grey, _slice_bytes) if number in faults else content
        if spoilt is not None:
            write_bytes_atomically(folder / plan.name / "images" / f"{name}.tif", spoilt)
        mask_HW = drawn.truth if plan.hidden else drawn.labelled
        rows.append(_row(key, mask_HW))
        if not plan.hidden:
            write_bytes_atomically(folder / plan.name / "labels" / f"{name}.tif", _label_bytes(mask_HW))
        if plan.labels_alone and first <= number < last:
            further.append(_row(f"{plan.labels_alone}_{name}", drawn.truth))
            alone = folder / plan.labels_alone / "labels" / f"{name}.tif"
            write_bytes_atomically(alone, _label_bytes(drawn.truth))
    kidney = kidney_of(plan.name)
    return WrittenVolume(kidney=kidney, rows=tuple(rows), further_rows=tuple(further), planted=planted)


def _row(key: str, mask_HW: np.ndarray) -> Row:
    return {"id": key, "rle": encode_rle(mask_HW, order="C") or EMPTY_ROW}


def _slice_bytes(values_HW: np.ndarray) -> bytes:
    """A grey slice as the host's files are: plain TIFF of one strip."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, values_HW, photometric="minisblack", metadata=None, software=False)
    return stream.getvalue()


def _label_bytes(mask_HW: np.ndarray) -> bytes:
    return _slice_bytes(mask_HW.astype(np.uint8) * np.uint8(255))
