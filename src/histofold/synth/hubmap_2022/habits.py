"""What annotators do to a mask: faults of the drawing, faults of the encoding, and habits.

Each changes a clean mask and says in numbers what it did. Lengths go by the size of the image's own objects, so that a
fault of strength 1 is about as bad at every scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from histofold.imaging.tissue import tissue_mask
from histofold.synth.drawing.slide import Picture
from histofold.synth.files import Numbers, PlantedFault

# Share of the objects' radius, at strength 1.
_THIN, _THICK, _COARSE, _EXTRA = 0.18, 0.25, 0.3, 0.8
_SHIFT = (0.35, 0.7)
_LEAST_BLANK_SHARE = 0.004  # of the image's pixels: smaller blank areas are not worth a label
# Pale stroma passes for blank in `tissue_mask`; glass is nearly as bright as the brightest place, too. In grey levels.
_GLASS_BELOW_BRIGHTEST, _GLASS_LEAST = 16, 205

Change = tuple[np.ndarray, Numbers]


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """An image under the annotator's hands."""

    picture: Picture
    """The image with its lumens."""
    mask: np.ndarray
    """The annotator's mask so far, bool (H, W)."""
    strength: float = 1.0
    """Factor of all lengths, 1 for usual faults."""
    other_mask: np.ndarray | None = None
    """Another image's mask for wrong_image, bool of any size, else None."""

    def length_px(self, share: float, least: int) -> int:
        """A share of the objects' radius in whole pixels, strength included."""
        return max(least, round(share * self.strength * object_radius_px(self.mask)))


def object_radius_px(mask_HW: np.ndarray) -> float:
    """Typical radius of a mask's objects: that of a disc of their median area, at most their greatest depth.

    Raises:
        ValueError: If the mask is empty.
    """
    if not mask_HW.any():
        raise ValueError("an empty mask has no objects: give one with a unit")
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8))
    depth = float(_inner_distance(mask_HW).max())
    return min(float(np.sqrt(np.median(stats[1:, cv2.CC_STAT_AREA]) / np.pi)), depth)


