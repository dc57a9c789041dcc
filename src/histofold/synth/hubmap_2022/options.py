"""What may be asked of a synthetic competition of 2022: where its images come from, and what is planted in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from histofold.synth.drawing.slide import ARTEFACTS
from histofold.synth.hubmap_2022.faults import ROW_CHANGES
from histofold.synth.hubmap_2022.habits import MASK_CHANGES

Value = TypeVar("Value", str, float)

SYNTH_ORGANS = ("kidney", "largeintestine", "lung", "spleen", "prostate")
COPY_FAULTS = ("near_duplicate", "near_duplicate_other_patient")
HABITS = ("lumen_excluded", "thin_labels")
DRAWING_FAULTS = tuple(kind for kind in MASK_CHANGES if kind not in HABITS)
ENCODING_FAULTS = ("transposed", "row_major")
TABLE_FAULTS = tuple(ROW_CHANGES)
FILE_FAULTS = ("truncated_image", "header_only_image", "missing_image")
TRAIN_FAULTS = COPY_FAULTS + DRAWING_FAULTS + ENCODING_FAULTS + TABLE_FAULTS + FILE_FAULTS

FIELD_PIXEL_UM = 0.4
"""Pixel size of HPA; images of other pixel sizes are as much smaller or larger as keeps the field."""


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Where images come from: their stain and scale. Each but the name is one value, or one an organ."""

    name: str
    """As in the column data_source."""
    stain: str | Mapping[str, str] = "dab"
    """Dab, eosin or pas."""
    pixel_size_um: float | Mapping[str, float] = FIELD_PIXEL_UM
    """Side of a pixel."""
    thickness_um: float | Mapping[str, float] = 4.0
    """Of the section."""

    def __post_init__(self) -> None:
        for name in ("stain", "pixel_size_um", "thickness_um"):
            value = getattr(self, name)
            missing = sorted(set(SYNTH_ORGANS) - set(value)) if isinstance(value, Mapping) else []
            if missing:
                raise ValueError(f"{name} of source {self.name}: add {', '.join(missing)}")

    def of_organ(self, organ: str) -> tuple[str, float, float]:
        """Stain, pixel size and thickness of an organ's images."""
        return _of(self.stain, organ), _of(self.pixel_size_um, organ), _of(self.thickness_um, organ)


def _of(value: Value | Mapping[str, Value], organ: str) -> Value:
    return value[organ] if isinstance(value, Mapping) else value


HPA = ImageSource(name="HPA")
HUBMAP = ImageSource(
    name="Hubmap",
    stain={"kidney": "pas", "largeintestine": "eosin", "lung": "eosin", "spleen": "eosin", "prostate": "eosin"},
    pixel_size_um={"kidney": 0.5, "largeintestine": 0.229, "lung": 0.7562, "spleen": 0.4945, "prostate": 6.263},
    thickness_um={"kidney": 10.0, "largeintestine": 8.0, "lung": 5.0, "spleen": 4.0, "prostate": 5.0},
)


@dataclass(frozen=True, kw_only=True)
class Planted:
    """What is planted in the images of a folder. Faults and habits are of train images only, test truth is clean."""

    faults: Mapping[str, float] = field(default_factory=dict)
    """Share of the train images for each kind of `TRAIN_FAULTS`, together at most 1: an image has one fault at most. A
    share is kept to the image as far as images allow it: a kind that an image has no room for (a copy needs an
    earlier image of its donor, blank_labelled needs glass) is planted in a later one or not at all."""
    strength: float = 1.0
    """Factor of the lengths of drawing faults, more than 0."""
    lumen_excluded: float | Mapping[str, float] = 0.0
    """Share of the train images whose annotator left lumens out: one number, or one an organ. The polygons have no
    holes and keep them."""
    thin_labels: float | Mapping[str, float] = 0.0
    """Share whose annotator stayed inside the border, likewise."""
    artefacts: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(ARTEFACTS, 0.05))
    """Probability of each kind of `histofold.synth.drawing.slide.ARTEFACTS` in an image of either split."""
    jpeg: float = 0.4
    """Probability that an image of either split bears traces of JPEG compression."""

    def __post_init__(self) -> None:
        for name, known in (("faults", TRAIN_FAULTS), ("artefacts", ARTEFACTS)):
            unknown = sorted(set(getattr(self, name)) - set(known))
            if unknown:
                raise ValueError(f"{name}: {', '.join(unknown)} not known; there are {', '.join(known)}")
        shares = {**self.faults, **self.artefacts, "jpeg": self.jpeg, "faults together": sum(self.faults.values())}
        for habit in HABITS:
            rates = getattr(self, habit)
            shares |= {habit: rates} if isinstance(rates, (int, float)) else rates
        wrong = [name for name, share in shares.items() if not 0 <= share <= 1 + 1e-9]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: a share must be from 0 to 1")
        if not self.strength > 0:
            raise ValueError(f"strength={self.strength} must be more than 0")
