"""Pictures of single objects: one colour an object, truth beside prediction, and what went wrong close up."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from histofold.core.objects.instances import Objects
from histofold.core.objects.overlaps import overlapping_pairs, pair_ious
from histofold.data.thumbnails import fitting_shape, read_small, small_owners
from histofold.data.tiles.labels import IGNORED_LABEL
from histofold.imaging.slide import Slide
from histofold.report.pictures.overlays import FALSE_RGB, PREDICTION_RGB, TRUTH_RGB, draw_rings

OBJECT_COLOURS = (
    *((0, 229, 255), (255, 205, 0), (57, 230, 60), (20, 90, 255)),
    *((250, 250, 250), (0, 150, 110), (190, 255, 90)),
)
"""Colours of neighbouring objects; none occurs in stained tissue, and none is like `FALSE_RGB`."""
SAME_IOU = 0.5
"""Objects of truth and prediction that overlap so much have one colour."""
UNSURE_RGB = (120, 120, 120)
_OPACITY = 0.35
_LEAST_CLOSE_UP = 64  # pixels of a side
_NEAR_PX = 3  # boxes so near are neighbours


def object_rings(objects: Objects) -> list[list[np.ndarray]]:
    """The outlines of each object: (P, 2) x and y in pixels of the image, whose first pixel covers 0 to 1."""
    rings = []
    for index in range(len(objects)):
        y0, x0, y1, x1 = objects.boxes[index].tolist()
        found: Sequence[np.ndarray] = ()
        if objects.areas[index]:
            mask_HW = objects[index].to_window((y0, x0, y1, x1)).astype(np.uint8)
            found, _ = cv2.findContours(mask_HW, mode=cv2.RETR_LIST, method=cv2.CHAIN_APPROX_NONE)
        rings.append([points[:, 0] + (x0 + 0.5, y0 + 0.5) for points in found])
    return rings


def neighbour_colours(objects: Objects) -> np.ndarray:
    """A place in `OBJECT_COLOURS` for each object, int64 (M,); neighbours differ while there are colours enough."""
    boxes_M4 = objects.boxes
    colours_M = np.full(len(objects), -1)
    for index, (y0, x0, y1, x1) in enumerate(boxes_M4):
        above_M = (boxes_M4[:index, 0] < y1 + _NEAR_PX) & (boxes_M4[:index, 2] > y0 - _NEAR_PX)
        beside_M = (boxes_M4[:index, 1] < x1 + _NEAR_PX) & (boxes_M4[:index, 3] > x0 - _NEAR_PX)
        taken = np.bincount(colours_M[:index][above_M & beside_M], minlength=len(OBJECT_COLOURS))
        fewest = np.flatnonzero(taken == taken.min())
        colours_M[index] = fewest[index % len(fewest)]
    return colours_M


def draw_objects(
    picture_HWC: np.ndarray, objects: Objects, colours: Sequence[tuple[int, int, int]] | None = None
) -> np.ndarray:
    """A picture of an image with each object filled lightly and outlined in its colour.

    Args:
        picture_HWC: RGB picture of the image, uint8, (h, w, 3), no larger than it.
        objects: Of the image; later ones lie above earlier ones.
        colours: RGB of each; None: neighbours differ.

    Returns:
        RGB uint8 (h, w, 3), never the caller's own memory.
    """
    if colours is None:
        colours = [OBJECT_COLOURS[place] for place in neighbour_colours(objects)]
    drawn_HWC = picture_HWC.copy()
    owners_HW = small_owners(objects, (picture_HWC.shape[0], picture_HWC.shape[1]))
    inside_HW = owners_HW >= 0
    fill_P3 = np.array([*colours, (0, 0, 0)], np.float32)[owners_HW[inside_HW]]
    drawn_HWC[inside_HW] = np.rint(drawn_HWC[inside_HW] * (1 - _OPACITY) + fill_P3 * _OPACITY).astype(np.uint8)
    for rings, colour in zip(object_rings(objects), colours, strict=True):
        draw_rings(drawn_HWC, rings, objects.shape_hw, colour, line_px=1)
    return drawn_HWC


def beside(pictures: Sequence[np.ndarray], gap_px: int = 8) -> np.ndarray:
    """Pictures of one height in a row, with white between them."""
    gap_HWC = np.full((pictures[0].shape[0], gap_px, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (gap_HWC, picture)][1:], axis=1)


def draw_labels(image_HWC: np.ndarray, labels_HW: np.ndarray) -> np.ndarray:
    """A tile with its objects, each in a colour, and what does not count in grey.

    Args:
        image_HWC: RGB uint8 (H, W, 3).
        labels_HW: Its labels, uint16, as tiles of objects hold them.
    """
    ignored = Objects.from_masks([labels_HW == IGNORED_LABEL])
    greyed_HWC = draw_objects(image_HWC, ignored, [UNSURE_RGB])
    return draw_objects(greyed_HWC, Objects.from_labels(np.where(labels_HW == IGNORED_LABEL, 0, labels_HW)))


def draw_truth(slide: Slide, truth: Objects, unsure: Objects, side: int) -> np.ndarray:
    """An image of at most `side` pixels with its true objects, each in a colour, and unsure ones in grey."""
    picture_HWC = read_small(slide, fitting_shape(slide.shape_hw, side))
    return draw_objects(draw_objects(picture_HWC, unsure, [UNSURE_RGB] * len(unsure)), truth)


def truth_and_found(slide: Slide, truth: Objects, found: Objects, unsure: Objects, side: int) -> np.ndarray:
    """An image with its true objects, unsure ones in grey, beside what was found: the same object in the same colour.

    What was found and overlaps no true object by `SAME_IOU` has the colour of false finds.

    Args:
        slide: The opened image.
        truth: Its true objects.
        found: What was found, best first.
        unsure: Objects that do not count.
        side: Most pixels of the longer side of each of the two pictures.
    """
    picture_HWC = read_small(slide, fitting_shape(slide.shape_hw, side))
    colours = [OBJECT_COLOURS[place] for place in neighbour_colours(truth)]
    worst_first = found.select(np.arange(len(found))[::-1])
    pairs = overlapping_pairs(worst_first, truth)
    same = pair_ious(worst_first, truth, pairs) >= SAME_IOU
    found_colours = [FALSE_RGB] * len(found)
    for first, second in zip(pairs.first[same], pairs.second[same], strict=True):
        found_colours[first] = colours[second]
    greyed_HWC = draw_objects(picture_HWC, unsure, [UNSURE_RGB] * len(unsure))
    return beside([draw_objects(greyed_HWC, truth, colours), draw_objects(picture_HWC, worst_first, found_colours)])


def close_up(
    slide: Slide, truth: Objects, found: Objects, concerned: tuple[Sequence[int], Sequence[int]], side: int
) -> np.ndarray:
    """The surroundings of some objects: outlines of the truth and of what was found, those concerned broad.

    Args:
        slide: The opened image.
        truth: Its true objects.
        found: What was found.
        concerned: True objects and found ones that the picture is about, at least one in all.
        side: Pixels of a side of the picture.

    Returns:
        RGB uint8 (side, side, 3).
    """
    boxes_M4 = np.concatenate([truth.boxes[list(concerned[0])], found.boxes[list(concerned[1])]])
    window = _square_around(boxes_M4, slide.shape_hw)
    y0, x0, y1, x1 = window
    tile_HWC = slide.read(slice(y0, y1), slice(x0, x1))
    method = cv2.INTER_CUBIC if side > max(tile_HWC.shape[:2]) else cv2.INTER_AREA
    scale = side / max(tile_HWC.shape[:2])
    size_wh = [max(1, round(length * scale)) for length in (x1 - x0, y1 - y0)]
    picture_HWC = cv2.resize(tile_HWC, dsize=(size_wh[0], size_wh[1]), interpolation=method)
    for objects, special, colour in ((truth, concerned[0], TRUTH_RGB), (found, concerned[1], PREDICTION_RGB)):
        inside = np.flatnonzero(_meet(objects.boxes, window)).tolist()
        cut = Objects.from_masks([objects[index].to_window(window) for index in inside], (y1 - y0, x1 - x0))
        for index, rings in zip(inside, object_rings(cut), strict=True):
            draw_rings(picture_HWC, rings, cut.shape_hw, colour, line_px=2 if index in special else 1)
    square_HWC = np.full((side, side, 3), 255, np.uint8)
    square_HWC[: picture_HWC.shape[0], : picture_HWC.shape[1]] = picture_HWC
    return square_HWC


def _square_around(boxes_M4: np.ndarray, shape_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """A square window (y0, x0, y1, x1) twice as wide as some boxes, within the image as far as it goes."""
    top, left = boxes_M4[:, :2].min(axis=0).tolist()
    bottom, right = boxes_M4[:, 2:].max(axis=0).tolist()
    half = max(_LEAST_CLOSE_UP // 2, bottom - top, right - left)
    firsts = [
        min(max((low + high) // 2 - half, 0), max(0, length - 2 * half))
        for low, high, length in zip((top, left), (bottom, right), shape_hw, strict=True)
    ]
    lasts = [min(first + 2 * half, length) for first, length in zip(firsts, shape_hw, strict=True)]
    return firsts[0], firsts[1], lasts[0], lasts[1]


def _meet(boxes_M4: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """Which boxes share a pixel with a window, bool (M,)."""
    y0, x0, y1, x1 = window
    meets_M: np.ndarray = (boxes_M4[:, 0] < y1) & (boxes_M4[:, 2] > y0) & (boxes_M4[:, 1] < x1) & (boxes_M4[:, 3] > x0)
    return meets_M
