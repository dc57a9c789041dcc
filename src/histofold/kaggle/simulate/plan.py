"""Which images a fake hidden set has, and what is planted in which: all of it depends on the seed alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from histofold.core.faults import Fault, InputError

UNREADABLE = ("text", "empty file", "truncated", "header only", "claims too much", "missing", "name too long")
"""Images that nobody can read: their rows must be fallback rows."""
TABLE_ODDITIES = ("unknown organ", "no row", "no pixel size", "wrong size", "odd id")
SHAPE_ODDITIES = ("one pixel", "thin")
LAYOUT_ODDITIES = ("planar", "5-D", "pages", "grey", "RGBA", "16-bit", "PNG")
IMAGE_FAULTS = (*UNREADABLE, *TABLE_ODDITIES, *SHAPE_ODDITIES, *LAYOUT_ODDITIES, "duplicate", "blank")
"""What may be planted in an image; each but those of `UNREADABLE` must still be predicted."""
SET_FAULTS = (
    "no table",
    "a column is missing",
    "line ends of Windows",
    "images that are not listed",
    "another competition beside it",
)
PLAIN_LAYOUTS = ("strips", "lzw", "deflate tiles", "jpeg tiles")
ODD_IDS = (
    *("007", "1e5", "a b", "p.q", "x,y", "nan", "NA", "-5", "=1+1", "\u00e4\u00f6", 'quo"te', "0x1F", "True", "1.0"),
)
HIDDEN_FIELD_PIXEL_UM = 0.4
"""Images of coarser pixels are as much smaller as keeps the largest field."""


class Look(NamedTuple):
    """Where an image comes from: its organ and source as in the tables, its stain as what draws it calls it."""

    organ: str
    source: str
    stain: str
    pixel_size_um: float


@dataclass(frozen=True, kw_only=True)
class HiddenImage:
    """One image of the set."""

    id: str
    """As in the tables."""
    number: int
    """Its place when it was planned."""
    shape_hw: tuple[int, int]
    """Height and width in pixels."""
    look: Look
    """Where it comes from."""
    layout: str
    """Of the file."""
    fault: str = ""
    """Of `IMAGE_FAULTS`, or empty."""
    original: str = ""
    """The id of the image whose file a duplicate has."""


@dataclass(frozen=True, kw_only=True)
class HiddenSet:
    """A fake hidden set."""

    images: tuple[HiddenImage, ...]
    """In the order of sample_submission.csv."""
    faults: tuple[str, ...]
    """Of `SET_FAULTS`."""

    def unreadable(self) -> dict[str, str]:
        """For each image that must have a fallback row, why."""
        return {image.id: image.fault for image in self.images if image.fault in UNREADABLE}


@dataclass(frozen=True, kw_only=True)
class HiddenOptions:
    """What a fake hidden set is asked to be."""

    images: int = 20
    """How many."""
    smallest: int = 160
    """Shortest side in pixels."""
    largest: int = 4500
    """Longest side in pixels."""
    faults: float = 0.1
    """Share of the images that something is planted in, and probability of each fault of the whole set."""
    seed: int = 0
    """Not negative."""

    def __post_init__(self) -> None:
        rules = {
            "images": (self.images >= 0, "must not be negative"),
            "smallest": (self.smallest >= 1, "must be at least 1 pixel"),
            "largest": (self.largest >= self.smallest, f"must be at least smallest={self.smallest}"),
            "faults": (0 <= self.faults <= 1, "must be a share from 0 to 1"),
            "seed": (self.seed >= 0, "must not be negative"),
        }
        wrong = {name: rule for name, (holds, rule) in rules.items() if not holds}
        if wrong:
            remedy = "give another number"
            raise InputError(
                [Fault(name, f"{name}={getattr(self, name)}", rule, remedy) for name, rule in wrong.items()]
            )


@dataclass(frozen=True, kw_only=True)
class SimulateRequest:
    """What `histofold simulate` is asked for."""

    weights: Path
    """Folder that `histofold package` filled."""
    competition: str = ""
    """Name of the adapter; the manifest's where it is not given."""
    kernel: Path | None = None
    """kernel.py or its folder; else it is bundled from the package."""
    organs: tuple[str, ...] = ()
    """Organs of the images; all that the competition has where none are given."""
    limit_s: float = 9 * 3600.0
    """Seconds that the kernel may take."""
    out: Path = Path("simulation")
    """Where all is written; an earlier simulation there is replaced."""
    hidden: HiddenOptions = field(default_factory=HiddenOptions)
    """The set."""

    def __post_init__(self) -> None:
        if not 0 < self.limit_s < math.inf:
            raise ValueError(f"--limit-s {self.limit_s:g} must be a positive number of seconds")


