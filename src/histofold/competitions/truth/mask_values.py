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

import cv2
import numpy as np

from histofold.competitions.truth.mask_files import MaskFile
from histofold.core.faults import image_fault

NEAR = 16 / 255
"""What differs from black or white by up to this share of white is near it: JPEG's noise."""
MAX_FLAT = 0.3
"""Edges are soft if a smaller share of what is between black and white equals its right and its lower neighbour."""
MOST_CLASSES = 32
"""More values than this are numbers of objects, and not of classes with a void beside them."""
_COUNTED_VALUES = 1 << 20
Transparency = Literal["", "background", "mask"]
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
    ignore_value: float | None = None
    """Value of pixels that neither training nor a score counts, as 255 for void; None where there are none."""

    def __post_init__(self) -> None:
        if self.ignore_value is not None and self.ignore_value in self.mask_values:
            raise ValueError(f"ignore_value {self.ignore_value:g} is among mask_values: it is either")


@dataclass(frozen=True)
class MaskFacts:
    """What is to be known of one mask file."""

    values: np.ndarray
    """Distinct values of its brightest channel, ascending, as shares of white."""
    numbers: np.ndarray
    """The same values as they are stored."""
    colours: int
    """Distinct colours, where channels differ; 0 of grey masks."""
    between: int
    """Pixels between black and nearly white."""
    flat: int
    """Those of them that equal their right and their lower neighbour, as soft edges do not."""
    is_lossy: bool
    """Whether it is a JPEG."""

    @property
    def is_hard(self) -> bool:
        """Whether it holds nothing but black and nearly white."""
        return bool(((self.values == 0) | (self.values >= 1 - NEAR)).all())


def mask_brightness(mask: MaskFile, transparency: Transparency = "") -> np.ndarray:
    """The brightest channel of each pixel, (H, W); alpha where it is the mask; black where it makes it background."""
    colours_HWS, alpha_HW = mask.planes()
    if alpha_HW is not None and transparency == "mask":
        return alpha_HW
    bright_HW: np.ndarray = colours_HWS[:, :, 0] if colours_HWS.shape[2] == 1 else colours_HWS.max(axis=2)
    if alpha_HW is not None and transparency:
        return np.where(_clear(alpha_HW), 0, bright_HW)
    return bright_HW


def mask_white(mask: MaskFile) -> float:
    """The brightness of white."""
    return 255.0 if mask.palette_L3 is not None else mask.white


def mask_facts(mask: MaskFile, transparency: Transparency = "", ignore_value: float | None = None) -> MaskFacts:
    """Look at a decoded mask; pixels of the ignored value do not count."""
    bright_HW, white = mask_brightness(mask, transparency), mask_white(mask)
    if ignore_value is None:
        numbers = distinct_values(bright_HW)
    else:
        counted_HW = mask.numbers() != ignore_value
        numbers = distinct_values(bright_HW[counted_HW]) if counted_HW.any() else np.zeros(1)
        bright_HW = np.where(counted_HW, bright_HW, 0)
    darkest = NEAR * white if mask.is_lossy else 0
    between = flat = 0
    if len(numbers) == 2 and numbers[0] == 0 and darkest < numbers[1] < (1 - NEAR) * white:
        between = flat = int(np.count_nonzero(bright_HW))  # one value beside black has no soft edges
    elif len(numbers) > 2 or numbers[0] != 0:
        between_HW = (bright_HW > darkest) & (bright_HW < (1 - NEAR) * white)
        corner_HW = bright_HW[:-1, :-1]
        flat_HW = between_HW[:-1, :-1] & (corner_HW == bright_HW[1:, :-1]) & (corner_HW == bright_HW[:-1, 1:])
        between, flat = int(between_HW[:-1, :-1].sum()), int(flat_HW.sum())
    return MaskFacts(numbers / white, numbers, _colours(mask), between, flat, mask.is_lossy)


def distinct_values(values_HW: np.ndarray) -> np.ndarray:
    """The distinct values of an array, ascending; counted instead of sorted where they are few."""
    if values_HW.dtype == bool:
        values_HW = values_HW.view(np.uint8)
    if values_HW.dtype == np.uint8:
        flat = np.ascontiguousarray(values_HW).reshape(len(values_HW), -1)
        return np.flatnonzero(cv2.calcHist([flat], [0], None, [256], [0, 256]))
    if values_HW.dtype.kind in "iu" and values_HW.min() >= 0 and values_HW.max() < _COUNTED_VALUES:
        return np.flatnonzero(np.bincount(values_HW.ravel()))
    return np.unique(values_HW)


