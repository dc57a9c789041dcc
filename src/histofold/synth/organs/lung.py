"""Lung: alveoli between thin septa; airways and vessels in the solid tissue beside them are no functional units."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from histofold.synth.drawing.canvas import blob_outline, inset
from histofold.synth.drawing.frame import Frame, Layers, as_level, blank_layers
from histofold.synth.drawing.ground import Ground
from histofold.synth.drawing.lattice import jittered_nodes, stream, uniform_at
from histofold.synth.drawing.sites import Objects, Plan, distractors, free_places

_JITTER = 0.3
_AIRWAY_UM = 105 * 1.3 * 1.2


@dataclass(frozen=True, kw_only=True)
class _Airy:
    """Which cells are alveoli: a table over the slide's nodes, (R, C) bool, and the node of its first entry."""

    table: np.ndarray
    first: tuple[int, int]
    spacing_um: float
    angle: float

    def of(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """True where a node's cell is an alveolus, (N,) bool; nodes beyond the table are not."""
        row, column = rows - self.first[0], columns - self.first[1]
        height, width = self.table.shape
        known = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return known & self.table[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]


def plan_lung(ground: Ground) -> Plan:
    """Whole cells are alveoli or solid, in large patches; about two thirds of the tissue is airy."""
    scene = ground.scene
    rng = stream(scene.key, "airy")
    spacing_um, angle = rng.uniform(120, 160), rng.uniform(0, np.pi)
    spacing_px = max(scene.px(spacing_um), 4.0)
    far = 2 * spacing_px
    shape_hw = (scene.shape_hw[0] + 2 * far, scene.shape_hw[1] + 2 * far)
    points, rows, columns = jittered_nodes(scene.seed("alveoli"), (-far, -far), shape_hw, spacing_px, _JITTER)
    level = ground.at(ground.noise("airy", scene.px(900)), points)
    whole = ground.at(ground.depth, points) > scene.px(70)
    chosen = whole & (level >= np.quantile(level[whole] if whole.any() else level, rng.uniform(0.45, 0.65)))
    inside = ((points >= 0) & (points < scene.shape_hw)).all(axis=1)
    if not (chosen & inside).any():
        away = np.hypot(*(points - ground.deepest()).T)
        chosen = away <= max(1.5 * spacing_px, away.min())
        inside |= chosen
    first = int(rows.min()), int(columns.min())
    table = np.zeros((int(rows.max()) - first[0] + 1, int(columns.max()) - first[1] + 1), dtype=bool)
    table[rows[chosen] - first[0], columns[chosen] - first[1]] = True
    airy = _Airy(table=table, first=first, spacing_um=spacing_um, angle=angle)
    airy_points, unit_px = points[chosen], spacing_px * 0.75
    airways = free_places(ground, "airways", per_mm2=7, clear_um=130, units=airy_points, unit_px=unit_px)
    objects = (
        Objects(name="airway", points=airways, reach_px=scene.px(_AIRWAY_UM) + 4, draw=_draw_airway),
        *distractors(ground, airy_points, unit_px, scale=1.5),
    )
    units, base = points[chosen & inside], partial(_lay_alveoli, airy)
    return Plan(scene=scene, ground=ground, units=units, unit_px=unit_px, objects=objects, base=base)


def _lay_alveoli(airy: _Airy, frame: Frame, depth_HW: np.ndarray) -> Layers:
    """Alveoli: large pale polygons between thin cellular septa; fibrous tissue elsewhere."""
    scene = frame.scene
    layers = blank_layers(frame, depth_HW, cyto=0.5, nuclei=0.2)
    layers.fibre_angle = airy.angle
    layers.cyto = as_level(0.5 + 0.12 * frame.fibres("strands", 22, airy.angle))
    cells = frame.cells("alveoli", airy.spacing_um, jitter=_JITTER)
    is_airy = airy.of(cells.rows, cells.columns)
    if not is_airy[cells.label].any():
        return layers
    border_px = frame.enlarge(cells.border_px(is_airy), cells.factor)
    wall_px = scene.px(9) * np.clip(1 + 0.6 * frame.noise("septa", scene.px(80), octaves=3), 0.2, 2)
    alveolus = border_px > wall_px
    septum = (border_px > 0) & ~alveolus
    np.copyto(layers.ftu, 255, where=border_px > 0.4 * wall_px)
    np.copyto(layers.lumen, 255, where=alveolus)
    # Some are full of fluid: pink, not pale, and yet alveoli. The others hold a trace of protein: not quite bare glass.
    wet = uniform_at(scene.seed("wet"), cells.rows, cells.columns) < 0.28
    content = frame.pick(as_level(np.where(wet, 0.33, 0.09))[cells.label], cells.factor)
    np.copyto(layers.cyto, content, where=alveolus)
    for map_HW, air, wall in ((layers.nuclei, 0.012, 0.5), (layers.epithelium, 0, 1)):
        np.copyto(map_HW, round(255 * air), where=alveolus)
        np.copyto(map_HW, round(255 * wall), where=septum)
    np.copyto(layers.cyto, round(255 * 0.62), where=septum)
    return layers


def _draw_airway(rng: np.random.Generator, layers: Layers, centre: np.ndarray, index: int) -> None:
    """A bronchiole: a pale folded lumen, but with a thick cellular wall in a sleeve of muscle."""
    px = layers.frame.scene.px
    radius_px, stretch, angle = px(rng.uniform(60, 105)), rng.uniform(1, 1.3), rng.uniform(0, np.pi)
    outer = blob_outline(rng, (centre[0], centre[1]), radius_px, wobble=0.06, stretch=stretch, angle=angle)
    folds = 1 + 0.35 * np.sin(np.linspace(0, 2 * np.pi * rng.integers(6, 11), len(outer)) + rng.uniform(0, 6))
    layers.fill(outer, cyto=0.75, nuclei=0.1, epithelium=0)
    layers.fill(inset(outer, px(14)), cyto=0.6, nuclei=0.85, epithelium=1)
    layers.fill(inset(outer, px(14) + px(22) * folds, least=0.25), cyto=0.02, nuclei=0, epithelium=0)
