"""Kidney whose vessels are counted one by one: round, long and branching ones, and what is easily taken for one.

Every vessel is decided, with its outline, before anything is drawn, so that truth and picture cannot differ. Sizes in
um are those of real anatomy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import cv2
import numpy as np

from histofold.synth.drawing.canvas import paint, stroke
from histofold.synth.drawing.frame import Frame, Layers, Scene, blank_layers
from histofold.synth.drawing.ground import Ground
from histofold.synth.drawing.lattice import jittered_nodes, stamp_ellipses, stream, uniform_at
from histofold.synth.drawing.sites import Objects, Plan, by_row, distractors, free_places, lattice_units
from histofold.synth.organs.solid import GLOMERULUS_UM, draw_glomerulus, glomerulus_outline, lay_tubules

_SPACING_UM, _KEPT = 62.0, 0.75
_UNSURE = 0.06
# Vessels keep so far from each other, and from all else that has a place.
_CLEAR_UM = 5.0
# The map of places that are taken has cells of this side.
_CELL_UM = 2.0


@dataclass(frozen=True, kw_only=True)
class Vessel:
    """One vessel; points are (y, x) in drawn pixels."""

    centre: np.ndarray
    """(2,)."""
    outline: np.ndarray
    """Of the whole vessel with its wall, (P, 2)."""
    lumens: tuple[np.ndarray, ...]
    """Outlines (P, 2) of its hollow; several where a thin part is closed."""
    nuclei: np.ndarray
    """Flat nuclei of its lining, (N, 5) as `Layers.placed`."""
    red_cells: np.ndarray
    """Centres of the red cells in it, (N, 2)."""
    muscular: bool
    """Whether it has a wall of muscle."""
    plasma: float
    """How much its hollow is stained."""

    @property
    def unsure(self) -> bool:
        """Whether an annotator could not say: its hollow is closed."""
        return self.plasma > 0.3


def plan_vessels(ground: Ground) -> Plan:
    """Vessels between tubules, glomeruli, cracks and clusters of nuclei."""
    scene = ground.scene
    glomeruli = lattice_units(ground, "glomeruli", spacing_um=420, radius_um=95, keep=0.5)
    unit_px = scene.px(GLOMERULUS_UM)
    cracks = free_places(ground, "cracks", per_mm2=5, clear_um=30, units=glomeruli, unit_px=unit_px)
    rings = [
        glomerulus_outline(stream(scene.key, "glomerulus", index), scene, centre)
        for index, centre in enumerate(glomeruli)
    ]
    lines = [_crack(stream(scene.key, "crack", index), scene, centre) for index, centre in enumerate(cracks)]
    vessels = _plan_each(ground, rings, lines)
    centres = np.array([vessel.centre for vessel in vessels])
    reach_px = max(float(np.hypot(*(one.outline - one.centre).T).max()) for one in vessels)
    objects = (
        distractors(ground, glomeruli, unit_px, scale=0.4)[1],
        Objects(name="glomerulus", points=glomeruli, reach_px=unit_px + 4, draw=_draw_unscored_glomerulus),
        Objects(name="crack", points=cracks, reach_px=scene.px(320), draw=_draw_crack),
        Objects(name="vessel", points=centres, reach_px=reach_px + 4, draw=partial(_draw_vessel, vessels)),
    )
    outlines = {
        "blood_vessel": [vessel.outline for vessel in vessels if not vessel.unsure],
        "vessel_lumen": [max(one.lumens, key=len) for one in vessels if not one.unsure and one.lumens],
        "unsure": [vessel.outline for vessel in vessels if vessel.unsure],
        "glomerulus": rings,
    }
    return Plan(
        scene=scene,
        ground=ground,
        units=centres,
        unit_px=unit_px,
        objects=objects,
        base=_lay_cortex,
        outlines=outlines,
    )


def _lay_cortex(frame: Frame, depth_HW: np.ndarray) -> Layers:
    """Tubules, most of them open."""
    layers = blank_layers(frame, depth_HW, cyto=0.3, nuclei=0.15)
    layers.soft_um = 0.7
    cells = frame.cells("tubules", 56)
    lay_tubules(layers, cells, wall_um=2.5, lumen_um=14, share_open=0.85, tint=(0.5, 0.9), where_HW=None, ragged_um=1.6)
    return layers


def _plan_each(ground: Ground, rings: Sequence[np.ndarray], lines: Sequence[np.ndarray]) -> list[Vessel]:
    """All vessels, sorted by y, each where nothing else has a place yet; at least one."""
    scene = ground.scene
    cell_px = max(scene.px(_CELL_UM), 1.0)
    shape_hw = (int(scene.shape_hw[0] / cell_px) + 1, int(scene.shape_hw[1] / cell_px) + 1)
    taken = np.zeros(shape_hw, dtype=np.uint8)
    for ring in rings:
        paint(taken, ring / cell_px, 1)
        stroke(taken, ring / cell_px, 1, 2 * scene.px(_CLEAR_UM) / cell_px)
    for line in lines:
        stroke(taken, line / cell_px, 1, scene.px(20) / cell_px, closed=False)
    points, rows, columns = jittered_nodes(
        scene.seed("vessels"), (0.0, 0.0), scene.shape_hw, max(scene.px(_SPACING_UM), 4.0), 0.45
    )
    kept = uniform_at(scene.seed("vessels kept"), rows, columns) < _KEPT
    kept &= ground.at(ground.depth, points) > scene.px(25)
    vessels, room_3 = [], np.array([0, 0, scene.px(_CLEAR_UM)])
    for index, centre in enumerate(by_row(points[kept])):
        rng = stream(scene.key, "vessel", index)
        limbs = _limbs(rng, scene, centre)
        room = np.zeros_like(taken)
        _paint_limbs(room, [(limb + room_3) / cell_px for limb in limbs])
        depths = ground.at(ground.depth, np.concatenate([limb[:, :2] for limb in limbs]))
        if (taken & room).any() or depths.min() < scene.px(20):
            continue
        taken |= room
        vessels.append(_finished(rng, scene, centre, limbs))
    if vessels:
        return vessels
    rng, centre = stream(scene.key, "lone vessel"), np.array(ground.deepest())
    return [_finished(rng, scene, centre, _limbs(rng, scene, centre))]


def _paint_limbs(map_HW: np.ndarray, limbs: Sequence[np.ndarray]) -> None:
    """Fill limbs of points (y, x, radius), (P, 3) each, with ones."""
    for limb in limbs:
        for start, end in pairwise(limb):
            stroke(map_HW, np.stack([start[:2], end[:2]]), 1, start[2] + end[2], closed=False)


def _limbs(rng: np.random.Generator, scene: Scene, centre: np.ndarray) -> list[np.ndarray]:
    """The course of a vessel: limbs of points (y, x, radius) in drawn pixels, (P, 3) each."""
    angle, kind = rng.uniform(0, 2 * np.pi), rng.random()
    if kind < 0.5:
        radius_um = float(np.exp(rng.uniform(np.log(5), np.log(26))))
        length_um = 2 * radius_um * rng.uniform(0.05, 0.9)
    else:
        radius_um, length_um = rng.uniform(4.5, 10), rng.uniform(50, 170)
    trunk = _limb(rng, scene, centre, angle, (length_um, radius_um))
    trunk[:, :2] += centre - trunk[:, :2].mean(axis=0)
    if kind < 0.8:
        return [trunk]
    fork = trunk[int(rng.integers(len(trunk) // 3, 2 * len(trunk) // 3))]
    along = np.arctan2(*(trunk[-1, :2] - trunk[0, :2]))
    turn = rng.choice((-1, 1)) * rng.uniform(0.6, 1.2)
    branch = _limb(rng, scene, fork[:2], along + turn, (length_um * rng.uniform(0.4, 0.7), radius_um * 0.8))
    return [trunk, branch]


def _limb(
    rng: np.random.Generator, scene: Scene, start: np.ndarray, angle: float, size_um: tuple[float, float]
) -> np.ndarray:
    """A bent course from a place on, of a length and a radius, (P, 3)."""
    length_um, radius_um = size_um
    count = int(np.clip(length_um / 4, 5, 48))
    direction = angle + np.cumsum(rng.normal(0, 0.09, count))
    steps = np.stack([np.sin(direction), np.cos(direction)], axis=1) * (scene.px(length_um) / count)
    waves = np.linspace(0, rng.uniform(1, 4) * np.pi, count) + rng.uniform(0, 6)
    radius = scene.px(radius_um) * (1 + 0.14 * np.sin(waves)) * np.linspace(1, rng.uniform(0.75, 1.1), count)
    return np.concatenate([start + np.cumsum(steps, axis=0), radius[:, None]], axis=1)


def _finished(rng: np.random.Generator, scene: Scene, centre: np.ndarray, limbs: list[np.ndarray]) -> Vessel:
    """The vessel of a course: outlines, and what lies in its wall and in its hollow."""
    points = np.concatenate(limbs)
    low = np.floor(points[:, :2].min(axis=0) - points[:, 2].max() - 4)
    high = np.ceil(points[:, :2].max(axis=0) + points[:, 2].max() + 4)
    inside = np.zeros((high - low).astype(int), dtype=np.uint8)
    _paint_limbs(inside, [limb - (*low, 0) for limb in limbs])
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    radius_px = float(depth.max())
    muscular = radius_px > scene.px(9) and rng.random() < 0.5
    wall_px = radius_px * rng.uniform(0.28, 0.45) if muscular else min(scene.px(rng.uniform(1.6, 2.6)), 0.4 * radius_px)
    hollow = (depth > wall_px).astype(np.uint8)
    lumens = _rings(hollow, low)
    closed = rng.random() < _UNSURE
    filled = not closed and rng.random() < 0.5
    y, x = np.nonzero(depth > wall_px + scene.px(2))
    count = int(min(len(y), len(y) / scene.px(7) ** 2 * rng.uniform(0.1, 1.1))) if filled else 0
    chosen = rng.integers(0, max(len(y), 1), count)
    return Vessel(
        centre=centre,
        outline=_rings(inside, low)[0],
        lumens=tuple(lumens),
        nuclei=_lining(rng, scene, lumens),
        red_cells=np.stack([y[chosen], x[chosen]], axis=1) + low if count else np.zeros((0, 2)),
        muscular=muscular,
        plasma=0.6 if closed else rng.uniform(0.02, 0.1),
    )


def _rings(inside: np.ndarray, low: np.ndarray) -> list[np.ndarray]:
    """Outlines (P, 2) of the parts of a map whose first pixel lies at `low`, the longest first."""
    contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rings = [contour[:, 0, ::-1] + low for contour in contours if len(contour) > 2]
    return sorted(rings, key=len, reverse=True)


def _lining(rng: np.random.Generator, scene: Scene, lumens: Sequence[np.ndarray]) -> np.ndarray:
    """Flat nuclei that bulge into a hollow, (N, 5) as `Layers.placed`."""
    nuclei = []
    for ring in lumens:
        place = rng.uniform(0, scene.px(16))
        while place < len(ring):
            at = int(place)
            dy, dx = ring[(at + 4) % len(ring)] - ring[at - 4]
            half_px = scene.px(rng.uniform(2.6, 4.2)), scene.px(rng.uniform(1.0, 1.6))
            nuclei.append([*ring[at], *half_px, np.arctan2(dy, dx)])
            place += scene.px(rng.uniform(14, 32))
    return np.array(nuclei, dtype=np.float64).reshape(-1, 5)


def _draw_vessel(
    vessels: Sequence[Vessel], rng: np.random.Generator, layers: Layers, centre: np.ndarray, index: int
) -> None:
    vessel, px = vessels[index], layers.frame.scene.px
    layers.line(vessel.outline, 2 * px(rng.uniform(2, 5)), cyto=0.32, nuclei=0.1, epithelium=0, mucin=0.12, lumen=0)
    wall = 0.72 if vessel.muscular else 0.5
    layers.fill(vessel.outline, ftu=1, cyto=wall, nuclei=0.16 * vessel.muscular, epithelium=0, mucin=0.25)
    layers.line(vessel.outline, px(1.2), cyto=0.8, mucin=0.9)
    for lumen in vessel.lumens:
        layers.fill(lumen, lumen=1, cyto=vessel.plasma, nuclei=0, mucin=0)
    if len(vessel.red_cells):
        radii = np.full((len(vessel.red_cells), 2), px(3.3))
        local = vessel.red_cells - (layers.frame.y0, layers.frame.x0)
        for map_HW, level in ((layers.cyto, 205.0), (layers.mucin, 70.0)):
            stamp_ellipses(map_HW, local, radii, np.zeros(len(local)), np.full(len(local), level))
    if len(vessel.nuclei) and not vessel.unsure:
        layers.placed.append(vessel.nuclei)


def _draw_unscored_glomerulus(rng: np.random.Generator, layers: Layers, centre: np.ndarray, index: int) -> None:
    """A glomerulus that is no unit: here vessels are."""
    outline = glomerulus_outline(stream(layers.frame.scene.key, "glomerulus", index), layers.frame.scene, centre)
    draw_glomerulus(rng, layers, centre, index)
    layers.fill(outline, ftu=0)


def _crack(rng: np.random.Generator, scene: Scene, centre: np.ndarray) -> np.ndarray:
    """The course of a crack, (P, 2)."""
    direction = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.35, 24))
    steps = np.stack([np.sin(direction), np.cos(direction)], axis=1) * scene.px(rng.uniform(60, 260) / 24)
    course = np.cumsum(steps, axis=0)
    return course + centre - course.mean(axis=0)


def _draw_crack(rng: np.random.Generator, layers: Layers, centre: np.ndarray, index: int) -> None:
    """Clear glass where the section tore: pale as a vessel, but jagged and without a wall."""
    px = layers.frame.scene.px
    course = _crack(rng, layers.frame.scene, centre)
    for start, end in pairwise(course):
        layers.line(
            np.stack([start, end]), px(rng.uniform(2, 9)), False, cyto=0, nuclei=0, mucin=0, epithelium=0, lumen=0
        )
