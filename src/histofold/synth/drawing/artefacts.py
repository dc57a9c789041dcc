"""Folds, blur, bubbles and pen strokes: they change the picture, never the truth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from histofold.synth.drawing.canvas import stroke
from histofold.synth.drawing.frame import Frame
from histofold.synth.drawing.ground import Ground
from histofold.synth.drawing.lattice import stream

ARTEFACTS = ("fold", "blur", "bubble", "pen")
# How far a pixel under an artefact may depend on others: the shift of a fold, three sigmas of a blur.
REACH_PX = 48
_PENS_3 = ((0.30, 0.38, 0.80), (0.25, 0.62, 0.42), (0.16, 0.16, 0.18))


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One artefact; lengths in drawn pixels."""

    kind: str
    """Of `ARTEFACTS`."""
    line: np.ndarray
    """Its points (y, x): the course of a fold or pen, the centre of a blur or bubble."""
    radius_px: float
    """Half the width of a fold or pen; the radius of a blur or bubble."""
    strength: float
    """Number of a pen, standard deviation of a blur in pixels, shift of a fold in pixels; else unused."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Bounds y0, x0, y1, x1, not cut at the slide's edge."""
        low, high = self.line.min(axis=0) - 1.2 * self.radius_px, self.line.max(axis=0) + 1.2 * self.radius_px
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def touches(self, frame: Frame) -> bool:
        """Whether it may change a pixel of the frame."""
        y0, x0, y1, x1 = self.box
        height, width = frame.shape_hw
        return y0 < frame.y0 + height and y1 > frame.y0 and x0 < frame.x0 + width and x1 > frame.x0

    def weight(self, frame: Frame) -> np.ndarray:
        """How much of it covers each pixel, (H, W) float32 in 0 to 1, soft at its edge."""
        local = self.line - (frame.y0, frame.x0)
        if self.kind in ("blur", "bubble"):
            height, width = frame.shape_hw
            y = np.arange(height, dtype=np.float32)[:, None] - np.float32(local[0, 0])
            x = np.arange(width, dtype=np.float32)[None, :] - np.float32(local[0, 1])
            return np.clip((1 - np.sqrt(y * y + x * x) / np.float32(self.radius_px)) * 4, 0, 1)
        covered = np.zeros(frame.shape_hw, dtype=np.uint8)
        stroke(covered, local, 255, 2 * self.radius_px, closed=False)
        return cv2.GaussianBlur(covered, (0, 0), min(max(0.15 * self.radius_px, 0.8), 6)).astype(np.float32) / 255


def plan_artefacts(ground: Ground, kinds: tuple[str, ...]) -> list[Artefact]:
    """Decide where the artefacts of a slide lie: one or two of a kind, more on a whole section."""
    planned = []
    for kind in kinds:
        rng = stream(ground.scene.key, "artefact " + kind)
        count = int(rng.integers(2, 5)) if ground.is_section else int(rng.integers(1, 3))
        planned += [_DRAWN[kind](rng, ground) for _ in range(count)]
    return planned


def _side_px(ground: Ground) -> float:
    """The field's shorter side, or 4 mm of a wider one: what artefacts are measured by."""
    return min(*ground.scene.shape_hw, max(ground.scene.px(4000), 48.0))


def _place(rng: np.random.Generator, ground: Ground, in_tissue: bool) -> np.ndarray:
    """A random place (y, x)."""
    places = rng.uniform(0.1, 0.9, (32, 2)) * ground.scene.shape_hw
    if in_tissue:
        places = places[np.argsort(ground.at(ground.depth, places) <= 0, kind="stable")]
    return places[0]


def _course(rng: np.random.Generator, middle: np.ndarray, length_px: float, bend: float) -> np.ndarray:
    """A winding line of 24 points through a place, (24, 2)."""
    direction = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend, 24))
    line = np.cumsum(np.stack([np.sin(direction), np.cos(direction)], axis=1), axis=0) * length_px / 24
    return line - line[12] + middle


def _draw_fold(rng: np.random.Generator, ground: Ground) -> Artefact:
    side_px = _side_px(ground)
    line = _course(rng, _place(rng, ground, True), side_px * rng.uniform(0.5, 1.1), 0.12)
    radius_px = max(side_px * rng.uniform(0.012, 0.025), 2.0)
    return Artefact(kind="fold", line=line, radius_px=radius_px, strength=min(2 * radius_px, REACH_PX))


