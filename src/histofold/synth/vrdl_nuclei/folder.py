"""A synthetic folder in the layout of the nuclei homework of 2021, its hidden truth outside.

The truth is a folder of the same layout whose training images are the hidden ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from histofold.core.log import logger
from histofold.schema.files import write_atomically, write_bytes_atomically
from histofold.synth.files import (
    PlantedFault,
    SynthKey,
    begin_folder,
    folder_of_truth,
    png_bytes,
    random_stream,
    refuse_less,
    refuse_unknown_faults,
    run_jobs,
    spoilt_image,
)
from histofold.synth.vrdl_nuclei.scene import STAIN_STYLES, TISSUES, NucleiSpec, draw_nuclei_field

NUCLEI_LIST = "test_img_ids.json"
_WORLD = 2021  # sets these random streams apart from those of the other competitions
_TRAIN, _TEST = 0, 1


@dataclass(frozen=True, kw_only=True)
class NucleiPlan:
    """One image before it is drawn."""

    name: str
    """As of its files, in the form of TCGA's."""
    hidden: bool
    """Whether it is a test image."""
    spec: NucleiSpec
    """What it shows."""
    fault: str = ""
    """Of `SPOILT`, or empty."""

    @property
    def patient(self) -> str:
        """Of whom it is: each image is of another one."""
        return self.name[:12]


def make_vrdl_nuclei(
    root: Path,
    *,
    num_train: int = 24,
    num_test: int = 6,
    seed: int = 0,
    max_side: int = 1000,
    test_faults: Sequence[str] = (),
    truth_path: Path | None = None,
    progress: bool = True,
    num_workers: int = 0,
) -> SynthKey:
    """Write the folder: images as PNG, one mask a nucleus; the list of test images last, and the truth after all else.

    Tissues and laboratories come in turn; each image is of another patient. What an image shows depends on the seed,
    its split, its place and its size alone. What is already there is replaced.

    Args:
        root: Folder to fill; made if missing.
        num_train: Count of training images, at least 1.
        num_test: Count of test images, at least 1.
        seed: Same seed and options, same bytes. Not negative.
        max_side: Side of the images in pixels of 0.25 um, at least 64: smaller ones show less, at the same scale.
        test_faults: Of `histofold.synth.files.SPOILT`, planted in the first test images.
        truth_path: Folder of the hidden truth, outside `root`; default ROOT_truth.
        progress: Show a progress bar.
        num_workers: Spawned processes that draw; 0 draws in this one.

    Returns:
        The key.

    Raises:
        ValueError: A count or size is not possible, or the truth would lie inside the folder.
    """
    truth_path = folder_of_truth(root, truth_path)
    refuse_less(("num_train", num_train, 1), ("num_test", num_test, 1), ("seed", seed, 0), ("max_side", max_side, 64))
    refuse_unknown_faults(test_faults, num_test)
    train = [_plan(seed, _TRAIN, index, max_side) for index in range(num_train)]
    faults = [*test_faults, *[""] * (num_test - len(test_faults))]
    test = [_plan(seed, _TEST, index, max_side, fault) for index, fault in enumerate(faults)]
    begin_folder(root, (NUCLEI_LIST,), truth_path / NUCLEI_LIST)
    work = partial(_make_image, root, truth_path)
    run_jobs(work, [*train, *test], num_workers=num_workers, progress=progress, description="synthetic nuclei")
    images = [
        {"id": number, "file_name": f"{plan.name}.png", "height": max_side, "width": max_side}
        for number, plan in enumerate(test, start=1)
    ]
    write_atomically(root / NUCLEI_LIST, json.dumps(images, indent=1) + "\n")
    write_atomically(truth_path / NUCLEI_LIST, "[]\n")
    logger.info("synthetic nuclei: %d training and %d test images in %s", num_train, num_test, root)
    return SynthKey(
        root=root,
        truth_path=truth_path,
        seed=seed,
        train_ids=tuple(plan.name for plan in train),
        test_ids=tuple(plan.name for plan in test),
        donors={plan.name: plan.patient for plan in (*train, *test)},
        planted={plan.name: (PlantedFault(kind=plan.fault),) for plan in test if plan.fault},
    )


def _plan(seed: int, split: int, index: int, side: int, fault: str = "") -> NucleiPlan:
    """The image at a place of a split; every tissue meets every laboratory in time."""
    tissues, styles = list(TISSUES), list(STAIN_STYLES)
    site = (index + index // len(styles)) % len(styles)
    number = int(random_stream(seed, _WORLD, split).integers(1000, 4000)) + 5000 * split + index
    spec = NucleiSpec(
        key=(seed, _WORLD, split, index),
        tissue=tissues[index % len(tissues)],
        style=styles[site],
        shape_hw=(side, side),
    )
    name = f"TCGA-Z{site}-{number:04d}-01Z-00-DX1"
    return NucleiPlan(name=name, hidden=split == _TEST, spec=spec, fault=fault)


def _make_image(root: Path, truth: Path, plan: NucleiPlan) -> None:
    """Draw and write one image with its masks; a hidden one's stand in the truth alone."""
    image_HWC, labels_HW = draw_nuclei_field(plan.spec)
    folder = (truth if plan.hidden else root) / "train" / plan.name
    write_bytes_atomically(folder / "images" / f"{plan.name}.png", png_bytes(image_HWC))
    masks = folder / "masks"
    masks.mkdir(exist_ok=True)
    for old in masks.glob("mask_*.png"):
        old.unlink()
    for number in range(1, int(labels_HW.max()) + 1):
        mask_HW = (labels_HW == number).astype(np.uint8) * np.uint8(255)
        # Hundreds an image: syncing each would take most of the time, and the list of images comes last anyway.
        (masks / f"mask_{number:04d}.png").write_bytes(png_bytes(mask_HW))
    if not plan.hidden:
        return
    content = spoilt_image(plan.fault, image_HWC, png_bytes) if plan.fault else png_bytes(image_HWC)
    path = root / "test" / f"{plan.name}.png"
    path.unlink(missing_ok=True)
    if content is not None:
        write_bytes_atomically(path, content)