def _colours(mask: MaskFile) -> int:
    """Distinct colours of a mask whose channels differ, at most a few; 0 where all is grey."""
    if mask.palette_L3 is not None:
        used_L3 = mask.palette_L3[distinct_values(mask.numbers())]
    else:
        colours_HWS, _ = mask.planes()
        if colours_HWS.shape[2] == 1:
            return 0
        used_L3 = colours_HWS.reshape(-1, 3)
    if (used_L3 == used_L3[:, :1]).all():
        return 0
    first = used_L3[0]
    return 1 if (used_L3 == first).all() else 2


def mask_transparency(masks: Sequence[tuple[bool, bool, tuple[float, ...] | None]]) -> Transparency:
    """What alpha means, of the masks of a folder that have any.

    Args:
        masks: Of each: whether something is transparent, whether something is not, and its only colour if it has one.
    """
    if not (any(clear for clear, _, _ in masks) and any(solid for _, solid, _ in masks)):
        return ""
    colours = {colour for _, _, colour in masks}
    return "mask" if len(colours) == 1 and None not in colours else "background"


def _clear(alpha_HW: np.ndarray) -> np.ndarray:
    """Where a picture is transparent: less than half as solid as where it is most so, bool (H, W)."""
    return alpha_HW < max(1, int(alpha_HW.max())) / 2


def alpha_facts(mask: MaskFile) -> tuple[bool, bool, tuple[float, ...] | None] | None:
    """For `mask_transparency`; None where a mask has no alpha."""
    colours_HWS, alpha_HW = mask.planes()
    if alpha_HW is None:
        return None
    clear_HW = _clear(alpha_HW)
    first = colours_HWS[0, 0]
    only = tuple(map(float, first)) if (colours_HWS == first).all() else None
    return bool(clear_HW.any()), not clear_HW.all(), only


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
        rule = "a JPEG does not keep values: labels, and those of folder.toml, cannot be told in it"
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
    words = [_TRANSPARENT[transparency]] if transparency else []
    plain = MaskReading(transparency=transparency, settings=settings, words="; ".join(words))
    if settings.mask_values or not facts:
        return plain, ""
    soft = replace(plain, is_soft=True, words="; ".join([*words, "soft edges are cut at half of white"]))
    numbers = np.unique(np.concatenate([fact.numbers.astype(float) for fact in facts]))
    values = np.unique(np.concatenate([fact.values for fact in facts]))
    if numbers[0] < 0:
        if len(numbers) == 2 and numbers[0] == -1:
            return replace(plain, words="-1 is background"), ""
        return plain, f"they hold {_listed(numbers)}: is the negative value background or void?"
    between, flat = sum(fact.between for fact in facts), sum(fact.flat for fact in facts)
    has_soft_edges = between == 0 or flat < MAX_FLAT * between
    is_whole = bool((numbers == np.round(numbers)).all())
    if values[-1] < 1 - NEAR:
        if any(fact.is_lossy for fact in facts) and values[-1] > NEAR:
            return plain, f"JPEGs of values up to {numbers[-1]:g}: labels cannot be told from noise"
        if not is_whole and values[-1] >= 0.5:
            return soft, ""
        if not is_whole or (has_soft_edges and len(numbers) > MOST_CLASSES):
            return plain, f"soft edges of values up to {numbers[-1]:g}: where is half?"
        return plain, _without_black(facts, numbers)
    if all(fact.is_hard for fact in facts):
        return (soft if len(values) > 2 else plain), _without_black(facts, numbers)
    if has_soft_edges or (len(values) == 2 and values[0] <= NEAR):
        return soft, ""
    if all((fact.numbers > 0).sum() <= 1 for fact in facts):
        held_words = f"each mask holds one value beside 0, of {_listed(numbers[numbers > 0])}: all are mask"
        return replace(plain, words="; ".join([*words, held_words])), _without_black(facts, numbers)
    held = numbers[numbers > 0]
    are_objects = is_whole and (len(held) > MOST_CLASSES or len(held) == int(held[-1] - held[0]) + 1)
    if are_objects or any(fact.colours for fact in facts):
        return plain, _without_black(facts, numbers)
    return plain, f"they hold {_listed(numbers)}: which of them are mask, and is {numbers[-1]:g} void?"


def _without_black(facts: Sequence[MaskFacts], numbers: np.ndarray) -> str:
    """The rule that masks break of which none has a black pixel, while their values differ; empty if they do not."""
    if numbers[0] == 0 or (len(numbers) == 1 and all(fact.colours < 2 for fact in facts)):
        return ""
    return f"none holds 0 or black, and they hold {_listed(numbers)}: which is background?"


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