def _draw_blur(rng: np.random.Generator, ground: Ground) -> Artefact:
    radius_px = _side_px(ground) * rng.uniform(0.15, 0.3)
    sigma_px = float(np.clip(ground.scene.px(rng.uniform(5, 10)), 2, REACH_PX / 3))
    return Artefact(kind="blur", line=_place(rng, ground, True)[None], radius_px=radius_px, strength=sigma_px)


def _draw_bubble(rng: np.random.Generator, ground: Ground) -> Artefact:
    radius_px = _side_px(ground) * rng.uniform(0.06, 0.14)
    return Artefact(kind="bubble", line=_place(rng, ground, False)[None], radius_px=radius_px, strength=0)


def _draw_pen(rng: np.random.Generator, ground: Ground) -> Artefact:
    side_px = _side_px(ground)
    line = _course(rng, _place(rng, ground, False), side_px * rng.uniform(0.6, 1.3), 0.2)
    pen = int(rng.integers(len(_PENS_3)))
    return Artefact(kind="pen", line=line, radius_px=max(side_px * rng.uniform(0.015, 0.03), 2.0), strength=pen)


_DRAWN = {"fold": _draw_fold, "blur": _draw_blur, "bubble": _draw_bubble, "pen": _draw_pen}


def fold_tissue(frame: Frame, amounts_HW2: np.ndarray, artefacts: list[Artefact]) -> None:
    """Lay the neighbouring tissue over a fold, in place: more than twice as much stain there."""
    for fold in artefacts:
        if fold.kind != "fold":
            continue
        shift = np.array([[1, 0, round(fold.strength * 0.6)], [0, 1, round(fold.strength * 0.8)]], dtype=np.float32)
        above = cv2.warpAffine(amounts_HW2, shift, frame.shape_hw[::-1], borderMode=cv2.BORDER_REFLECT)
        above += 0.3 * amounts_HW2
        above *= fold.weight(frame)[..., None]
        amounts_HW2 += above


def disturb_light(frame: Frame, light_HWC: np.ndarray, white_3: np.ndarray, artefacts: list[Artefact]) -> np.ndarray:
    """Blur, bubbles and pens, in this order; light is (H, W, 3) float32 in 0 to 255 and may be changed in place."""
    for kind, disturb in (("blur", _defocus), ("bubble", _add_bubble), ("pen", _add_pen)):
        for artefact in artefacts:
            if artefact.kind == kind:
                disturb(frame, light_HWC, white_3.astype(np.float32), artefact)
    return light_HWC


def _defocus(frame: Frame, light_HWC: np.ndarray, white_3: np.ndarray, blur: Artefact) -> None:
    height, width = frame.shape_hw
    # A strong blur leaves nothing that a quarter of the pixels could not show.
    factor = 4 if blur.strength >= 8 else 1
    small = cv2.resize(light_HWC, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), blur.strength / factor)
    soft = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    soft -= light_HWC
    soft *= blur.weight(frame)[..., None]
    light_HWC += soft


def _add_bubble(frame: Frame, light_HWC: np.ndarray, white_3: np.ndarray, bubble: Artefact) -> None:
    """Air under the cover glass: a dark ring, pale within."""
    # The weight rises from 0 at the radius to 1 at three quarters of it.
    weight = bubble.weight(frame)
    ring = np.exp(-(((weight - 0.22) / 0.13) ** 2)) * (weight > 0)
    light_HWC += (white_3 - light_HWC) * (0.45 * np.clip(weight * 3, 0, 1))[..., None]
    light_HWC *= (1 - 0.7 * ring)[..., None]


def _add_pen(frame: Frame, light_HWC: np.ndarray, white_3: np.ndarray, pen: Artefact) -> None:
    """Ink on the glass, uneven, over tissue and clear glass alike."""
    colour_3 = np.array(_PENS_3[int(pen.strength)], dtype=np.float32)
    ink = pen.weight(frame) * np.clip(0.85 + 0.25 * frame.noise("ink", max(pen.radius_px * 2, 4.0)), 0, 1)
    light_HWC *= 1 - ink[..., None] * (1 - colour_3)
