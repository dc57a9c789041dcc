"""Kidney: glomeruli among tubules; sections have a cortex and a medulla. Sizes in um are those of real anatomy."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

from histofold.synth.drawing.canvas import blob_outline, inset
from histofold.synth.drawing.frame import Cells, Frame, Layers, as_level, blank_layers
from histofold.synth.drawing.ground import Ground
from histofold.synth.drawing.lattice import stream, uniform_at
from histofold.synth.drawing.sites import Objects, Plan, add_vessel, distractors, free_places, lattice_units

_GLOMERULUS_UM = 110 * 1.2 * 1.15
# Distances from a tubule's border are coded in steps of half a um; 128 is added where the tubule is open.
_STEP_UM, _OPEN = 0.5, 128


def plan_kidney(ground: Ground) -> Plan:
    """Glomeruli in the cortex, each a round cellular tuft in a pale space with a capsule; tubules everywhere."""
    scene = ground.scene
    # No glomerulus on the border of the medulla: its zone is the cortex.
    cortex = None if ground.medulla is None else -ground.medulla - scene.px(120)
    units = lattice_units(ground, "glomeruli", spacing_um=330, radius_um=95, keep=0.75, allowed=cortex)
    unit_px = scene.px(_GLOMERULUS_UM)
    arteries = free_places(ground, "arteries", per_mm2=0.25, clear_um=130, units=units, unit_px=unit_px)
    objects = (
        Objects(name="glomerulus", points=units, reach_px=unit_px + 4, draw=_draw_glomerulus),
        Objects(name="artery", points=arteries, reach_px=scene.px(200), draw=_draw_artery),
        *distractors(ground, units, unit_px),
    )
    angle = stream(scene.key, "medulla").uniform(0, np.pi)
    base = partial(_lay_tubules, ground, angle)
    return Plan(scene=scene, ground=ground, units=units, unit_px=unit_px, objects=objects, base=base)


def _lay_tubules(ground: Ground, angle: float, frame: Frame, depth_HW: np.ndarray) -> Layers:
    """Tubules: round ones in the cortex, long straight ones in the medulla."""
    layers = blank_layers(frame, depth_HW, cyto=0.3, nuclei=0.15)
    medulla_HW = None
    if ground.medulla is not None:
        soft_px = frame.scene.px(150)
        medulla_HW = ground.on(ground.medulla, frame) + soft_px * frame.noise("medulla ray", frame.scene.px(700))
    if medulla_HW is None or medulla_HW.min() <= 0:
        cells = frame.cells("tubules", 62)
        _lay_cells(layers, cells, wall_um=3, lumen_um=19, share_open=0.65, tint=(0.55, 0.85), where_HW=None)
    if medulla_HW is not None and medulla_HW.max() > 0:
        cells = frame.cells("loops", 42, angle=angle, stretch=5)
        inside = medulla_HW > 0
        _lay_cells(layers, cells, wall_um=4, lumen_um=12, share_open=0.8, tint=(0.42, 0.6), where_HW=inside)
    return layers


def _lay_cells(
    layers: Layers,
    cells: Cells,
    *,
    wall_um: float,
    lumen_um: float,
    share_open: float,
    tint: tuple[float, float],
    where_HW: np.ndarray | None,
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
    is_open = uniform_at(scene.seed("open tubule"), cells.rows, cells.columns) < share_open
    open_HW = frame.pick(as_level(is_open * (_OPEN / 255))[cells.label], cells.factor)
    code = cv2.add(np.minimum(border_um, 127).astype(np.uint8), open_HW)
    shade = tint[0] + (tint[1] - tint[0]) * uniform_at(scene.seed("tint"), cells.rows, cells.columns)
    shade_HW = frame.enlarge(as_level(shade)[cells.label], cells.factor)
    for name, profile in profiles.items():
        level = cv2.LUT(code, as_level(profile))
        if name == "cyto":
            level = np.where(cv2.LUT(code, (wall & ~hollow).astype(np.uint8)) > 0, shade_HW, level)
        target = getattr(layers, name)
        np.copyto(target, level, where=True if where_HW is None else where_HW)


def _draw_glomerulus(rng: np.random.Generator, layers: Layers, centre: np.ndarray, index: int) -> None:
    px = layers.frame.scene.px
    outer = blob_outline(
        rng, (centre[0], centre[1]), px(rng.uniform(80, 110)), wobble=0.05, stretch=rng.uniform(1, 1.2)
    )
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