def plan_hidden(options: HiddenOptions, looks: Sequence[tuple[str, str, str, float]]) -> HiddenSet:
    """Plan a set whose images come from each look in turn.

    Raises:
        InputError: If there are no looks.
    """
    if not looks:
        raise InputError([Fault("organs", "command line", "no organ is left", "name one of the competition's")])
    rng = np.random.default_rng([options.seed, 0])
    odd_ids = iter(rng.permutation(ODD_IDS).tolist())
    planned: list[HiddenImage] = []
    for number in range(options.images):
        look = Look(*looks[number % len(looks)])
        fault = str(rng.choice(IMAGE_FAULTS)) if rng.random() < options.faults else ""
        image = HiddenImage(
            id=str(10_000 + 7 * number),
            number=number,
            shape_hw=_draw_shape(rng, options, look),
            look=look,
            layout=str(rng.choice(PLAIN_LAYOUTS)),
        )
        planned.append(_with_fault(rng, image, fault, planned, next(odd_ids, "") if fault == "odd id" else ""))
    order = rng.permutation(len(planned))
    set_faults = tuple(fault for fault in SET_FAULTS if rng.random() < options.faults)
    return HiddenSet(images=tuple(planned[place] for place in order), faults=set_faults)


def _draw_shape(rng: np.random.Generator, options: HiddenOptions, look: Look) -> tuple[int, int]:
    """Height and width, small ones as often as large ones, seldom equal."""
    of_field = round(options.largest * min(1, HIDDEN_FIELD_PIXEL_UM / look.pixel_size_um))
    longest = min(options.largest, max(2 * options.smallest, of_field))
    height, width = np.exp(rng.uniform(math.log(options.smallest), math.log(longest), 2)).round().astype(int).tolist()
    return height, width


def _with_fault(
    rng: np.random.Generator, image: HiddenImage, fault: str, before: Sequence[HiddenImage], odd_id: str
) -> HiddenImage:
    """The image with what is planted in it; without, where there is no earlier image to copy or no odd id left."""
    if fault == "duplicate":
        whole = [other for other in before if other.fault == ""]
        if not whole:
            return image
        other = whole[int(rng.integers(len(whole)))]
        return replace(other, id=image.id, number=image.number, fault=fault, original=other.id)
    if fault == "odd id":
        return replace(image, id=odd_id, fault=fault) if odd_id else image
    if fault == "one pixel":
        return replace(image, shape_hw=(1, 1), fault=fault, layout="strips")
    if fault == "thin":
        sides = int(rng.integers(1, 5)), max(image.shape_hw)
        return replace(image, shape_hw=sides if rng.random() < 0.5 else sides[::-1], fault=fault, layout="strips")
    if fault in LAYOUT_ODDITIES:
        return replace(image, layout=fault, fault=fault)
    if fault == "name too long":  # longer than any file system takes
        return replace(image, id=f"{image.id}{'x' * 300}", fault=fault)
    if fault in ("truncated", "header only", "claims too much"):
        return replace(image, layout="strips", fault=fault)
    return replace(image, fault=fault)
