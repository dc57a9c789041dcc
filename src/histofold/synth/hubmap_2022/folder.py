"""A synthetic competition in the folder layout of hubmap-organ-segmentation (2022), its hidden truth kept outside.

Pixel sizes are the real competition's, but the images are smaller; so the anatomy is shrunk with them: an image of
`max_side` pixels at 0.4 um shows about as many objects as a real one of 3000 pixels. The shrink factor is
max_side / 3000, at least 0.2 and at most 1. Ids begin above the real ones, so that nothing known of a real image meets
them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from histofold.core.log import logger
from histofold.core.rle.runs import encode_rle, runs_from_mask
from histofold.schema.files import write_bytes_atomically
from histofold.synth.drawing.slide import Picture, SyntheticSlide
from histofold.synth.files import (
    TIFF_LAYOUTS,
    ArtefactPlace,
    PlantedFault,
    Row,
    SynthKey,
    WrittenImage,
    artefact_places,
    begin_folder,
    folder_key,
    random_stream,
    refuse_less,
    run_jobs,
    tiff_bytes,
    truth_path_of,
    write_table,
)
from histofold.synth.hubmap_2022.habits import Annotated, change_mask, transposed_mask
from histofold.synth.hubmap_2022.options import (
    COPY_FAULTS,
    DRAWING_FAULTS,
    FILE_FAULTS,
    HPA,
    HUBMAP,
    ROW_CHANGES,
    ImageSource,
    Planted,
    broken_file,
    broken_row,
    rescanned,
)
from histofold.synth.hubmap_2022.plan import (
    FAULTS,
    ID_RANGE,
    LEAST_SIDE_PX,
    TRAIN,
    PlannedImage,
    donor_facts,
    donor_place,
    plan_splits,
)


def make_image(root: Path, seed: int, strength: float, plan: PlannedImage) -> WrittenImage:
    """Draw, spoil and write one image, and its annotation where it is of the train split."""
    rng = random_stream(seed, FAULTS, plan.split, int(plan.id))
    planted: list[PlantedFault] = []
    slide = SyntheticSlide(plan.spec)
    places = artefact_places(slide.artefact_regions)
    picture = slide.whole()
    if plan.fault in COPY_FAULTS:
        picture, places = _scan_again(rng, picture, places, plan, planted)
    drawn_HW = _annotate(rng, picture, strength, plan, planted)
    row = _encode(rng, _row(seed, plan, drawn_HW), drawn_HW, plan, planted)
    _write_image(rng, root, picture.image_HWC, plan, planted)
    if plan.split == TRAIN:
        polygons = json.dumps(mask_polygons(drawn_HW), separators=(",", ":"))
        write_bytes_atomically(root / "train_annotations" / f"{plan.id}.json", polygons.encode())
    clean_rle = encode_rle(picture.mask_HW) if plan.split == TRAIN else ""
    return WrittenImage(row=row, clean_rle=clean_rle, planted=tuple(planted), artefacts=places)


def mask_polygons(mask_HW: np.ndarray) -> list[list[list[int]]]:
    """Outer outlines of a mask's pieces as closed rings of [x, y], holes left out."""
    contours, _ = cv2.findContours(mask_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rings = []
    for contour in contours:
        fewer = cv2.approxPolyDP(contour, 0.7, True)
        ring = fewer if len(fewer) >= 3 else contour
        if len(ring) >= 3:
            rings.append(ring[:, 0].tolist())
    return rings


def _scan_again(
    rng: np.random.Generator,
    picture: Picture,
    places: tuple[ArtefactPlace, ...],
    plan: PlannedImage,
    planted: list[PlantedFault],
) -> tuple[Picture, tuple[ArtefactPlace, ...]]:
    """The near-copy of a slide; what was done is added to `planted`."""
    assert plan.other is not None, "the plan of a copy names its original"
    again, numbers = rescanned(rng, picture)
    patient = {"patient": plan.donor, "true_patient": plan.true_donor}
    planted.append(PlantedFault(kind=plan.fault, numbers={"original": plan.other.id, **numbers, **patient}))
    origin = np.array([numbers["top"], numbers["left"]] * 2)
    limits = np.array(again.mask_HW.shape * 2)
    moved = [(place.kind, np.clip(np.array(place.box_yxyx) - origin, 0, limits).tolist()) for place in places]
    return again, artefact_places(moved)


def _annotate(
    rng: np.random.Generator, picture: Picture, strength: float, plan: PlannedImage, planted: list[PlantedFault]
) -> np.ndarray:
    """The mask that the annotator drew, (H, W) bool; what was done is added to `planted`."""
    mask_HW = picture.mask_HW
    other_HW = None
    if plan.fault == "wrong_image":
        assert plan.other is not None, "the plan of a mistaken mask names its image"
        other_HW = SyntheticSlide(plan.other.spec).whole().mask_HW
    for kind in (*plan.habits, *((plan.fault,) if plan.fault in DRAWING_FAULTS else ())):
        annotated = Annotated(picture=picture, mask=mask_HW, strength=strength, other_mask=other_HW)
        mask_HW, done = change_mask(rng, annotated, kind)
        if done is not None and kind == "wrong_image" and plan.other is not None:
            done = PlantedFault(kind=kind, numbers={"mask_of": plan.other.id})
        planted += [] if done is None else [done]
    return mask_HW


def _row(seed: int, plan: PlannedImage, mask_HW: np.ndarray) -> Row:
    spec = plan.spec
    return {
        "id": plan.id,
        "organ": spec.organ,
        "data_source": plan.source,
        "img_height": str(mask_HW.shape[0]),
        "img_width": str(mask_HW.shape[1]),
        "pixel_size": f"{spec.pixel_size_um:.4g}",
        "tissue_thickness": f"{spec.thickness_um:.4g}",
        "rle": encode_rle(mask_HW),
        "patient": plan.donor,
    } | donor_facts(seed, plan.split, donor_place(plan.index))


def _encode(
    rng: np.random.Generator, row: Row, drawn_HW: np.ndarray, plan: PlannedImage, planted: list[PlantedFault]
) -> Row:
    """The row with the fault of its encoding or of its cells; what was done is added to `planted`."""
    if plan.fault in ROW_CHANGES:
        row, done = broken_row(rng, row, runs_from_mask(drawn_HW), plan.fault)
        planted.append(done)
        return row
    rle = row["rle"]
    if plan.fault == "transposed":
        rle = encode_rle(transposed_mask(drawn_HW)) or rle
    elif plan.fault == "row_major":
        rle = encode_rle(drawn_HW, order="C")
    if rle != row["rle"]:
        planted.append(PlantedFault(kind=plan.fault))
    return row | {"rle": rle}


def _write_image(
    rng: np.random.Generator, root: Path, image_HWC: np.ndarray, plan: PlannedImage, planted: list[PlantedFault]
) -> None:
    """Write the image, or what a broken download left of it; what was done is added to `planted`."""
    content: bytes | None = tiff_bytes(image_HWC, tuple(TIFF_LAYOUTS)[plan.index % len(TIFF_LAYOUTS)])
    if plan.fault in FILE_FAULTS:
        content, done = broken_file(rng, content or b"", plan.fault)
        planted.append(done)
    path = root / ("train_images" if plan.split == TRAIN else "test_images") / f"{plan.id}.tiff"
    if content is None:
        path.unlink(missing_ok=True)
    else:
        write_bytes_atomically(path, content)


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