def shifted_mask(mask_HW: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """The mask moved down by `dy` and right by `dx` pixels; what leaves the frame is lost, what enters is empty."""
    height, width = mask_HW.shape
    moved = np.zeros_like(mask_HW)
    moved[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = mask_HW[
        max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
    ]
    return moved


def framed_mask(mask_HW: np.ndarray, shape_hw: tuple[int, int]) -> np.ndarray:
    """The mask in a frame of another size: cut, or filled up with nothing, at the bottom and at the right."""
    framed = np.zeros(shape_hw, dtype=bool)
    height, width = min(shape_hw[0], mask_HW.shape[0]), min(shape_hw[1], mask_HW.shape[1])
    framed[:height, :width] = mask_HW[:height, :width]
    return framed


def transposed_mask(mask_HW: np.ndarray) -> np.ndarray:
    """Rows taken for columns while the frame stayed: what leaves the frame is lost."""
    return framed_mask(mask_HW.T, mask_HW.shape)


def thinner_mask(mask_HW: np.ndarray, radius_px: float) -> np.ndarray:
    """The mask without a rim of that width; the image's border is no rim."""
    return _inner_distance(mask_HW) > radius_px


def thicker_mask(mask_HW: np.ndarray, radius_px: float) -> np.ndarray:
    """The mask with a rim of that width round it."""
    return ~(_inner_distance(~mask_HW) > radius_px)


def change_mask(rng: np.random.Generator, annotated: Annotated, kind: str) -> tuple[np.ndarray, PlantedFault | None]:
    """Plant one fault or habit, a key of `MASK_CHANGES`.

    Returns:
        The new mask and what was done; the old mask and None where the image gives no room for it (no lumen, no blank
        border, one object only), or where nothing would change or be left.
    """
    change = MASK_CHANGES[kind](rng, annotated)
    if change is None or not change[0].any() or np.array_equal(change[0], annotated.mask):
        return annotated.mask, None
    return change[0], PlantedFault(kind=kind, numbers=change[1])


def _inner_distance(mask_HW: np.ndarray) -> np.ndarray:
    """Distance to the nearest pixel that is not set, (H, W) float32; the image's border counts as set."""
    if mask_HW.all():
        return np.full(mask_HW.shape, max(mask_HW.shape), dtype=np.float32)
    return cv2.distanceTransform(mask_HW.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _without_objects(rng: np.random.Generator, annotated: Annotated) -> Change | None:
    """One of three objects, at least one, was overlooked; at least one was not."""
    count, labels = cv2.connectedComponents(annotated.mask.astype(np.uint8))
    objects = count - 1
    if objects < 2:
        return None
    missing = min(objects - 1, max(1, round(objects / 3 * annotated.strength)))
    gone = 1 + rng.choice(objects, missing, replace=False)
    lost = np.isin(labels, gone)
    return annotated.mask & ~lost, {"objects": missing, "of": objects, "pixels": int(lost.sum())}


def _with_extra_object(rng: np.random.Generator, annotated: Annotated) -> Change | None:
    """Tissue that is no unit was outlined as one; it touches no true object."""
    tissue = tissue_mask(annotated.picture.image_HWC)
    distance = _inner_distance(~annotated.mask)
    radius = annotated.length_px(_EXTRA, least=3)
    while radius >= 3:
        places = np.argwhere(tissue & (distance > radius * 1.2 + 2))
        if len(places):
            y, x = (int(value) for value in places[rng.integers(len(places))])
            drawn = np.zeros(annotated.mask.shape, dtype=np.uint8)
            cv2.ellipse(drawn, (x, y), (radius, max(2, round(0.75 * radius))), rng.uniform(0, 180), 0, 360, 1, -1)
            extra = drawn > 0
            return annotated.mask | extra, {"y": y, "x": x, "radius_px": radius, "pixels": int(extra.sum())}
        radius //= 2
    return None


def _shifted(rng: np.random.Generator, annotated: Annotated) -> Change:
    length = annotated.length_px(rng.uniform(*_SHIFT), least=3)
    angle = rng.uniform(0, 2 * np.pi)
    dy, dx = round(length * np.sin(angle)), round(length * np.cos(angle))
    return shifted_mask(annotated.mask, dy, dx), {"dy": dy, "dx": dx}


def _coarse(rng: np.random.Generator, annotated: Annotated) -> Change:
    """Outlines clicked with few points."""
    tolerance = annotated.length_px(_COARSE * rng.uniform(0.8, 1.2), least=2)
    contours, _ = cv2.findContours(annotated.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = np.zeros(annotated.mask.shape, dtype=np.uint8)
    fewer = [cv2.approxPolyDP(contour, tolerance, True) for contour in contours]
    cv2.fillPoly(drawn, [ring for ring in fewer if len(ring) >= 3], color=1)
    return drawn > 0, {"tolerance_px": tolerance, "corners": sum(len(ring) for ring in fewer)}


def _thinner(rng: np.random.Generator, annotated: Annotated) -> Change:
    radius = annotated.length_px(_THIN * rng.uniform(0.8, 1.2), least=1)
    # Not so much that nothing but crumbs is left.
    radius = max(1, min(radius, int(0.6 * float(_inner_distance(annotated.mask).max()))))
    return thinner_mask(annotated.mask, radius), {"radius_px": radius}


def _thicker(rng: np.random.Generator, annotated: Annotated) -> Change:
    radius = annotated.length_px(_THICK * rng.uniform(0.8, 1.2), least=1)
    return thicker_mask(annotated.mask, radius), {"radius_px": radius}


def _with_blank(rng: np.random.Generator, annotated: Annotated) -> Change | None:
    """A part of the glass outside the tissue was labelled: a disc round a place of the largest such area."""
    blank = _glass(annotated.picture.image_HWC) & ~annotated.mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(blank.astype(np.uint8), connectivity=4)
    at_border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    at_border = at_border[at_border > 0]
    if len(at_border) == 0:
        return None
    largest = int(at_border[np.argmax(stats[at_border, cv2.CC_STAT_AREA])])
    area = int(stats[largest, cv2.CC_STAT_AREA])
    if area < _LEAST_BLANK_SHARE * blank.size:
        return None
    glass = labels == largest
    places = np.argwhere(glass)
    y, x = (int(value) for value in places[rng.integers(len(places))])
    radius = max(2, round(np.sqrt(area * rng.uniform(0.5, 1.0) * annotated.strength)))
    disc = np.zeros(blank.shape, dtype=np.uint8)
    cv2.circle(disc, (x, y), radius, 1, -1)
    labelled = glass & (disc > 0)
    return annotated.mask | labelled, {"y": y, "x": x, "radius_px": radius, "pixels": int(labelled.sum())}


def _glass(image_HWC: np.ndarray) -> np.ndarray:
    """Where light passed nothing, in lumens too, (H, W) bool."""
    darkest_HW = cv2.blur(image_HWC, (5, 5)).min(axis=2)
    least = max(int(darkest_HW.max()) - _GLASS_BELOW_BRIGHTEST, _GLASS_LEAST)
    return (darkest_HW >= least) & ~tissue_mask(image_HWC)


def _of_another_image(rng: np.random.Generator, annotated: Annotated) -> Change | None:
    if annotated.other_mask is None:
        return None
    return framed_mask(annotated.other_mask, annotated.mask.shape), {}


def _without_lumen(rng: np.random.Generator, annotated: Annotated) -> Change:
    hollow = annotated.mask & annotated.picture.lumen_HW
    return annotated.mask & ~hollow, {"pixels": int(hollow.sum())}


MASK_CHANGES: dict[str, Callable[[np.random.Generator, Annotated], Change | None]] = {
    "missing_objects": _without_objects,
    "extra_object": _with_extra_object,
    "shifted": _shifted,
    "coarse_polygon": _coarse,
    "eroded": _thinner,
    "dilated": _thicker,
    "blank_labelled": _with_blank,
    "wrong_image": _of_another_image,
    "lumen_excluded": _without_lumen,
    "thin_labels": _thinner,
}
