"""One image of a synthetic competition of 2022: drawn, annotated, spoilt as its plan says, and written."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from histofold.core.rle.runs import encode_rle, runs_from_mask
from histofold.schema.files import write_bytes_atomically
from histofold.synth.drawing.slide import Picture, SyntheticSlide
from histofold.synth.files import (
    TIFF_LAYOUTS,
    ArtefactPlace,
    PlantedFault,
    Row,
    WrittenImage,
    artefact_places,
    random_stream,
    tiff_bytes,
)
from histofold.synth.hubmap_2022.habits import Annotated, change_mask, transposed_mask
from histofold.synth.hubmap_2022.options import (
    COPY_FAULTS,
    DRAWING_FAULTS,
    FILE_FAULTS,
    ROW_CHANGES,
    broken_file,
    broken_row,
    rescanned,
)
from histofold.synth.hubmap_2022.plan import FAULTS, TRAIN, PlannedImage, donor_facts, donor_place


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
