"""Which images a synthetic competition of 2022 has: ids, donors, sources, and what is planted in which.

Every choice about an image depends on the seed, its split, its place and what stands before it: more images never
change those that are there already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from histofold.synth.drawing.slide import ARTEFACTS, SlideSpec
from histofold.synth.drawing.tissue import draw_stain
from histofold.synth.files import random_stream
from histofold.synth.hubmap_2022.options import COPY_FAULTS, FIELD_PIXEL_UM, HABITS, SYNTH_ORGANS, ImageSource, Planted

REAL_SIDE_PX = 3000
LEAST_SHRINK = 0.2
LEAST_SIDE_PX = 160
ID_RANGE = (40_000, 100_000)
_JPEG_QUALITY = (72, 95)
# First words of the keys of random streams: one stream a purpose, so that no draw moves another.
_IDS, DONORS, TRAIN, TEST, QUOTAS, LOOKS, FAULTS = range(7)


@dataclass(frozen=True, kw_only=True)
class PlannedImage:
    """One image before it is drawn."""

    id: str
    """As in the tables."""
    index: int
    """Place in its split."""
    split: int
    """`TRAIN` or `TEST`."""
    source: str
    """Name of its source."""
    donor: str
    """Name of the donor that its row says."""
    true_donor: str
    """Name of the donor whose tissue it shows."""
    spec: SlideSpec
    """What it shows; that of the original for a near-copy."""
    fault: str = ""
    """Of `TRAIN_FAULTS`, or empty."""
    habits: tuple[str, ...] = ()
    """Of `HABITS`."""
    other: PlannedImage | None = None
    """The image that it is a copy of or has the mask of, else None."""


class Quota:
    """Deals out kinds so that each keeps its share all along: debts grow by the shares, the largest one is paid.

    Args:
        shares: Share of each kind.
        debts: What is owed to each kind at the start, 0 to 1.
    """

    def __init__(self, shares: Mapping[str, float], debts: Mapping[str, float]) -> None:
        self._shares = dict(shares)
        self._debts = {kind: debts[kind] for kind in shares}

    def draw(self, allowed: Sequence[str]) -> str:
        """The kind of the next image, or "" where none is due that the image allows."""
        for kind, share in self._shares.items():
            self._debts[kind] += share
        # A little less than 1: ten times a tenth is less than 1 in floating point.
        due = [kind for kind, debt in self._debts.items() if debt > 1 - 1e-9 and self._shares[kind] and kind in allowed]
        if not due:
            return ""
        kind = max(due, key=lambda name: self._debts[name])
        self._debts[kind] -= 1
        return kind


def donor_place(index: int) -> int:
    """Donor of an image by its place: two images, then three, then two..."""
    return 2 * (index // 5) + (index % 5 >= 2)


def donor_facts(seed: int, split: int, donor: int) -> dict[str, str]:
    """Age and sex. Every second donor is male, since the third image of his is prostate."""
    rng = random_stream(seed, DONORS, split, donor, 1)
    age, female = rng.integers(20, 85), rng.random() < 0.5 and donor % 2 == 0
    return {"age": f"{age:.1f}", "sex": "Female" if female else "Male"}


def plan_splits(
    seed: int, counts: tuple[int, int], max_side: int, sources: tuple[tuple[ImageSource, ...], ...], planted: Planted
) -> tuple[list[PlannedImage], list[PlannedImage]]:
    """Plan both splits, train and test; the sources of each are taken in turn."""
    ids = random_stream(seed, _IDS).permutation(np.arange(*ID_RANGE))
    # One split from each end: more images of one do not change the ids of the other.
    numbers = ids[: counts[0]], ids[::-1][: counts[1]]
    train, test = (
        [
            _plan_slide(seed, split, (index, int(number)), max_side, of_split[index % len(of_split)], planted)
            for index, number in enumerate(numbers_of_split)
        ]
        for split, numbers_of_split, of_split in zip((TRAIN, TEST), numbers, sources, strict=True)
    )
    return _with_faults(seed, train, planted), test


def _plan_slide(
    seed: int, split: int, place: tuple[int, int], max_side: int, source: ImageSource, planted: Planted
) -> PlannedImage:
    index, number = place
    organ = SYNTH_ORGANS[index % len(SYNTH_ORGANS)]
    stain, pixel_size_um, thickness_um = source.of_organ(organ)
    artefacts, quality = draw_looks(random_stream(seed, LOOKS, split, number), planted)
    donor = f"{'P' if split == TRAIN else 'T'}{donor_place(index) + 1:02d}"
    spec = SlideSpec(
        key=(seed, split, number),
        organ=organ,
        stain=draw_stain(random_stream(seed, DONORS, split, donor_place(index)), stain),
        shape_hw=draw_shape(random_stream(seed, split, number), pixel_size_um, max_side),
        pixel_size_um=pixel_size_um,
        shrink=min(max(max_side / REAL_SIDE_PX, LEAST_SHRINK), 1.0),
        thickness_um=thickness_um,
        artefacts=artefacts,
        jpeg_quality=quality,
    )
    return PlannedImage(
        id=str(number), index=index, split=split, source=source.name, donor=donor, true_donor=donor, spec=spec
    )


def draw_looks(rng: np.random.Generator, planted: Planted) -> tuple[tuple[str, ...], int]:
    """Artefacts of an image, and the quality of an earlier JPEG compression or 0."""
    artefacts = tuple(kind for kind in ARTEFACTS if rng.random() < planted.artefacts.get(kind, 0.0))
    return artefacts, int(rng.integers(*_JPEG_QUALITY)) if rng.random() < planted.jpeg else 0


def draw_shape(rng: np.random.Generator, pixel_size_um: float, max_side: int) -> tuple[int, int]:
    """Height and width: about the same field in um whatever the pixel size, within the limits of both sides."""
    long_px = max_side * rng.uniform(0.85, 1.0)
    short_px = long_px * rng.uniform(0.72, 0.96)
    factor = max(FIELD_PIXEL_UM / pixel_size_um, LEAST_SIDE_PX / short_px)
    factor = min(factor, max_side / long_px)
    sides = round(short_px * factor), round(long_px * factor)
    return sides if rng.random() < 0.5 else sides[::-1]


def _with_faults(seed: int, slides: list[PlannedImage], planted: Planted) -> list[PlannedImage]:
    """The train images with their faults and habits dealt out."""
    habits_of_organ = {
        organ: {habit: _share(getattr(planted, habit), organ) for habit in HABITS} for organ in SYNTH_ORGANS
    }
    fault_quotas = _organ_quotas(random_stream(seed, QUOTAS), dict.fromkeys(SYNTH_ORGANS, planted.faults))
    habit_quotas = [
        _organ_quotas(
            random_stream(seed, QUOTAS, 1 + at),
            {organ: {habit: shares[habit]} for organ, shares in habits_of_organ.items()},
        )
        for at, habit in enumerate(HABITS)
    ]
    done: list[PlannedImage] = []
    for slide in slides:
        organ = slide.spec.organ
        others = {kind: _others(slide, done, kind) for kind in planted.faults}
        fault = fault_quotas[organ].draw([kind for kind, found in others.items() if found is None or found])
        habits = tuple(quotas[organ].draw(HABITS) for quotas in habit_quotas)
        candidates = others.get(fault)
        other = None
        if candidates:
            other = candidates[int(random_stream(seed, FAULTS, slide.index).integers(len(candidates)))]
        done.append(_spoilt(slide, fault, tuple(filter(None, habits)), other))
    return done


def _organ_quotas(rng: np.random.Generator, shares_of_organ: Mapping[str, Mapping[str, float]]) -> dict[str, Quota]:
    """A quota an organ. Organs come in turn: one quota for all might meet the same organ every time.

    The debts at the start are a fifth apart, so that all organs together keep each share as well as each one does.
    """
    kinds = list(dict.fromkeys(kind for shares in shares_of_organ.values() for kind in shares))
    count = len(shares_of_organ)
    debts = {kind: (rng.permutation(count) + rng.random()) / count for kind in kinds}
    return {
        organ: Quota(shares, {kind: float(debts[kind][place]) for kind in kinds})
        for place, (organ, shares) in enumerate(shares_of_organ.items())
    }


def _share(shares: float | Mapping[str, float], organ: str) -> float:
    return shares.get(organ, 0.0) if isinstance(shares, Mapping) else shares


def _others(slide: PlannedImage, before: list[PlannedImage], kind: str) -> list[PlannedImage] | None:
    """The earlier images that a kind may go with: None if it needs no other, [] if it needs one and there is none."""
    if kind == "wrong_image":
        return [other for other in before if other.fault not in COPY_FAULTS]
    if kind not in COPY_FAULTS:
        return None
    # A copy is of an image without faults, so that an image's one fault is all that is wrong with it.
    same = kind == "near_duplicate"
    return [other for other in before if not other.fault and (other.donor == slide.donor) == same]


def _spoilt(slide: PlannedImage, fault: str, habits: tuple[str, ...], other: PlannedImage | None) -> PlannedImage:
    other = replace(other, other=None) if other else None  # else each would carry all those before it
    slide = replace(slide, fault=fault, habits=habits, other=other)
    if other is None or fault not in COPY_FAULTS:
        return slide
    # A copy keeps its own id and the donor of its row; all else is the original's.
    return replace(slide, source=other.source, true_donor=other.true_donor, spec=other.spec, habits=other.habits)
