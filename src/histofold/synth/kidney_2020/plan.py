"""Which slides a synthetic competition of 2020 has: ids, patients, sizes, layouts.

Every choice about a slide depends on the seed, its split and its place: more slides never change those that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from histofold.synth.drawing.slide import SlideSpec
from histofold.synth.drawing.tissue import draw_stain
from histofold.synth.files import random_stream
from histofold.synth.hubmap_2022.options import Planted
from histofold.synth.hubmap_2022.plan import DONORS, LEAST_SHRINK, LOOKS, TEST, donor_place, draw_looks
from histofold.synth.kidney_2020.files import KIDNEY_LAYOUTS

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
