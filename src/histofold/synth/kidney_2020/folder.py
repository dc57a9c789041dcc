"""A synthetic competition in the folder layout of hubmap-kidney-segmentation (2020), its hidden truth kept outside.

Slides are sections of kidney in PAS, as large as asked for: they are drawn, written, and their masks encoded, in bands.
Every choice about a slide depends on the seed, its split and its place: more slides never change those that are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from histofold.core.log import logger
from histofold.core.rle.runs import RunEncoder, runs_to_text
from histofold.schema.files import write_bytes_atomically
from histofold.synth.drawing.slide import SlideSpec, SyntheticSlide
from histofold.synth.drawing.tissue import draw_stain
from histofold.synth.files import (
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
    truth_path_of,
    write_table,
)
from histofold.synth.hubmap_2022.options import Planted
from histofold.synth.hubmap_2022.plan import DONORS, LEAST_SHRINK, LOOKS, TEST, TRAIN, donor_place, draw_looks
from histofold.synth.kidney_2020.files import (
    BAND_ROWS,
    KIDNEY_LAYOUTS,
    Polygon,
    annotation_json,
    polygon_area,
    runs_rings,
    shifted_runs,
    write_tiff_bands,
    zone_polygons,
)

KIDNEY_LEAST_SIDE_PX = 64
_WORLD = 2020  # sets these random streams apart from those of the competition of 2022
_IDS, _SHAPES = 100, 101
_REAL_SIDE_PX = 10_000  # from this side on, objects have their real size
_PIXEL_SIZES_UM = (0.5, 0.5, 0.65)  # in turn
_THICKNESS_UM = 10.0


@dataclass(frozen=True, kw_only=True)
class KidneyPlan:
    """One slide before it is drawn."""

    id: str
    """Nine hexadecimal digits."""
    split: int
    """`TRAIN` or `TEST` of `histofold.synth.hubmap_2022.plan`."""
    index: int
    """Place in its split."""
    spec: SlideSpec
    """What it shows."""
    layout: str
    """Of `KIDNEY_LAYOUTS`."""
    shift_yx: tuple[int, int] = (0, 0)
    """By how many pixels its truth is moved."""

    @property
    def patient(self) -> str:
        """Number of the patient; those of the splits are distinct."""
        return str(70_000 + 5_000 * (self.split == TEST) + 7 * donor_place(self.index))


def plan_kidneys(
    seed: int,
    split: int,
    shapes_hw: Sequence[tuple[int, int]],
    *,
    shrink: float | None,
    planted: Planted,
) -> list[KidneyPlan]:
    """Plan the slides of a split, layouts taken in turn; without `shrink` objects are as large as fits the slide."""
    plans = []
    for index, shape_hw in enumerate(shapes_hw):
        number = random_stream(seed, _WORLD, _IDS, split, index).integers(16**8, 16**9)
        artefacts, quality = draw_looks(random_stream(seed, _WORLD, LOOKS, split, index), planted)
        spec = SlideSpec(
            key=(seed, _WORLD, split, index),
            organ="kidney",
            stain=draw_stain(random_stream(seed, _WORLD, DONORS, split, donor_place(index)), "pas"),
            shape_hw=shape_hw,
            pixel_size_um=_PIXEL_SIZES_UM[index % len(_PIXEL_SIZES_UM)],
            shrink=shrink or min(max(max(shape_hw) / _REAL_SIDE_PX, LEAST_SHRINK), 1.0),
            thickness_um=_THICKNESS_UM,
            artefacts=artefacts,
            jpeg_quality=quality,
        )
        layout = KIDNEY_LAYOUTS[index % len(KIDNEY_LAYOUTS)]
        plans.append(KidneyPlan(id=f"{number:09x}", split=split, index=index, spec=spec, layout=layout))
    return plans


def draw_kidney_shapes(seed: int, split: int, count: int, max_side: int) -> list[tuple[int, int]]:
    """Heights and widths of the slides of a split."""
    shapes = []
    for index in range(count):
        rng = random_stream(seed, _WORLD, _SHAPES, split, index)
        long_px = max_side * rng.uniform(0.8, 1.0)
        sides = [max(KIDNEY_LEAST_SIDE_PX, round(side)) for side in (long_px * rng.uniform(0.6, 0.95), long_px)]
        shapes.append((sides[0], sides[1]) if rng.random() < 0.5 else (sides[1], sides[0]))
    return shapes


def patient_facts(seed: int, plan: KidneyPlan) -> dict[str, str]:
    """The cells of dataset_information.csv that tell of the patient and of the side that the kidney is from."""
    rng = random_stream(seed, _WORLD, DONORS, plan.split, donor_place(plan.index), 1)
    height_cm, bmi = rng.uniform(150, 190), rng.uniform(19, 36)
    weight_kg = bmi * (height_cm / 100) ** 2
    return {
        "patient_number": plan.patient,
        "race": str(rng.choice(("White", "Black or African American"), p=(0.8, 0.2))),
        "ethnicity": "Not Hispanic or Latino",
        "sex": str(rng.choice(("Male", "Female"))),
        "age": str(int(rng.integers(25, 80))),
        "weight_kilograms": f"{weight_kg:.1f}",
        "height_centimeters": f"{height_cm:.1f}",
        "bmi_kg/m^2": f"{weight_kg / (height_cm / 100) ** 2:.1f}",
        "laterality": str(rng.choice(("Right", "Left"))),
    }


KIDNEY_INFORMATION = "HuBMAP-20-dataset_information.csv"
KIDNEY_INFORMATION_COLUMNS = (
    "image_file",
    "width_pixels",
    "height_pixels",
    "anatomical_structures_segmentation_file",
    "glomerulus_segmentation_file",
    "patient_number",
    "race",
    "ethnicity",
    "sex",
    "age",
    "weight_kilograms",
    "height_centimeters",
    "bmi_kg/m^2",
    "laterality",
    "percent_cortex",
    "percent_medulla",
)


def make_kidney_2020(
    root: Path,
    *,
    num_train: int = 15,
    num_test: int = 5,
    seed: int = 0,
    max_side: int = 2000,
    shape_hw: tuple[int, int] | None = None,
    shrink: float | None = None,
    shifted_truth_yx: tuple[int, int] = (0, 0),
    planted: Planted | None = None,
    truth_path: Path | None = None,
    progress: bool = True,
    num_workers: int = 0,
) -> SynthKey:
    """Write the folder: slides, polygons and tables; the tables last, and the truth after all else.

    Two or three slides a patient; two of three slides have pixels of 0.5 um, the third of 0.65 um (the tables do not
    tell, the slides' resolution tags do). Their files have each of `KIDNEY_LAYOUTS` in turn, as BigTIFF where needed.
    A slide depends on the seed, its split, its place and the options alone. What is already there is replaced. A run
    that was interrupted leaves no tables and no part of a file under its name: start it again.

    Args:
        root: Folder to fill; made if missing.
        num_train: Count of train slides, at least 1.
        num_test: Count of test slides, at least 1.
        seed: Same seed and options, same bytes. Not negative.
        max_side: Longest side of a slide in pixels, at least 64, where `shape_hw` is not given.
        shape_hw: Height and width of all slides, at least 64 each.
        shrink: Size of objects over their real size; without it the longest side over 10000, from 0.2 to 1.
        shifted_truth_yx: The first test slide's truth is moved by so many pixels, as one was on Kaggle.
        planted: Its artefacts and JPEG traces; without it at a modest rate. Faults and habits are not for these slides.
        truth_path: Where the truth of the test slides goes (id, encoding), outside `root`; default ROOT_truth.csv.
        progress: Show progress bars.
        num_workers: Spawned processes that draw; 0 draws in this one.

    Returns:
        The key.

    Raises:
        ValueError: A count or size is not possible, or the truth would lie inside the folder.
    """
    truth_path = truth_path_of(root, truth_path)
    planted = planted or Planted()
    _refuse_bad_request(num_train, num_test, seed, shape_hw or (max_side, max_side), shrink)
    if planted.faults or planted.lumen_excluded or planted.thin_labels:
        raise ValueError("planted: faults and habits are of make_hubmap_2022 only; leave them out for kidney slides")
    plans = []
    for split, count in ((TRAIN, num_train), (TEST, num_test)):
        shapes = [shape_hw] * count if shape_hw else draw_kidney_shapes(seed, split, count, max_side)
        plans += plan_kidneys(seed, split, shapes, shrink=shrink, planted=planted)
    plans[num_train] = replace(plans[num_train], shift_yx=shifted_truth_yx)
    begin_folder(root, ("train.csv", "sample_submission.csv", KIDNEY_INFORMATION), truth_path)
    work = partial(_make_kidney, root, seed, progress and num_workers == 0)
    slides = run_jobs(work, plans, num_workers=num_workers, progress=progress, description="synthetic kidneys")
    rows = [slide.row for slide in slides]
    _write_tables(root, truth_path, rows[:num_train], rows[num_train:])
    logger.info("synthetic kidney competition: %d train and %d test slides in %s", num_train, num_test, root)
    donors = tuple({plan.id: plan.patient for plan in part} for part in (plans[:num_train], plans[num_train:]))
    return folder_key(root, truth_path, seed, donors, slides)


def _refuse_bad_request(
    num_train: int, num_test: int, seed: int, shape_hw: tuple[int, int], shrink: float | None
) -> None:
    shortest = ("sides: the shorter", min(shape_hw), KIDNEY_LEAST_SIDE_PX)
    refuse_less(("num_train", num_train, 1), ("num_test", num_test, 1), ("seed", seed, 0), shortest)
    if shrink is not None and not 0 < shrink <= 1:
        raise ValueError(f"shrink={shrink} must be more than 0 and at most 1")


def _make_kidney(root: Path, seed: int, progress: bool, plan: KidneyPlan) -> WrittenImage:
    """Draw and write one slide and its polygons."""
    slide = SyntheticSlide(plan.spec)
    encoder = RunEncoder(slide.shape_hw)

    def bands() -> Iterator[tuple[slice, np.ndarray]]:
        total = -(-slide.shape_hw[0] // BAND_ROWS)
        for rows, picture in tqdm(
            slide.bands(BAND_ROWS), desc=plan.id, total=total, unit="band", leave=False, disable=not progress
        ):
            encoder.add(picture.mask_HW)
            yield rows, picture.image_HWC

    folder = root / ("train" if plan.split == TRAIN else "test")
    path = folder / f"{plan.id}.tiff"
    write_tiff_bands(path, slide.shape_hw, bands(), plan.layout, pixel_size_um=plan.spec.pixel_size_um)
    runs = encoder.runs()
    zones = zone_polygons(slide.zones)
    write_bytes_atomically(folder / f"{plan.id}-anatomical-structure.json", annotation_json(zones))
    if plan.split == TRAIN:
        write_bytes_atomically(
            folder / f"{plan.id}.json", annotation_json({"glomerulus": [[ring] for ring in runs_rings(runs)]})
        )
    encoding, clean_rle = runs_to_text(runs), ""
    planted: tuple[PlantedFault, ...] = ()
    if plan.shift_yx != (0, 0):
        dy, dx = plan.shift_yx
        clean_rle, encoding = encoding, runs_to_text(shifted_runs(runs, dy, dx))
        planted = (PlantedFault(kind="shifted_truth", numbers={"dy": dy, "dx": dx}),)
    row = {"id": plan.id, "encoding": encoding, **_information(seed, plan, zones)}
    places = artefact_places(slide.artefact_regions)
    return WrittenImage(row=row, clean_rle=clean_rle, planted=planted, artefacts=places)


def _information(seed: int, plan: KidneyPlan, zones: Mapping[str, Sequence[Polygon]]) -> dict[str, str]:
    """The slide's row of dataset_information.csv; a slide without zones counts as all cortex."""
    areas = {name: sum(polygon_area(polygon) for polygon in polygons) for name, polygons in zones.items()}
    total = sum(areas.values())
    medulla = round(100 * areas.get("Medulla", 0.0) / total) if total else 0
    return {
        "image_file": f"{plan.id}.tiff",
        "width_pixels": str(plan.spec.shape_hw[1]),
        "height_pixels": str(plan.spec.shape_hw[0]),
        "anatomical_structures_segmentation_file": f"{plan.id}-anatomical-structure.json",
        "glomerulus_segmentation_file": f"{plan.id}.json",
        "percent_cortex": str(100 - medulla),
        "percent_medulla": str(medulla),
    } | patient_facts(seed, plan)


def _write_tables(root: Path, truth_path: Path, train: list[Row], test: list[Row]) -> None:
    write_table(root / KIDNEY_INFORMATION, KIDNEY_INFORMATION_COLUMNS, [*train, *test])
    write_table(root / "sample_submission.csv", ("id", "predicted"), [row | {"predicted": ""} for row in test])
    write_table(root / "train.csv", ("id", "encoding"), train)
    write_table(truth_path, ("id", "encoding"), test)
