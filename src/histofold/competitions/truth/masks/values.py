"""What the values of masks mean: decided over all masks of a folder, by one stated rule, or refused in words.

Black is background: of grey values, of colours, and of a palette by its colours. Where alpha differs from pixel to
pixel, what is transparent is background too; where it is all that differs, it is the mask. Soft edges, as resizing and
JPEG leave them, are cut at half of white. All other values than black are mask, unless they could mean something else:
then folder.toml must say what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from histofold.competitions.truth.masks.facts import (
    FEW_VALUES,
    MOST_CLASSES,
    NEAR,
    MaskFacts,
    Transparency,
    mask_brightness,
    mask_white,
)
from histofold.competitions.truth.masks.files import MaskFile
from histofold.core.faults import image_fault

MAX_FLAT = 0.3
"""Edges are soft if a smaller share of what is between black and white equals its right and its lower neighbour."""
MAX_BETWEEN = 0.5
"""A larger share of pixels that are neither black nor white, and not even, is no edge."""
_TRANSPARENT = {
    "background": "what is transparent is background",
    "mask": "alpha, which is all that differs, is the mask",
}


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """folder.toml, beside images/: what the values of the masks mean, where that cannot be seen from them."""

    mask_values: tuple[float, ...] = ()
    """Values of mask pixels, all others are background; with classes.txt that of each class in turn. Palettes count by
    index. Empty: decided from the masks."""
    task: Literal["masks", "instances"] = "masks"
    """Whether masks are wanted, or the single objects that the truth keeps apart (`truth/instances`)."""
    ignore_value: float | None = None
    """Value of pixels that neither training nor a score counts, as 255 for void; None where there are none."""

    def __post_init__(self) -> None:
        if self.ignore_value is not None and self.ignore_value in self.mask_values:
            raise ValueError(f"ignore_value {self.ignore_value:g} is among mask_values: it is either")


@dataclass(frozen=True, kw_only=True)
class MaskReading:
    """How the masks of a folder are read."""

    transparency: Transparency = ""
    """What alpha means: nothing, that the transparent is background, or that alpha is the mask."""
    is_soft: bool = False
    """Whether values are cut at half of white; else all but black (and negative values) is mask."""
    settings: MaskSettings = MaskSettings()
    """What folder.toml says."""
    words: str = ""
    """What was decided that a user should know, if anything."""

    def read(self, mask: MaskFile) -> tuple[np.ndarray, np.ndarray | None]:
        """The mask, bool (H, W), and the pixels that do not count where there are any.

        Raises:
            ImageError: If settings ask for values that the file does not hold as such.
        """
        ignored_HW = ignored_pixels(mask, self.settings)
        if self.settings.mask_values:
            mask_HW: np.ndarray = np.isin(exact_numbers(mask), self.settings.mask_values)
        elif self.is_soft:
            mask_HW = mask_brightness(mask, self.transparency) >= mask_white(mask) / 2
        else:
            mask_HW = mask_brightness(mask, self.transparency) > 0
        return (mask_HW if ignored_HW is None else mask_HW & ~ignored_HW), ignored_HW


def exact_numbers(mask: MaskFile) -> np.ndarray:
    """The numbers that a mask stores, where they are those that were saved.

    Raises:
        ImageError: If it is a JPEG or a colour image.
    """
    if mask.is_lossy:
        rule = "a JPEG does not keep values: labels, and those of folder.toml, cannot be read from it"
        raise image_fault(mask.path, rule, "export the mask as PNG or TIFF")
    return mask.numbers()


def ignored_pixels(mask: MaskFile, settings: MaskSettings) -> np.ndarray | None:
    """The pixels of a mask that do not count, bool (H, W); None where there are none."""
    if settings.ignore_value is None:
        return None
    ignored_HW: np.ndarray = exact_numbers(mask) == settings.ignore_value
    return ignored_HW if ignored_HW.any() else None


def decide_reading(
    facts: Sequence[MaskFacts], settings: MaskSettings, transparency: Transparency = ""
) -> tuple[MaskReading, str]:
    """How the masks of a folder are read, or why that cannot be known.

    Args:
        facts: Of each mask, as `transparency` and `ignore_value` have it.
        settings: What folder.toml says.
        transparency: What alpha means.

    Returns:
        The reading, and the rule that the masks break, empty if none.
    """
    plain = MaskReading(transparency=transparency, settings=settings)
    if settings.mask_values or not facts:
        return plain, ""
    together = _Together(facts)
    words = [_TRANSPARENT[transparency]] if transparency else []
    if together.is_soft:
        words.append("soft edges are cut at half of white")
    elif together.numbers[0] < 0:
        words.append("-1 is background")
    elif together.is_mixed:
        words.append(f"each mask holds one value beside 0, of {_listed(together.held)}: all are mask")
    elif together.may_be_classes:
        words.append("all colours and values are mask; where they are classes, write classes.txt, or masks/CLASS/")
    return replace(plain, is_soft=together.is_soft, words="; ".join(words)), together.doubt()


class _Together:
    """The values of all masks of a folder."""

    def __init__(self, facts: Sequence[MaskFacts]) -> None:
        self._facts = facts
        self.numbers = np.unique(np.concatenate([fact.numbers.astype(float) for fact in facts]))
        self.held = self.numbers[self.numbers > 0]
        self._values = np.unique(np.concatenate([fact.values for fact in facts]))
        self._between = sum(fact.between for fact in facts)
        self._has_soft_edges = sum(fact.flat for fact in facts) < MAX_FLAT * self._between or self._between == 0
        self._is_whole = bool((self.numbers == np.round(self.numbers)).all())
        self._has_white = bool(self._values[-1] >= 1 - NEAR)
        self._is_hard = all(fact.is_hard for fact in facts)

    @property
    def is_soft(self) -> bool:
        """Whether values are cut at half of white."""
        if self.numbers[0] < 0:
            return False
        if not self._has_white:
            return not self._is_whole and bool(self._values[-1] >= 0.5)
        if self._is_hard:
            return len(self._values) > 2
        return self._has_soft_edges or (len(self._values) == 2 and bool(self._values[0] <= NEAR))

    @property
    def is_mixed(self) -> bool:
        """Whether masks differ in the one value that each holds beside black."""
        return self._has_white and len(self.held) > 1 and all((fact.numbers > 0).sum() <= 1 for fact in self._facts)

    @property
    def may_be_classes(self) -> bool:
        """Whether most masks hold the same few values, or a few colours, as those of classes and not of objects do."""
        shares = [max(fact.hues > 1, (fact.numbers > 0).sum() / max(1, len(self.held))) for fact in self._facts]
        may_differ = any(fact.hues > 1 for fact in self._facts) or (len(self.held) > 1 and self._is_whole)
        return may_differ and len(shares) > 1 and len(self.held) <= MOST_CLASSES and 2 * sum(shares) > len(shares)

    def doubt(self) -> str:
        """Why it cannot be known what the values mean; empty if it can."""
        if any(fact.has_void for fact in self._facts):
            return "the index 255 stands beside a few others: is it void?"
        if self.numbers[0] < 0:
            is_known = len(self.numbers) == 2 and self.numbers[0] == -1
            return "" if is_known else f"they hold {_listed(self.numbers)}: is the negative value background or void?"
        return (self._doubt_with_white() if self._has_white else self._doubt_without_white()) or self._doubt_of_black()

    def _doubt_without_white(self) -> str:
        most = f"{self.numbers[-1]:g}"
        if any(fact.is_lossy for fact in self._facts) and self._values[-1] > NEAR:
            return f"JPEGs of values up to {most}: labels cannot be distinguished from noise"
        has_many = not self._is_whole or (self._has_soft_edges and len(self.numbers) > FEW_VALUES)
        return f"soft edges of values up to {most}: where is half?" if has_many and not self.is_soft else ""

    def _doubt_with_white(self) -> str:
        if self._has_soft_edges and self._between > MAX_BETWEEN * sum(fact.pixels for fact in self._facts):
            return "most pixels are neither black nor white: are they pictures, and not masks?"
        follow_each_other = len(self.held) == int(self.held[-1] - self.held[0]) + 1
        are_objects = self._is_whole and (len(self.held) > FEW_VALUES or follow_each_other)
        if self._is_hard or self.is_soft or self.is_mixed or are_objects or any(fact.colours for fact in self._facts):
            return ""
        return f"they hold {_listed(self.numbers)}: which of them are mask, and is {self.numbers[-1]:g} void?"

    def _doubt_of_black(self) -> str:
        """Masks none of which has a black pixel, while their values differ and are not cut at half."""
        is_one = len(self.numbers) == 1 and all(fact.colours < 2 for fact in self._facts)
        if self.numbers[0] == 0 or is_one or (self.is_soft and not self._is_hard):
            return ""
        return f"none holds 0 or black, and they hold {_listed(self.numbers)}: which is background?"


def _listed(numbers: np.ndarray) -> str:
    texts = [f"{number:g}" for number in numbers]
    return ", ".join(texts if len(texts) <= 6 else [*texts[:4], "...", texts[-1]])


def read_class_labels(
    mask: MaskFile, classes: int, settings: MaskSettings
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """A label image as one mask a class: 0 is background, k the k-th class, or what `mask_values` says.

    Args:
        mask: An image of one grey value or index a pixel; alpha does not count.
        classes: Number of classes.
        settings: What folder.toml says.

    Returns:
        bool (H, W) of each class, and the pixels that do not count where there are any.

    Raises:
        ImageError: If it is a JPEG or a colour image, or holds a value that is no class; or if `mask_values` are not
            as many as there are classes.
    """
    labels_HW = exact_numbers(mask)
    values = settings.mask_values or tuple(range(1, classes + 1))
    if len(values) != classes:
        rule = f"folder.toml has {len(values)} mask_values, and classes.txt {classes} classes"
        raise image_fault(mask.path, rule, "write a value for each class, in the order of classes.txt")
    known = np.isin(labels_HW, [0, *values, *([] if settings.ignore_value is None else [settings.ignore_value])])
    if not known.all():
        held = f"0 to {classes} are known" if not settings.mask_values else "folder.toml does not name it"
        rule = f"holds the value {labels_HW[~known][0]}, and there are {classes} classes: {held}"
        remedy = "name the class in classes.txt, write it as ignore_value in folder.toml, or correct the mask"
        raise image_fault(mask.path, rule, remedy)
    return [labels_HW == value for value in values], ignored_pixels(mask, settings)
