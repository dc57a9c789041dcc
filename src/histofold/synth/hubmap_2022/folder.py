"""A synthetic competition in the folder layout of hubmap-organ-segmentation (2022), its hidden truth kept outside.

Pixel sizes are the real competition's, but the images are smaller; so the anatomy is shrunk with them: an image of
`max_side` pixels at 0.4 um shows about as many objects as a real one of 3000 pixels. The shrink factor is
max_side / 3000, at least 0.2 and at most 1. Ids begin above the real ones, so that nothing known of a real image meets
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from histofold.core.log import logger
from histofold.synth.files import (
    SynthKey,
    WrittenImage,
    begin_folder,
    folder_key,
    refuse_less,
    run_jobs,
    truth_path_of,
    write_table,
)
from histofold.synth.hubmap_2022.image import make_image
from histofold.synth.hubmap_2022.options import HPA, HUBMAP, ImageSource, Planted
from histofold.synth.hubmap_2022.plan import ID_RANGE, LEAST_SIDE_PX, plan_splits

TEST_COLUMNS = ("id", "organ", "data_source", "img_height", "img_width", "pixel_size", "tissue_thickness")
TRAIN_COLUMNS = (*TEST_COLUMNS, "rle", "age", "sex", "patient")
TRUTH_COLUMNS = ("id", "organ", "data_source", "rle", "img_height", "img_width")


def make_hubmap_2022(
    root: Path,
    *,
    num_train: int = 20,
    num_test: int = 6,
    seed: int = 0,
    max_side: int = 1000,
    truth_path: Path | None = None,
    progress: bool = True,
    planted: Planted | None = None,
    train_sources: Sequence[ImageSource] = (HPA,),
    test_sources: Sequence[ImageSource] = (HUBMAP, HPA),
    num_workers: int = 0,
) -> SynthKey:
    """Write the folder: tables, images and annotations; the tables last, and the truth after all else.

    Train images are HPA's (haematoxylin and DAB, 0.4 um), two or three a donor. Of the test images every other one is
    Hubmap's (PAS or eosin, another pixel size and thickness): the real domain gap. Other gaps are asked for by sources:
    `test_sources=(ImageSource(name="Hubmap", stain="eosin"),)` is a gap of stain alone. A donor has one stain a kind.

    An image depends on the seed, its split, its place and the options alone. A file that is already there is replaced,
    others are left. A run that was interrupted leaves no tables and no part of a file under its name: start it again.

    Args:
        root: Folder to fill; made if missing.
        num_train: Count of train images, at least 2.
        num_test: Count of test images, at least 1.
        seed: Same seed and options, same bytes (with the same versions of the encoders). Not negative.
        max_side: Longest side of an image in pixels, at least 160. Smaller images hold smaller objects.
        truth_path: Where the test truth goes, outside `root`; default ROOT_truth.csv beside it.
        progress: Show a progress bar.
        planted: Faults, habits, artefacts; without it no fault and no habit, and artefacts at a modest rate.
        train_sources: Sources of the train images, taken in turn.
        test_sources: Sources of the test images, taken in turn.
        num_workers: Spawned processes that draw; 0 draws in this one.

    Returns:
        The key.

    Raises:
        ValueError: A count or size is too small, or the truth would lie inside the folder.

    Example:
        >>> key = make_hubmap_2022(Path("raw"), num_train=2, num_test=1, max_side=160, progress=False)
        >>> sorted(path.name for path in key.root.glob("*.csv")), key.truth_path.name
        (['sample_submission.csv', 'test.csv', 'train.csv'], 'raw_truth.csv')
    """
    truth_path = truth_path_of(root, truth_path)
    _refuse_bad_request(num_train, num_test, seed, max_side)
    if not train_sources or not test_sources:
        raise ValueError("train_sources and test_sources need at least one source each")
    planted = planted or Planted()
    sources = tuple(train_sources), tuple(test_sources)
    train, test = plan_splits(seed, (num_train, num_test), max_side, sources, planted)
    begin_folder(root, ("train.csv", "test.csv", "sample_submission.csv"), truth_path)
    work = partial(make_image, root, seed, planted.strength)
    written = run_jobs(
        work, [*train, *test], num_workers=num_workers, progress=progress, description="synthetic slides"
    )
    _write_tables(root, truth_path, written[:num_train], written[num_train:])
    logger.info("synthetic competition: %d train and %d test images in %s", num_train, num_test, root)
    donors = tuple({plan.id: plan.true_donor for plan in plans} for plans in (train, test))
    return folder_key(root, truth_path, seed, donors, written)


def _refuse_bad_request(num_train: int, num_test: int, seed: int, max_side: int) -> None:
    refuse_less(
        ("num_train", num_train, 2), ("num_test", num_test, 1), ("seed", seed, 0), ("max_side", max_side, LEAST_SIDE_PX)
    )
    room = ID_RANGE[1] - ID_RANGE[0]
    if num_train + num_test > room:
        raise ValueError(f"{num_train} train and {num_test} test images are more than the {room} ids that there are")


def _write_tables(
    root: Path, truth_path: Path, train_images: list[WrittenImage], test_images: list[WrittenImage]
) -> None:
    train, test = ([image.row for image in images] for images in (train_images, test_images))
    train += [image.row for image in train_images if any(fault.kind == "duplicate_id" for fault in image.planted)]
    write_table(root / "test.csv", TEST_COLUMNS, test)
    write_table(root / "sample_submission.csv", ("id", "rle"), [{"id": row["id"], "rle": "1 1"} for row in test])
    write_table(root / "train.csv", TRAIN_COLUMNS, train)
    write_table(truth_path, TRUTH_COLUMNS, test)
