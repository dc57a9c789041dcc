"""Solid organs, their units among other tissue: the kidney's glomeruli, the lung's alveoli, the spleen's white pulp.

Sizes in um are those of real anatomy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from histofold.synth.drawing.canvas import blob_outline, inset
from histofold.synth.drawing.frame import Cells, Frame, Layers, Scene, as_level, blank_layers
from histofold.synth.drawing.ground import Ground
from histofold.synth.drawing.lattice import jittered_nodes, stream, uniform_at
from histofold.synth.drawing.sites import (
    Objects,
    Plan,
    add_lymphoid,
    add_vessel,
    distractors,
    free_places,
    lattice_units,
)

GLOMERULUS_UM = 110 * 1.2 * 1.15
# Distances from a tubule's border are coded in steps of half a um; 128 is added where the tubule is open.
_STEP_UM, _OPEN = 0.5, 128


def plan_kidney(ground: Ground) -> Plan:
    """Glomeruli in the cortex, each a round cellular tuft in a pale space with a capsule; tubules everywhere."""
    scene = ground.scene
    # No glomerulus on the border of the medulla: its zone is the cortex.
    cortex = None if ground.medulla is None else -ground.medulla - scene.px(120)
    units = lattice_units(ground, "glomeruli", spacing_um=330, radius_um=95, keep=0.75, allowed=cortex)
    unit_px = scene.px(GLOMERULUS_UM)
    arteries = free_places(ground, "arteries", per_mm2=0.25, clear_um=130, units=units, unit_px=unit_px)
    objects = (
        Objects(name="glomerulus", points=units, reach_px=unit_px + 4, draw=draw_glomerulus),
        Objects(name="artery", points=arteries, reach_px=scene.px(200), draw=_draw_artery),
        *distractors(ground, units, unit_px),
    )
    angle = stream(scene.key, "medulla").uniform(0, np.pi)
    base = partial(_lay_kidney, ground, angle)
    return Plan(scene=scene, ground=ground, units=units, unit_px=unit_px, objects=objects, base=base)


def _lay_kidney(ground: Ground, angle: float, frame: Frame, depth_HW: np.ndarray) -> Layers:
    """Tubules: round ones in the cortex, long straight ones in the medulla."""
    layers = blank_layers(frame, depth_HW, cyto=0.3, nuclei=0.15)
    medulla_HW = None
    if ground.medulla is not None:
        soft_px = frame.scene.px(150)
        medulla_HW = ground.on(ground.medulla, frame) + soft_px * frame.noise("medulla ray", frame.scene.px(700))
    if medulla_HW is None or medulla_HW.min() <= 0:
        cells = frame.cells("tubules", 62)
        lay_tubules(layers, cells, wall_um=3, lumen_um=19, share_open=0.65, tint=(0.55, 0.85), where_HW=None)
    if medulla_HW is not None and medulla_HW.max() > 0:
        cells = frame.cells("loops", 42, angle=angle, stretch=5)
        inside = medulla_HW > 0
        lay_tubules(layers, cells, wall_um=4, lumen_um=12, share_open=0.8, tint=(0.42, 0.6), where_HW=inside)
    return layers


def lay_tubules(
    layers: Layers,
    cells: Cells,
    *,
    wall_um: float,
    lumen_um: float,
    share_open: float,
    tint: tuple[float, float],
    where_HW: np.ndarray | None,
    ragged_um: float = 0.0,
) -> None:
    """Tubules of Voronoi cells: interstitium, basement membrane, cells with a row of nuclei, lumen."""
    scene, frame = layers.frame.scene, layers.frame
    depth_um = np.arange(128) * _STEP_UM
    hollow = np.concatenate([np.zeros(128, dtype=bool), depth_um > lumen_um])
    depth_um = np.concatenate([depth_um, depth_um])
    wall = depth_um > wall_um
    nuclei = np.where(wall, 0.06, 0.15)
    nuclei[(depth_um > wall_um + 4) & (depth_um < min(wall_um + 11, lumen_um))] = 0.28
    profiles = {
        "cyto": np.where(hollow, 0.08, np.where(wall, 1.0, 0.3)),
        "nuclei": np.where(hollow, 0.0, nuclei),
        "epithelium": (wall & ~hollow).astype(float),
        "mucin": 0.6 * (np.abs(depth_um - wall_um - 1) < 2),
    }
    border_um = frame.enlarge(cells.border_px(), cells.factor) * np.float32(1 / scene.px(_STEP_UM))
    if ragged_um:
        border_um += frame.noise("ragged", scene.px(12), octaves=3) * np.float32(ragged_um / _STEP_UM)
    is_open = uniform_at(scene.seed("open tubule"), cells.rows, cells.columns) < share_open
    open_HW = frame.pick(as_level(is_open * (_OPEN / 255))[cells.label], cells.factor)
    code = cv2.add(np.clip(border_um, 0, 127).astype(np.uint8), open_HW)
    shade = tint[0] + (tint[1] - tint[0]) * uniform_at(scene.seed("tint"), cells.rows, cells.columns)
    shade_HW = frame.enlarge(as_level(shade)[cells.label], cells.factor)
    for name, profile in profiles.items():
        level = cv2.LUT(code, as_level(profile))
        if name == "cyto":
            level = np.where(cv2.LUT(code, (wall & ~hollow).astype(np.uint8)) > 0, shade_HW, level)
        target = getattr(layers, name)
        np.copyto(target, level, where=True if where_HW is None else where_HW)


def glomerulus_outline(rng: np.random.Generator, scene: Scene, centre: np.ndarray) -> np.ndarray:
    """Outline of a glomerulus, (P, 2) in drawn pixels; the first that its generator is asked for."""
    radius_px = scene.px(rng.uniform(80, 110))
    return blob_outline(rng, (centre[0], centre[1]), radius_px, wobble=0.05, stretch=rng.uniform(1, 1.2))


def draw_glomerulus(rng: np.random.Generator, layers: Layers, centre: np.ndarray, index: int) -> None:
    """A round cellular tuft in a pale space with a capsule."""
    px = layers.frame.scene.px
    outer = glomerulus_outline(rng, layers.frame.scene, centre)
    tuft = inset(outer, px(rng.uniform(14, 24))) + rng.normal(0, px(3), 2)
    layers.fill(outer, ftu=1, cyto=0.06, nuclei=0, epithelium=0, mucin=0)
    layers.line(outer, px(5), cyto=0.8, nuclei=0.5, mucin=0.9)
    layers.fill(tuft, cyto=0.5, nuclei=0.85, mucin=0.25)
    if px(6) < 1:
        return
    # Capillary loops: pale holes that break the tuft into lobules.
    reach = np.abs(tuft - tuft.mean(axis=0)).max()
    for hole in tuft.mean(axis=0) + rng.uniform(-reach, reach, (18, 2)) * 0.75:
        loop = blob_outline(rng, (hole[0], hole[1]), px(rng.uniform(4, 8)), wobble=0.1)
        layers.fill(loop, cyto=0.15, nuclei=0)
        layers.line(loop, px(2), mucin=0.7)


def _draw_artery(rng: np.random.Generator, layers: Layers, centre: np.ndarray, index: int) -> None:
    radius_px = layers.frame.scene.px(rng.uniform(60, 110))
    stretch, angle = rng.uniform(1, 1.4), rng.uniform(0, np.pi)
    outer = blob_outline(rng, (centre[0], centre[1]), radius_px, wobble=0.05, stretch=stretch, angle=angle)
    add_vessel(rng, layers, outer)


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


_PULP_UM = 165 * 1.5 * 1.25
_TRABECULA_UM, _TRABECULA_STEPS = 40.0, 24


def plan_spleen(ground: Ground) -> Plan:
    """White pulp on a loose lattice; trabeculae cross the red pulp."""
    scene = ground.scene
    units = lattice_units(ground, "white pulp", spacing_um=480, radius_um=140, keep=0.75)
    unit_px = scene.px(_PULP_UM)
    beams = free_places(ground, "beams", per_mm2=1.4, clear_um=20, units=units[:0], unit_px=0)
    reach_px = scene.px(_TRABECULA_UM * _TRABECULA_STEPS + 60)
    objects = (
        Objects(name="beam", points=beams, reach_px=reach_px, draw=_draw_trabecula),
        Objects(name="pulp", points=units, reach_px=unit_px + 4, draw=_draw_pulp),
        *distractors(ground, units, scene.px(165 * 1.3)),
    )
    return Plan(scene=scene, ground=ground, units=units, unit_px=unit_px, objects=objects, base=partial(_lay_red_pulp))


def _lay_red_pulp(frame: Frame, depth_HW: np.ndarray) -> Layers:
    """Loose cells, and sinuses that are holes in them."""
    layers = blank_layers(frame, depth_HW, cyto=0.55, nuclei=0.2)
    sinus = frame.noise("sinus", frame.scene.px(60), octaves=3) > 0.78
    np.copyto(layers.cyto, round(255 * 0.12), where=sinus)
    np.copyto(layers.nuclei, round(255 * 0.05), where=sinus)
    return layers


def _draw_trabecula(rng: np.random.Generator, layers: Layers, centre: np.ndarray, index: int) -> None:
    """A thick band of fibre."""
    px = layers.frame.scene.px
    bend = np.cumsum(rng.normal(0, 0.12, _TRABECULA_STEPS)) + rng.uniform(0, 2 * np.pi)
    steps = np.stack([np.sin(bend), np.cos(bend)], axis=1) * px(_TRABECULA_UM)
    layers.line(centre + np.cumsum(steps, axis=0), px(rng.uniform(25, 55)), False, cyto=0.85, nuclei=0.07, mucin=0.3)


def _draw_pulp(rng: np.random.Generator, layers: Layers, centre: np.ndarray, index: int) -> None:
    px = layers.frame.scene.px
    radius_px, stretch, angle = px(rng.uniform(100, 165)), rng.uniform(1, 1.5), rng.uniform(0, np.pi)
    outer = blob_outline(rng, (centre[0], centre[1]), radius_px, wobble=0.13, stretch=stretch, angle=angle)
    add_lymphoid(layers, outer)
    layers.fill(outer, ftu=1)
    if rng.random() < 0.5:
        layers.fill(inset(outer, px(60), least=0.3), nuclei=0.6, cyto=0.36)
    beside = outer.mean(axis=0) + rng.normal(0, px(30), 2)
    add_vessel(rng, layers, blob_outline(rng, (beside[0], beside[1]), px(rng.uniform(14, 22))))
