"""What a folder is asked to hold: its sources and what is planted in images, rows and files."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import cv2
import numpy as np
import tifffile

from histofold.competitions.hidden import HIDDEN_SLIDES, TRAINING_THICKNESS_UM
from histofold.core.rle.runs import Runs
from histofold.synth.drawing.slide import ARTEFACTS, Picture
from histofold.synth.files import Numbers, PlantedFault, Row
from histofold.synth.hubmap_2022.habits import MASK_CHANGES

_BAD_PIXEL_SIZES = ("0", "-0.4", "nan", "")
_RESCAN_SHIFT = (0.004, 0.015)  # of the shorter side


def rescanned(rng: np.random.Generator, picture: Picture) -> tuple[Picture, Numbers]:
    """The same glass scanned again: moved by some pixels, other focus, brightness and compression.

    Returns:
        The second scan, a little smaller, and what was done: pixel (y, x) shows the first scan's (y + top, x + left).
    """
    reach = min(picture.mask_HW.shape)
    top, left = (max(1, round(reach * rng.uniform(*_RESCAN_SHIFT))) for _ in range(2))
    if not picture.mask_HW[top:, left:].any():  # the only unit lies at the border: then nothing is moved
        top, left = 0, 0
    moved = picture[slice(top, None), slice(left, None)]
    gain, blur_px, quality = rng.uniform(0.93, 1.05), rng.uniform(0.4, 0.9), int(rng.integers(60, 90))
    image_HWC = cv2.GaussianBlur(moved.image_HWC, (0, 0), blur_px)
    image_HWC = cv2.convertScaleAbs(image_HWC, alpha=gain)
    done, encoded = cv2.imencode(".jpg", image_HWC[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "OpenCV refused an array that JPEG can hold"
    image_HWC = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    numbers = {
        "top": top,
        "left": left,
        "blur_px": round(blur_px, 3),
        "gain": round(gain, 3),
        "jpeg_quality": quality,
    }
    return replace(moved, image_HWC=image_HWC), numbers


def broken_row(rng: np.random.Generator, row: Row, runs: Runs, kind: str) -> tuple[Row, PlantedFault]:
    """Plant a fault of the table, a key of `ROW_CHANGES`, in a row; gives the row and what was done."""
    cells = ROW_CHANGES[kind](rng, row, runs)
    numbers = {column: cell for column, cell in cells.items() if column != "rle"}
    return {**row, **cells}, PlantedFault(kind=kind, numbers=numbers)


def broken_file(rng: np.random.Generator, content: bytes, kind: str) -> tuple[bytes | None, PlantedFault]:
    """Plant a fault of an image file; gives its bytes, None for no file, and what was done."""
    if kind == "missing_image":
        return None, PlantedFault(kind=kind)
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        first = min(tiff.pages[0].dataoffsets)
    # The directory stands before the pixels, so that what is left has a whole header.
    kept = first if kind == "header_only_image" else first + round((len(content) - first) * rng.uniform(0.2, 0.8))
    return content[:kept], PlantedFault(kind=kind, numbers={"bytes": kept, "of": len(content)})


def _odd(rng: np.random.Generator, row: Row, runs: Runs) -> Row:
    """A number is missing at the end."""
    return {"rle": row["rle"].rsplit(" ", 1)[0]}


def _unsorted(rng: np.random.Generator, row: Row, runs: Runs) -> Row:
    """Two neighbouring pairs have changed places; of a single run both halves."""
    starts, lengths = runs.starts + 1, runs.lengths
    if len(runs) == 1:
        half = int(lengths[0]) // 2
        if half == 0:
            return {"rle": f"{row['rle']} {row['rle']}"}
        starts, lengths = np.array([starts[0], starts[0] + half]), np.array([half, lengths[0] - half])
    at = int(rng.integers(len(starts) - 1))
    pairs = [f"{start} {length}" for start, length in zip(starts, lengths, strict=True)]
    pairs[at], pairs[at + 1] = pairs[at + 1], pairs[at]
    return {"rle": " ".join(pairs)}


def _out_of_range(rng: np.random.Generator, row: Row, runs: Runs) -> Row:
    beyond = runs.shape_hw[0] * runs.shape_hw[1] + 1 + int(rng.integers(1000))
    return {"rle": f"{row['rle']} {beyond} {int(rng.integers(1, 50))}"}


def _swapped_size(rng: np.random.Generator, row: Row, runs: Runs) -> Row:
    """Height and width have changed places (a square image: one pixel too many), so that the runs still fit."""
    if row["img_height"] == row["img_width"]:
        return {"img_height": str(int(row["img_height"]) + 1)}
    return {"img_height": row["img_width"], "img_width": row["img_height"]}


def _bad_pixel_size(rng: np.random.Generator, row: Row, runs: Runs) -> Row:
    return {"pixel_size": str(rng.choice(_BAD_PIXEL_SIZES))}


ROW_CHANGES: Mapping[str, Callable[[np.random.Generator, Row, Runs], Row]] = {
    "odd_rle": _odd,
    "unsorted_rle": _unsorted,
    "rle_out_of_range": _out_of_range,
    "no_rle": lambda rng, row, runs: {"rle": ""},
    "wrong_size": _swapped_size,
    "bad_pixel_size": _bad_pixel_size,
    "unknown_organ": lambda rng, row, runs: {"organ": "liver"},
    # Its cells are right; the table holds the row twice.
    "duplicate_id": lambda rng, row, runs: {},
}


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
    thickness_um: float | Mapping[str, float] = TRAINING_THICKNESS_UM
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
    pixel_size_um={organ: hidden.pixel_size_um for organ, hidden in HIDDEN_SLIDES["hubmap_2022"].items()},
    thickness_um={organ: hidden.thickness_um for organ, hidden in HIDDEN_SLIDES["hubmap_2022"].items()},
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
